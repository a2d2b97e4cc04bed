"""Stationary points, isotopes, point groups, checks of a Hessian, and files of modes."""

import json

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.data import g2
from ase.vibrations import VibrationsData
from numpy.testing import assert_allclose
from scipy.spatial.transform import Rotation
from toy_backbone import ToyBackbone

from hip_ext import attach_head
from hip_ext.backbones.frameworks import installed_version
from hip_ext.errors import DataError, MissingDependencyError, StructureError
from hip_ext.reference import autograd_hessian, hessian_vector_product
from hip_ext.structures import Structures
from hip_ext.vibrations import (
    analyse,
    consistency,
    isotope_masses,
    lowest_mode_check,
    point_group,
    stationary_point,
    thermochemistry,
)
from hip_ext.vibrations.gaussian_log import gaussian_log
from hip_ext.vibrations.mode_files import mode_frames, write_modes
from hip_ext.vibrations.verified import verified_vibrations

needs_pymsym = pytest.mark.skipif(installed_version("pymsym") is None, reason="needs pymsym")


def random_symmetric(n, seed=0):
    matrix = np.random.default_rng(seed).normal(size=(3 * n, 3 * n))
    return matrix + matrix.T


def positive(n, seed=0):
    matrix = np.random.default_rng(seed).normal(size=(3 * n, 3 * n))
    return matrix @ matrix.T + np.eye(3 * n)


# Stationary points


def test_kind_of_a_point_depends_on_both_thresholds():
    atoms = molecule("H2O")
    bent = random_symmetric(3)
    order = int((analyse(atoms, bent).frequencies < 0).sum())
    assert order > 0
    weak, strong = np.full((3, 3), 0.01), np.full((3, 3), 1.0)
    assert stationary_point(analyse(atoms, positive(3), forces=weak)).kind == "minimum"
    assert stationary_point(analyse(atoms, bent, forces=weak)).kind == f"saddle point of order {order}"
    point = stationary_point(analyse(atoms, bent, forces=strong))
    assert (point.kind, point.order, point.is_stationary) == ("not stationary", order, False)
    assert_allclose(point.largest_force, 3**0.5)
    assert stationary_point(analyse(atoms, bent, forces=strong), force_limit=2.0).is_stationary
    assert stationary_point(analyse(atoms, bent, forces=weak), threshold=1e5).kind == "minimum"
    unknown = stationary_point(analyse(atoms, bent))
    assert unknown.is_stationary is None and unknown.kind == f"saddle point of order {order}"


# Isotopes


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


# Point groups


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
    for noise in (0.0, 1e-3, 5e-3):
        moved = atoms.copy()
        turn = Rotation.random(random_state=3).as_matrix()
        moved.positions = (atoms.positions + rng.normal(0, noise, atoms.positions.shape)) @ turn.T + 7.0
        if len(atoms) > 2 or noise == 0:
            found = point_group(moved) if noise == 0 or group not in ("Dinfh", "Cinfv") else point_group(atoms)
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


# Checks


@pytest.fixture(scope="module")
def toy():
    return attach_head(ToyBackbone.load(dtype=torch.float64))


@pytest.mark.parametrize("name", ["CH3OH", "CO2", "C2H2", "H2O"])
def test_exact_hessian_passes_every_check_at_any_geometry(toy, name):
    """Rotations too: how the gradient turns is taken into account."""
    atoms = molecule(name)
    atoms.rattle(0.05 if name in ("CH3OH", "H2O") else 0.0, seed=1)
    found = verified_vibrations(toy, atoms, method="autograd")
    assert found.vibrations.force_residual > 0.05
    assert {flag.name: flag.ok for flag in found.flags} == {
        "residual force": False, "translations": True, "rotations": True,
    }  # fmt: skip
    assert_allclose(found.vibrations.defects, 0, atol=1e-9)
    assert not found.ok and found.method == "autograd"


def test_lowest_mode_is_compared_with_one_exact_product(toy):
    atoms = molecule("CH3OH")
    structures = Structures.from_ase(atoms)
    exact = autograd_hessian(toy.backbone, structures).numpy()
    noisy = exact + 0.3 * random_symmetric(6, seed=4)
    vibrations = analyse(atoms, noisy)
    product = hessian_vector_product(toy.backbone, structures, torch.as_tensor(vibrations.lowest_mode)).numpy()
    check = lowest_mode_check(vibrations, product)
    x = vibrations.lowest_mode.ravel()
    found = x @ exact @ x
    assert_allclose(check.exact, np.sign(found) * 521.470898 * abs(found) ** 0.5, rtol=1e-7)
    # The quotient is a bound from above for the lowest exact mode, and an exact eigenvalue lies within the residual.
    assert check.exact >= analyse(atoms, exact).frequencies[0] - 1e-6
    weighted = exact / np.sqrt(np.outer(*[np.repeat(atoms.get_masses(), 3)] * 2))
    assert np.abs(np.linalg.eigvalsh(weighted) - vibrations.eigenvalues[0]).min() <= check.residual + 1e-12
    own = analyse(atoms, exact)
    product = hessian_vector_product(toy.backbone, structures, torch.as_tensor(own.lowest_mode)).numpy()
    same = lowest_mode_check(own, product)
    assert_allclose(same.exact, same.predicted, rtol=1e-9)
    assert consistency(own, same)[-1].ok
    with pytest.raises(DataError, match="H·x must be 6 × 3"):
        lowest_mode_check(own, product[:3])


def test_failed_prediction_is_marked_or_replaced(toy):
    """An untrained head predicts nonsense."""
    atoms = molecule("CH3OH")
    marked = verified_vibrations(toy, atoms)
    assert marked.method == "direct" and not marked.replaced and not marked.ok
    assert any(flag.concerns == "hessian" and not flag.ok for flag in marked.flags)
    replaced = verified_vibrations(toy, atoms, fallback=True)
    exact = autograd_hessian(toy.backbone, Structures.from_ase(atoms)).numpy()
    assert replaced.method == "autograd" and replaced.replaced
    assert_allclose(replaced.hessian, exact, atol=1e-12)
    assert_allclose(replaced.vibrations.frequencies, analyse(atoms, exact).frequencies, rtol=1e-9)
    assert all(flag.ok for flag in replaced.flags if flag.concerns == "hessian")


def test_checks_without_forces_or_modes(toy):
    names = [flag.name for flag in consistency(analyse(molecule("H2O"), positive(3)))]
    assert names == ["translations", "rotations"]
    single = verified_vibrations(toy, Atoms("H", positions=[[0, 0, 0]]))
    assert [flag.name for flag in single.flags] == ["residual force", "translations"]
    unmade = consistency(analyse(molecule("H2O"), positive(3)), "no second derivatives")[-1]
    assert not unmade.ok and unmade.value is None and "no second derivatives" in unmade.text


# Files


def absorbing(name="CH3OH"):
    atoms = molecule(name)
    slopes = np.random.default_rng(5).normal(size=(3, len(atoms), 3))
    return analyse(atoms, 20 * positive(len(atoms)), dipole_derivatives=slopes)


def test_modes_survive_their_files(tmp_path):
    vibrations = absorbing()
    files = write_modes(tmp_path / "modes", vibrations)
    assert {path.name for path in files} == {path.name for path in (tmp_path / "modes").iterdir()}
    assert len(files) == 3 + 12

    with (tmp_path / "modes/vibrations.json").open() as file:
        data = ase.io.jsonio.read_json(file)
    assert isinstance(data, VibrationsData)
    assert_allclose(np.sort(data.get_frequencies().real)[6:], vibrations.frequencies, rtol=1e-6)

    unit = vibrations.modes * vibrations.reduced_masses[:, None, None] ** 0.5
    jmol = (tmp_path / "modes/modes.xyz").read_text().splitlines()
    assert len(jmol) == 12 * 8
    rows = np.array([line.split()[1:] for line in jmol[8 * 4 + 2 : 8 * 5]], dtype=float)
    assert_allclose(rows, np.hstack((vibrations.atoms.positions, unit[4])), atol=1e-7)

    text = (tmp_path / "modes/modes.molden").read_text()
    sections = {part.split("]")[0]: part.split("]")[1].split("\n")[1:-1] for part in text.split("[")[1:]}
    assert_allclose(np.array(sections["FREQ"], dtype=float), vibrations.frequencies, atol=1e-4)
    assert_allclose(np.array(sections["INT"], dtype=float), vibrations.intensities, atol=1e-4)
    places = np.array([line.split()[1:] for line in sections["FR-COORD"]], dtype=float)
    assert_allclose(places * units.Bohr, vibrations.atoms.positions, atol=1e-7)
    shown = np.array([line.split() for line in sections["FR-NORM-COORD"] if "vib" not in line], dtype=float)
    assert_allclose(shown.reshape(12, 6, 3), unit, atol=1e-7)

    frames = ase.io.read(tmp_path / "modes/mode_005.traj", index=":")
    moved = np.array([frame.positions - vibrations.atoms.positions for frame in frames])
    assert_allclose(np.linalg.norm(moved, axis=2).max(), 0.5, rtol=1e-6)
    assert_allclose(moved[6] / np.linalg.norm(moved[6]), unit[4], atol=1e-6)
    assert frames[0].info["frequency"] == pytest.approx(vibrations.frequencies[4])
    assert len(mode_frames(vibrations, 0, frames=7)) == 7


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write modes"):
        write_modes(tmp_path / "file", absorbing("H2O"))


def gas_log(name, energy=-1000.0):
    vibrations = absorbing(name)
    group = point_group(vibrations.atoms)
    (state,) = thermochemistry(vibrations, energy, symmetry_number=group.symmetry_number, spin=0)
    return vibrations, state, gaussian_log(vibrations, energy=energy, group=group, state=state)


@needs_pymsym
@pytest.mark.parametrize("name", ["CH3OH", "CO2", "H2O"])
def test_goodvibes_reads_the_log_and_gets_our_numbers(name, tmp_path):
    goodvibes = pytest.importorskip("goodvibes", reason="needs goodvibes")
    vibrations, _, text = gas_log(name)
    (tmp_path / "gas.log").write_text(text)
    group = point_group(vibrations.atoms)
    for low_modes in ("grimme", "truhlar"):
        theirs = goodvibes.compute_thermo(str(tmp_path / "gas.log"), QS=low_modes, temperature=400.0)
        (mine,) = thermochemistry(
            vibrations,
            -1000.0,
            symmetry_number=group.symmetry_number,
            spin=0,
            temperatures=[400.0],
            low_modes=low_modes,
        )
        assert theirs.program == "Gaussian" and theirs.symmno == group.symmetry_number
        for ours, other in (
            (mine.zero_point_energy, theirs.zpe),
            (mine.enthalpy, theirs.enthalpy),
            (mine.gibbs, theirs.qh_gibbs_free_energy),
        ):
            assert_allclose(ours / units.Hartree, other, rtol=0, atol=1e-6)


@needs_pymsym
@pytest.mark.parametrize("name", ["CH3OH", "CO2"])
def test_cclib_reads_the_log(name, tmp_path):
    cclib = pytest.importorskip("cclib", reason="needs cclib")
    vibrations, state, text = gas_log(name)
    (tmp_path / "gas.log").write_text(text)
    data = cclib.io.ccread(str(tmp_path / "gas.log"))
    assert data.metadata["success"] and data.charge == 0 and data.mult == 1
    assert_allclose(data.vibfreqs, vibrations.frequencies, atol=1e-4)
    assert_allclose(data.vibirs, vibrations.intensities, atol=1e-4)
    assert_allclose(data.vibrmasses, vibrations.reduced_masses, atol=1e-4)
    unit = vibrations.modes * vibrations.reduced_masses[:, None, None] ** 0.5
    assert_allclose(data.vibdisps, unit, atol=1e-6)
    assert_allclose(data.atomcoords[-1], vibrations.atoms.positions, atol=1e-8)
    assert_allclose(data.freeenergy, state.gibbs / units.Hartree, atol=1e-9)
    assert (data.temperature, data.pressure) == (298.15, 1.0)


def test_ase_reads_the_log(tmp_path):
    vibrations = absorbing("H2O")
    (tmp_path / "gas.log").write_text(gaussian_log(vibrations, energy=-20.0))
    atoms = ase.io.read(tmp_path / "gas.log", format="gaussian-out")
    assert_allclose(atoms.positions, vibrations.atoms.positions, atol=1e-8)
    assert_allclose(atoms.get_potential_energy(), -20.0, atol=1e-6)


def test_flags_are_plain_values():
    from dataclasses import asdict

    flags = consistency(analyse(molecule("H2O"), positive(3), forces=np.zeros((3, 3))))
    json.dumps([asdict(flag) for flag in flags], allow_nan=False)
