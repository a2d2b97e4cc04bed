"""Structures as tensors, and everything that is refused before a number is made from it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from hip_ext.errors import HipExtError, StructureError
from hip_ext.structures import Structures, total_charge, unpaired_electrons


def test_reads_a_batch_of_molecules_and_crystals():
    water, copper, helium = molecule("H2O"), bulk("Cu"), Atoms("He", [[1.0, 2.0, 3.0]])
    water.info["charge"] = -1
    water.info["multiplicity"] = 2
    found = Structures.from_ase([water, copper, helium])
    assert found.num_atoms == 5 and found.num_systems == 3 and found.sizes == [3, 1, 1]
    assert found.numbers.tolist() == [8, 1, 1, 29, 2] and found.numbers.dtype == torch.int64
    assert found.batch.tolist() == [0, 0, 0, 1, 2] and found.ptr.tolist() == [0, 3, 4, 5]
    assert found.charge.tolist() == [-1, 0, 0] and found.unpaired.tolist() == [1, 0, 0]
    assert found.pbc.tolist() == [[False] * 3, [True] * 3, [False] * 3]
    np.testing.assert_array_equal(found.cell[1].numpy(), copper.cell.array)
    np.testing.assert_array_equal(
        found.positions.numpy(), np.concatenate([a.positions for a in (water, copper, helium)])
    )
    assert found.positions.dtype == torch.float64


def test_to_changes_real_numbers_only():
    found = Structures.from_ase(bulk("Cu")).to(dtype=torch.float32)
    assert {found.positions.dtype, found.cell.dtype, found.charge.dtype, found.unpaired.dtype} == {torch.float32}
    assert found.numbers.dtype == found.ptr.dtype == found.batch.dtype == torch.int64 and found.pbc.dtype == torch.bool
    assert Structures.from_ase(bulk("Cu"), dtype=torch.float32).positions.dtype == torch.float32


def test_with_positions_changes_nothing_else():
    before = Structures.from_ase(molecule("H2O"))
    after = before.with_positions(before.positions + 1)
    assert after.numbers is before.numbers
    torch.testing.assert_close(after.positions, before.positions + 1)
    torch.testing.assert_close(before.positions, torch.as_tensor(molecule("H2O").positions))


@pytest.mark.parametrize(
    ("info", "charge", "unpaired"),
    [
        ({}, 0, 0),
        ({"charge": 1, "spin": 2}, 1, 1),
        ({"charge": -1.0, "total_spin": 0.5}, -1, 1),
        ({"multiplicity": 3, "spin": 1}, 0, 2),
        ({"spin": 0}, 0, 0),
        ({"total_spin": 1, "multiplicity": 1}, 0, 2),
    ],
)
def test_charge_and_spin_conventions(info, charge, unpaired):
    atoms = Atoms("O2", [[0, 0, 0], [0, 0, 1.2]], info=info)
    assert total_charge(atoms) == charge and unpaired_electrons(atoms) == unpaired
    found = Structures.from_ase(atoms)
    assert float(found.charge) == charge and float(found.unpaired) == unpaired


def changed(**changes) -> Atoms:
    atoms = molecule("H2O")
    atoms.set_cell(np.eye(3) * 5)
    for name, value in changes.items():
        setattr(atoms, name, value)
    return atoms


BAD = {
    "nothing": ([], "no structure given: expected at least one ase.Atoms"),
    "a path": ("water.xyz", "is not an ase.Atoms but a str"),
    "none": (None, "is not an ase.Atoms but a NoneType"),
    "a list of words": ([molecule("H2O"), "H2O"], "structure 1 is not an ase.Atoms but a str"),
    "no atoms": (Atoms(), "structure is empty"),
    "one of two": ([molecule("H2O"), Atoms()], "structure 1 is empty"),
    "a position": (changed(positions=[[0, 0, 0], [0, np.nan, 0], [1, 0, 0]]), "not a finite number: atom 1 at"),
    "infinity": (changed(positions=[[0, 0, 0], [1, 0, 0], [np.inf, 0, 0]]), "not a finite number: atom 2 at"),
    "the cell": (changed(cell=np.diag([1, np.nan, 1])), "cell that is not finite"),
    "a dummy": (changed(numbers=[8, 0, 1]), "no element at atom 1: atomic number 0"),
    "no element": (changed(numbers=[8, 1, 119]), "no element at atom 2: atomic number 119"),
    "no cell": (Atoms("He", pbc=True), "its cell spans no volume there"),
    "a flat cell": (changed(cell=[[1, 0, 0], [2, 0, 0], [0, 0, 1]], pbc=True), "its cell spans no volume there"),
    "half a charge": (changed(info={"charge": 0.5}), "whole charge .* found charge 0.5"),
    "a nan charge": (changed(info={"charge": np.nan}), "whole charge .* found charge nan"),
    "an infinite charge": (changed(info={"charge": np.inf}), "whole charge .* found charge inf"),
    "a nan spin": (changed(info={"total_spin": np.nan}), "nan unpaired electrons"),
    "a word": (changed(info={"charge": "plus"}), "charge or spin that is not a number"),
    "nothing as charge": (changed(info={"charge": None}), "charge or spin that is not a number"),
    "a quarter spin": (changed(info={"total_spin": 0.25}), "whole number of unpaired electrons, found"),
    "a negative spin": (changed(info={"total_spin": -1}), "whole number of unpaired electrons, found"),
    "too few electrons": (changed(info={"charge": 11}), r"charge \+11 but only 10 electrons to lose"),
    "a doublet of ten": (changed(info={"multiplicity": 2}), "10 electrons, which cannot leave 1 unpaired"),
    "a triplet of nine": (changed(info={"spin": 3, "charge": 1}), "9 electrons, which cannot leave 2 unpaired"),
    "more than there are": (Atoms("H", info={"total_spin": 1.5}), "1 electrons, which cannot leave 3 unpaired"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(name):
    atoms, message = BAD[name]
    with pytest.raises(StructureError, match=message) as caught:
        Structures.from_ase(atoms)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, HipExtError) and caught.value.__cause__ is None


def test_a_direction_without_period_needs_no_vector():
    assert Structures.from_ase(Atoms("He", cell=[3, 0, 0], pbc=(True, False, False))).num_atoms == 1
