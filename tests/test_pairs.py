"""The pair graph against ASE's neighbour list, for any cell and any periodicity."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.neighborlist import neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import crystals, random_crystal, random_molecule, seeds
from torch.utils._python_dispatch import TorchDispatchMode

from hip_ext.errors import StructureError
from hip_ext.pairs import PairGraph, pair_graph
from hip_ext.structures import Structures


def listed(graph: PairGraph) -> dict[tuple[int, ...], np.ndarray]:
    """Both directions of every pair: (i, j, S) to vector."""
    centre, neighbour, shift, vector = (x.numpy() for x in graph.directed())
    keys = [(int(i), int(j), *map(int, s)) for i, j, s in zip(centre, neighbour, shift, strict=True)]
    assert len(set(keys)) == len(keys), "a pair is listed twice"
    return dict(zip(keys, vector, strict=True))


def assert_same_as_ase(atoms: Atoms, cutoff: float) -> None:
    found = listed(pair_graph(Structures.from_ase(atoms), cutoff))
    i, j, shift, vector = neighbor_list("ijSD", atoms, cutoff)
    expected = {(int(a), int(b), *map(int, s)): v for a, b, s, v in zip(i, j, shift, vector, strict=True)}
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=0, atol=1e-10)


@given(crystals(), st.floats(0.5, 7.0))
@settings(max_examples=25, deadline=None)
def test_agrees_with_ase_for_any_cell(atoms, cutoff):
    assert_same_as_ase(atoms, cutoff)


@given(st.integers(1, 12), seeds, st.floats(0.5, 9.0))
@settings(max_examples=10, deadline=None)
def test_agrees_with_ase_for_molecules(n, seed, cutoff):
    assert_same_as_ase(random_molecule(n, seed), cutoff)


def test_directions_that_are_not_periodic_may_have_a_vector_or_none():
    atoms = random_crystal(3, 5, (1, 0, 1))
    expected = listed(pair_graph(Structures.from_ase(atoms), 4.0))
    for other in ([0, 0, 0], [0.3, 9.0, -2.0]):
        changed = atoms.copy()
        changed.cell[1] = other
        found = listed(pair_graph(Structures.from_ase(changed), 4.0))
        assert found.keys() == expected.keys()
        assert all(np.allclose(found[k], expected[k], rtol=0, atol=1e-12) for k in expected)


def test_an_atom_and_its_own_images():
    """Copper at 3.61 Å: half of 12 neighbours at a/√2, 6 at a, 24 at a√1.5."""
    graph = pair_graph(Structures.from_ase(bulk("Cu", a=3.61)), 4.5)
    assert (graph.first == 0).all() and (graph.second == 0).all()
    shells = torch.bincount((graph.distance * 100).round().long())
    assert shells[255] == 6 and shells[361] == 3 and shells[442] == 12 and len(graph.first) == 21


@given(seeds, st.integers(-9, 9), st.integers(-9, 9), st.integers(-9, 9))
@settings(max_examples=10, deadline=None)
def test_lattice_shifts_of_an_atom_change_shifts_only(seed, a, b, c):
    atoms = random_crystal(3, seed)
    moved = atoms.copy()
    moved.positions[1] += np.array([a, b, c]) @ atoms.cell.array
    before, after = (
        listed(pair_graph(Structures.from_ase(atoms), 4.0)),
        listed(pair_graph(Structures.from_ase(moved), 4.0)),
    )
    home = np.zeros((3, 3), int)
    home[1] = (a, b, c)
    renamed = {(i, j, *(np.array(s) + home[i] - home[j])): v for (i, j, *s), v in before.items()}
    assert renamed.keys() == after.keys()
    assert all(np.allclose(after[k], renamed[k], rtol=0, atol=1e-11) for k in renamed)


@given(seeds)
@settings(max_examples=10, deadline=None)
def test_each_pair_is_written_in_one_way(seed):
    graph = pair_graph(Structures.from_ase(random_crystal(3, seed)), 5.0)
    own = graph.first == graph.second
    assert (graph.first <= graph.second).all()
    assert all(tuple(s) > (0, 0, 0) for s in graph.shift[own].tolist())
    assert own.any()


def test_infinite_cutoff_takes_all_pairs_of_molecules():
    many = [random_molecule(n, n) for n in (1, 5, 2, 7)]
    many[1].positions *= 50
    graph = pair_graph(Structures.from_ase(many), math.inf)
    starts = np.cumsum([0, 1, 5, 2])
    expected = {(s + i, s + j) for s, n in zip(starts, (1, 5, 2, 7), strict=True) for i, j in combinations(range(n), 2)}
    assert set(zip(graph.first.tolist(), graph.second.tolist(), strict=True)) == expected
    with pytest.raises(StructureError, match="give a finite cutoff"):
        pair_graph(Structures.from_ase([many[0], random_crystal(2, 0)]), math.inf)


def test_a_mixed_batch_has_the_pairs_of_its_structures():
    many = [
        random_molecule(4, 1),
        random_crystal(3, 2),
        Atoms("He"),
        random_crystal(2, 3, (0, 1, 0)),
        random_molecule(3, 4),
    ]
    expected: dict[tuple[int, ...], np.ndarray] = {}
    start = 0
    for atoms in many:
        alone = listed(pair_graph(Structures.from_ase(atoms), 4.0))
        expected |= {(i + start, j + start, *s): v for (i, j, *s), v in alone.items()}
        start += len(atoms)
    found = listed(pair_graph(Structures.from_ase(many), 4.0))
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[k], expected[k]) for k in expected)


def test_within_keeps_rows_and_the_shorter_cutoff():
    graph = pair_graph(Structures.from_ase(random_crystal(4, 7)), 5.0)
    near, rows = graph.within(3.0)
    assert near.cutoff == 3.0 and (near.distance < 3.0).all()
    assert torch.equal(near.vector, graph.vector[rows]) and torch.equal(near.shift, graph.shift[rows])
    assert len(rows) == int((graph.distance < 3.0).sum()) > 0


def test_distances_can_be_differentiated():
    structures = Structures.from_ase(random_crystal(3, 11))
    positions = structures.positions.requires_grad_(True)

    def distances(x):
        return pair_graph(structures.with_positions(x), 3.5).distance

    assert torch.autograd.gradcheck(distances, (positions,))


@pytest.mark.parametrize("pbc", [False, True])
def test_two_atoms_on_one_spot_are_named(pbc):
    water = molecule("H2O")
    other = Atoms("CHe", [[0, 0, 0], [0, 0.1, 0]], cell=np.eye(3) * 4, pbc=pbc)
    with pytest.raises(StructureError, match=r"atoms 0 and 1 are 0\.100 Å apart$"):
        pair_graph(Structures.from_ase([water, other]), 3.0)
    if pbc:
        other.positions[1] = [4.0, 8.1, -4.0]
        with pytest.raises(StructureError, match="on one spot"):
            pair_graph(Structures.from_ase(other), 3.0)


class LargestTensor(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that is made inside the block."""

    def __init__(self):
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else (out,):
            if isinstance(x, torch.Tensor):
                self.size = max(self.size, x.numel())
        return out


def test_candidates_grow_with_the_sum_of_squares():
    many = [random_molecule(3 + k % 8, k) for k in range(120)]
    squares, all_squared = sum(len(a) ** 2 for a in many), sum(len(a) for a in many) ** 2
    assert all_squared > 60 * squares
    structures = Structures.from_ase(many)
    with LargestTensor() as largest:
        pair_graph(structures, 5.0)
    assert squares <= largest.size <= 3 * squares
