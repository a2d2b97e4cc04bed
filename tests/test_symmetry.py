"""Isotopes by their notation; point groups and symmetry numbers of molecules."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.data import g2
from numpy.testing import assert_allclose
from scipy.spatial.transform import Rotation

from hip_ext.backbones.frameworks import installed_version
from hip_ext.errors import MissingDependencyError, StructureError
from hip_ext.vibrations import (
    isotope_masses,
    point_group,
)

needs_pymsym = pytest.mark.skipif(installed_version("pymsym") is None, reason="needs pymsym")


def test_isotopes_are_read_from_left_to_right():
    atoms = molecule("CH3OH")
    light = atoms.get_masses()
    assert_allclose(isotope_masses(atoms, "D")[atoms.numbers == 1], 2.01410177812)
    assert_allclose(isotope_masses(atoms, "D")[atoms.numbers != 1], light[atoms.numbers != 1])
    found = isotope_masses(atoms, "common, 2=D, 1=18O, C=13.5, 3=1.25")
    assert_allclose(found, [13.5, 17.99915961286, 2.01410177812, 1.25, 1.00782503, 1.00782503], rtol=1e-8)
    assert_allclose(isotope_masses(atoms, "12C")[0], 12.0, atol=1e-12)


def test_isotopes_are_those_of_rdkit():
    chem = pytest.importorskip("rdkit.Chem", reason="needs rdkit")
    from hip_ext.vibrations.isotopes import LABELS

    table = chem.GetPeriodicTable()
    for (element, number), mass in LABELS.items():
        assert_allclose(table.GetMassForIsotope(element, number), mass, atol=2e-6)


@pytest.mark.parametrize(
    ("notation", "message"),
    [
        ("Q", "cannot read"), ("13", "no atom of ''"), ("9=D", "there is no atom 9"), ("0=D", "puts H in"),
        ("15N", "no atom of 'N'"), ("99C", "cannot read"), ("H=-1", "positive"), ("H=nan", "positive"),
        ("", "cannot read"), ("H=", "cannot read"), ("D,,", "cannot read"),
    ],
)  # fmt: skip
def test_bad_isotopes_are_one_line(notation, message):
    with pytest.raises(StructureError, match=message) as caught:
        isotope_masses(molecule("CH3OH"), notation)
    assert "\n" not in str(caught.value)


@needs_pymsym
@pytest.mark.parametrize(
    ("name", "group", "number"),
    [
        ("H2O", "C2v", 2), ("NH3", "C3v", 3), ("CH4", "Td", 12), ("C6H6", "D6h", 12), ("C2H6", "D3d", 6),
        ("C2H4", "D2h", 4), ("CH3OH", "Cs", 1), ("H2O2", "C2", 2), ("C3H4_D2d", "D2d", 4), ("CO2", "Dinfh", 2),
        ("HCN", "Cinfv", 1), ("C2H2", "Dinfh", 2), ("O2", "Dinfh", 2), ("HCl", "Cinfv", 1), ("H", "Kh", 1),
    ],
)  # fmt: skip
def test_point_groups_of_textbook_molecules_however_they_stand(name, group, number):
    atoms = molecule(name)
    rng = np.random.default_rng(1)
    linear = group in ("Cinfv", "Dinfh", "Kh")
    for noise in (0.0,) if linear else (0.0, 1e-3, 5e-3):
        moved = atoms.copy()
        turn = Rotation.random(random_state=3).as_matrix()
        moved.positions = (atoms.positions + rng.normal(0, noise, atoms.positions.shape)) @ turn.T + 7.0
        found = point_group(moved)
        assert (found.name, found.symmetry_number) == (group, number)


MISTAKEN = {"BeH": "Cinfv", "CH2NHCH2": "Cs", "N2O": "Cinfv", "C2F4": "D2h"}
"""Where G2's text is at fault: BeH and N2O are linear and not symmetric, aziridine's H is out of its plane; "D2H"."""


@needs_pymsym
def test_point_groups_of_g2_agree_with_its_descriptions():
    """126 molecules that G2 describes like this: Water (H2O), C2v symm."""
    described = {}
    for name, entry in g2.data.items():
        words = entry["description"].replace("*", "inf").split()
        if len(words) > 1 and words[-1].startswith("symm"):
            described[name] = words[-2].rstrip(",")
    assert len(described) == 126
    assert {name: point_group(molecule(name)).name for name in described} == described | MISTAKEN


@needs_pymsym
def test_isotopes_lower_the_symmetry():
    atoms = molecule("CH4")
    for notation, group, number in (("1=D", "C3v", 3), ("1=D,2=D", "C2v", 2), ("1=D,2=T", "Cs", 1), ("D", "Td", 12)):
        atoms.set_masses(isotope_masses(molecule("CH4"), notation))
        found = point_group(atoms)
        assert (found.name, found.symmetry_number) == (group, number)
    carbon_dioxide = molecule("CO2")
    carbon_dioxide.set_masses(isotope_masses(carbon_dioxide, "1=18O"))
    assert point_group(carbon_dioxide).symmetry_number == 1


@needs_pymsym
def test_symmetry_numbers_count_proper_rotations():
    """S4: a ring of four that is turned by quarters and mirrored; two of its four operations are rotations."""
    corner = np.array([1.5, 0.4, 0.7])
    quarter = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, -1]])
    ring = [np.linalg.matrix_power(quarter, k) @ corner for k in range(4)]
    inner = [np.linalg.matrix_power(quarter, k) @ np.array([0.9, -0.5, 0.2]) for k in range(4)]
    found = point_group(Atoms("H4C4", positions=ring + inner))
    assert (found.name, found.symmetry_number) == ("S4", 2)


def test_crystals_have_no_point_group():
    with pytest.raises(StructureError, match="space group"):
        point_group(bulk("Cu"))


def test_missing_pymsym_is_said(monkeypatch):
    monkeypatch.setattr("hip_ext.backbones.frameworks.installed_version", lambda requirement: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'hip-ext\[thermo\]'"):
        point_group(molecule("H2O"))
    assert point_group(molecule("CO2")).symmetry_number == 2
