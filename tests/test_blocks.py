"""Blocks, and every form in which they can be had, against a plain loop over pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from strategies import assert_close, random_crystal, random_molecule
from torch import Tensor

from hip_ext.blocks import HessianBlocks
from hip_ext.pairs import pair_graph
from hip_ext.structures import Structures

BATCHES = {
    "one atom": [Atoms("He")],
    "two atoms": [Atoms("He2", [[0, 0, 0], [0, 0, 1.4]])],
    "a molecule": [random_molecule(6, 1)],
    "a crystal": [random_crystal(3, 2)],
    "one atom of a crystal": [random_crystal(1, 3)],
    "a batch": [
        random_molecule(4, 4),
        Atoms("He"),
        random_crystal(2, 5, (1, 0, 1)),
        Atoms("Ne"),
        random_molecule(5, 6),
    ],
    "atoms out of reach": [Atoms("He3", [[0, 0, 0], [0, 0, 90], [0, 90, 0]])],
}


def random_blocks(many: list[Atoms], seed: int = 0, cutoff: float = 3.5) -> HessianBlocks:
    """Blocks that know nothing of each other, with symmetric diagonals."""
    generator = torch.Generator().manual_seed(seed)
    structures = Structures.from_ase(many)
    graph = pair_graph(structures, cutoff)
    pair = torch.randn(len(graph.first), 3, 3, generator=generator, dtype=torch.float64)
    diagonal = torch.randn(structures.num_atoms, 3, 3, generator=generator, dtype=torch.float64)
    return HessianBlocks(pair, diagonal + diagonal.transpose(1, 2), graph, structures.ptr)


def by_hand(blocks: HessianBlocks) -> Tensor:
    """The matrix over the whole batch, [3N, 3N], pair by pair."""
    n = len(blocks.diagonal)
    out = torch.zeros(n, 3, n, 3, dtype=torch.float64)
    for a in range(n):
        out[a, :, a] += blocks.diagonal[a]
    for a, b, block in zip(blocks.graph.first.tolist(), blocks.graph.second.tolist(), blocks.pair, strict=True):
        out[a, :, b] += block
        out[b, :, a] += block.T
    return out.reshape(3 * n, 3 * n)


@pytest.fixture(params=BATCHES)
def blocks(request) -> HessianBlocks:
    return random_blocks(BATCHES[request.param])


def test_dense_matrices_are_the_sum_of_their_blocks(blocks):
    whole, start = by_hand(blocks), 0
    matrices = blocks.dense_list()
    assert [len(m) for m in matrices] == [3 * n for n in blocks.sizes]
    for found in matrices:
        stop = start + len(found)
        assert_close(found, whole[start:stop, start:stop], 1e-14)
        assert torch.equal(found, found.T)
        start = stop
    if len(matrices) == 1:
        assert torch.equal(blocks.dense(), matrices[0])
    else:
        with pytest.raises(ValueError, match=r"found 5: use dense_list\(\)"):
            blocks.dense()


def test_flat_is_row_by_row(blocks):
    """HORM keeps the Hessian of a structure as a flattened [3n, 3n], and of a batch one after the other."""
    expected = np.concatenate([m.numpy().reshape(-1) for m in blocks.dense_list()])
    np.testing.assert_array_equal(blocks.flat().numpy(), expected)


def test_sparse_matrices_equal_the_dense_one(blocks):
    whole = by_hand(blocks)
    found = blocks.to_torch_bsr()
    assert found.layout == torch.sparse_bsr and found.values().shape[1:] == (3, 3)
    assert_close(found.to_dense(), whole, 1e-14)
    scipy_matrix = blocks.to_scipy_bsr()
    assert scipy_matrix.blocksize == (3, 3) and scipy_matrix.has_sorted_indices
    assert_close(torch.as_tensor(scipy_matrix.toarray()), whole, 1e-14)
    assert len(scipy_matrix.data) <= len(blocks.diagonal) + 2 * len(blocks.pair)


@pytest.mark.parametrize("columns", [None, 1, 4])
def test_products_equal_those_of_the_dense_matrix(blocks, columns):
    n = len(blocks.diagonal)
    shape = (n, 3) if columns is None else (n, 3, columns)
    vector = torch.randn(shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    found = blocks.matvec(vector)
    assert found.shape == vector.shape
    expected = (by_hand(blocks) @ vector.reshape(3 * n, -1)).reshape(shape)
    assert_close(found, expected, 1e-13)
    assert_close(
        torch.as_tensor(blocks.to_scipy_bsr() @ vector.reshape(3 * n, -1).numpy()).reshape(shape), expected, 1e-13
    )


def test_to_changes_the_type_of_the_blocks(blocks):
    single = blocks.to(torch.float32)
    assert single.pair.dtype == single.diagonal.dtype == single.flat().dtype == torch.float32
    assert torch.equal(single.diagonal, blocks.diagonal.float()) and single.graph is blocks.graph


def test_matrices_can_be_differentiated():
    made = random_blocks(BATCHES["a batch"])
    pair, diagonal = made.pair.requires_grad_(True), made.diagonal.requires_grad_(True)
    weight = torch.randn(len(made.flat()), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (HessianBlocks(pair, diagonal, made.graph, made.ptr).flat() * weight).sum().backward()
    parts = [
        w.reshape(3 * n, 3 * n) for w, n in zip(weight.split([9 * n * n for n in made.sizes]), made.sizes, strict=True)
    ]
    whole = torch.block_diag(*parts)
    for p, (a, b) in enumerate(zip(made.graph.first.tolist(), made.graph.second.tolist(), strict=True)):
        there, back = whole[3 * a : 3 * a + 3, 3 * b : 3 * b + 3], whole[3 * b : 3 * b + 3, 3 * a : 3 * a + 3]
        assert_close(pair.grad[p], there + back.T, 1e-14)
    assert_close(diagonal.grad[3], whole[9:12, 9:12], 1e-14)
