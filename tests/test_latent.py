"""The three-body part against a plain loop over the neighbourhood of every atom."""

from __future__ import annotations

import pytest
import torch
from ase import Atoms
from strategies import (
    assert_close,
    matrix,
    random_crystal,
    random_features,
    random_head,
    random_molecule,
    three_body_only,
)
from torch import Tensor

from hip_ext.latent import curvature_blocks, find_triplets, neighbourhoods
from hip_ext.pairs import pair_graph
from hip_ext.structures import Structures
from hip_ext.sum_rules import with_acoustic_diagonal

CUTOFF, COORDINATES = 2.4, 3


def random_gradients(edges: int, atoms: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(edges)
    gradients = torch.randn(3, edges, COORDINATES, generator=generator, dtype=torch.float64)
    return gradients, torch.randn(atoms, COORDINATES, generator=generator, dtype=torch.float64)


def by_hand(atoms: Atoms, gradients: Tensor, curvature: Tensor) -> Tensor:
    """Σ_k Σ_c λ_kc g_kc g_kcᵀ folded to the Γ point, with g_kk = −Σ_i g_ki, atom by atom, [3N, 3N]."""
    centre, neighbour, _, _ = pair_graph(Structures.from_ase(atoms), CUTOFF).directed()
    n = len(atoms)
    total = torch.zeros(3 * n, 3 * n, dtype=torch.float64)
    for k in range(n):
        for c in range(COORDINATES):
            vector = torch.zeros(n, 3, dtype=torch.float64)
            for e in torch.nonzero(centre == k).flatten().tolist():
                vector[neighbour[e]] += gradients[:, e, c]
                vector[k] -= gradients[:, e, c]
            total += curvature[k, c] * torch.outer(vector.flatten(), vector.flatten())
    return total


STRUCTURES = {
    "a molecule": random_molecule(7, 1),
    "a crystal": random_crystal(3, 2),
    "one atom of a crystal": random_crystal(1, 4),
    "a slab": random_crystal(2, 5, (1, 1, 0)),
    "two atoms": Atoms("H2", [[0, 0, 0], [0, 0, 1.0]]),
    "one atom": Atoms("H"),
    "atoms out of reach": Atoms("H2", [[0, 0, 0], [0, 0, 30.0]]),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_blocks_are_the_curvature_of_the_coordinates(name):
    """All of the diagonal follows from the translation rule, though nothing was put in to make it hold."""
    structures = Structures.from_ase(STRUCTURES[name])
    graph = pair_graph(structures, 2 * CUTOFF)
    centre, neighbour, shift, _ = graph.within(CUTOFF)[0].directed()
    gradients, curvature = random_gradients(len(centre), structures.num_atoms)
    triplets = find_triplets(graph, centre, neighbour, shift, structures.num_atoms)
    pair = curvature_blocks(neighbourhoods(gradients, triplets), curvature, triplets, len(graph.first))
    found = with_acoustic_diagonal(pair, graph, structures.ptr).dense()
    expected = by_hand(STRUCTURES[name], gradients, curvature)
    assert_close(found, expected, 1e-12, max(1.0, float(expected.abs().max())))


@pytest.mark.parametrize("name", STRUCTURES)
def test_every_pair_of_members_is_found(name):
    """In a graph of twice the cutoff no product of two gradients is lost."""
    structures = Structures.from_ase(STRUCTURES[name])
    graph = pair_graph(structures, 2 * CUTOFF)
    centre, neighbour, shift, _ = graph.within(CUTOFF)[0].directed()
    triplets = find_triplets(graph, centre, neighbour, shift, structures.num_atoms)
    members = torch.bincount(centre, minlength=structures.num_atoms) + 1
    assert len(triplets.block) == int((members * (members - 1) // 2).sum())
    assert len(torch.unique(triplets.block)) == len(triplets.block)


def test_positive_curvatures_give_a_matrix_without_negative_eigenvalues():
    head = three_body_only(random_head())
    head.curvature.weight.zero_()
    head.curvature.bias.abs_()
    atoms = random_molecule(8, 3)
    values = torch.linalg.eigvalsh(matrix(head, random_features(8, 3), atoms))
    assert values[0] > -1e-12 * values[-1] and values[-1] > 0


def test_coordinates_do_not_feel_a_rotation():
    """Internal coordinates keep their values when the molecule turns, whatever the weights: H·(e × x) = 0."""
    atoms = random_molecule(8, 6)
    found = matrix(three_body_only(random_head()), random_features(8, 6), atoms)
    positions = Structures.from_ase(atoms).positions
    axes = torch.eye(3, dtype=torch.float64)
    turns = torch.stack([torch.linalg.cross(a.expand_as(positions), positions).flatten() for a in axes], 1)
    assert_close(found @ turns, torch.zeros_like(turns), 1e-9, float(found.abs().max()))


def test_three_body_blocks_reach_twice_the_cutoff_and_are_not_symmetric():
    head = three_body_only(random_head(cutoff=2.0))
    atoms = random_molecule(12, 5)
    blocks = head(random_features(12, 5), Structures.from_ase(atoms))
    size = blocks.pair.norm(dim=(1, 2))
    beyond = blocks.graph.distance > 2.0
    assert float(size[beyond].max()) > 1e-3 * float(size.median())
    skew = (blocks.pair - blocks.pair.transpose(1, 2)).norm(dim=(1, 2))
    assert float((skew / size.clamp(min=1e-12))[size > 1e-6].median()) > 1e-2
    assert float(blocks.graph.distance.max()) < 4.0
