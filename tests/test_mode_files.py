"""Files of modes, read back by other programs: Molden, Jmol, ASE, GoodVibes, cclib."""

import ase.io
import numpy as np
import pytest
from ase import units
from ase.build import molecule
from ase.vibrations import VibrationsData
from numpy.testing import assert_allclose

from hip_ext.backbones.frameworks import installed_version
from hip_ext.errors import DataError
from hip_ext.vibrations import (
    analyse,
    point_group,
    thermochemistry,
)
from hip_ext.vibrations.gaussian_log import gaussian_log
from hip_ext.vibrations.mode_files import mode_frames, write_modes

needs_pymsym = pytest.mark.skipif(installed_version("pymsym") is None, reason="needs pymsym")


def positive(n, seed=0):
    matrix = np.random.default_rng(seed).normal(size=(3 * n, 3 * n))
    return matrix @ matrix.T + np.eye(3 * n)


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
