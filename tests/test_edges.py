"""Node values on directed edges and back, against plain loops; products of the head's algebra against 3×3 matrices."""

from __future__ import annotations

import pytest
import torch
from strategies import assert_close, random_crystal, random_molecule
from torch import Tensor

from hip_ext.edges import Edges
from hip_ext.messages import symmetric_traceless, turn
from hip_ext.pairs import pair_graph
from hip_ext.structures import Structures

STRUCTURES = {
    "a molecule": [random_molecule(7, 1)],
    "a batch": [random_molecule(4, 2), random_crystal(2, 3), random_molecule(1, 4)],
    "no pairs": [random_molecule(1, 5)],
}


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture(params=STRUCTURES)
def edges(request) -> Edges:
    structures = Structures.from_ase(STRUCTURES[request.param])
    pairs = pair_graph(structures, 3.0)
    return Edges.of(pairs, normal(len(pairs.first), 4), normal(len(pairs.first)), structures.num_atoms)


@pytest.mark.parametrize("components", [(), (3,), (3, 3)])
def test_values_travel_between_atoms_and_edges(edges, components):
    atoms, count = normal(*components, edges.num_atoms, 5), len(edges.centre)
    centre, neighbour = edges.centre.tolist(), edges.neighbour.tolist()
    assert torch.equal(edges.at_centre(atoms), atoms[..., centre, :])
    assert torch.equal(edges.at_neighbour(atoms), atoms[..., neighbour, :])
    values = normal(*components, count, 5)
    expected = torch.zeros_like(atoms)
    for e, k in enumerate(centre):
        expected[..., k, :] += values[..., e, :]
    assert_close(edges.total(values), expected, 1e-14, 1.0 + count)
    assert torch.equal(edges.at_centre(atoms), edges.reversed(edges.at_neighbour(atoms)))
    assert torch.equal(edges.reversed(edges.reversed(values)), values)


def test_both_directions_of_a_pair(edges):
    half = len(edges.basis)
    assert torch.equal(edges.centre, edges.neighbour.roll(half)) and torch.equal(
        edges.shift, -edges.shift.roll(half, 0)
    )
    assert torch.equal(edges.vector, -edges.reversed(edges.vector)) and torch.equal(
        edges.unit, -edges.reversed(edges.unit)
    )
    assert torch.equal(edges.fade, edges.reversed(edges.fade))
    assert_close(edges.unit * edges.vector.norm(dim=0), edges.vector, 1e-14, 3.0)
    values, shared = normal(2 * half, 6), normal(half, 6)
    assert torch.equal(edges.with_both(values, shared), values + torch.cat((shared, shared)))


def test_products_are_those_of_matrices():
    matrix, vector = normal(3, 3, 4, 2), normal(3, 4, 2)
    tensors = symmetric_traceless(matrix)
    for n in range(4):
        for c in range(2):
            m, t = matrix[:, :, n, c], tensors[:, :, n, c]
            expected = (m + m.T) / 2 - torch.eye(3, dtype=torch.float64) * m.trace() / 3
            assert_close(t, expected, 1e-14)
            assert_close(turn(tensors, vector)[:, n, c], expected @ vector[:, n, c], 1e-14, 3.0)
