"""`hip-ext phonons` on a molecular crystal with the head that ships, and whatever it refuses."""

from __future__ import annotations

import json

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from typer.testing import CliRunner

from hip_ext import from_pretrained
from hip_ext.cli import app
from hip_ext.cli.options import DEFAULT_MODEL
from hip_ext.phonons import band_path, phonon_wavenumbers
from hip_ext.shipped import shipped_checkpoints
from hip_ext.testing import methanol_crystal

pytest.importorskip("so3krates_torch", reason="needs so3krates-torch")
if DEFAULT_MODEL not in shipped_checkpoints():
    pytest.skip(f"the checkpoint {DEFAULT_MODEL} is not in checkpoints/", allow_module_level=True)


def hip_ext(*arguments: object, code: int = 0):
    result = CliRunner().invoke(app, ["phonons", *map(str, arguments)], prog_name="hip-ext")
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def crystal(tmp_path_factory):
    path = tmp_path_factory.mktemp("crystal") / "methanol.extxyz"
    ase.io.write(path, methanol_crystal())
    return path


def test_bands_are_those_of_the_models_blocks(crystal, tmp_path):
    arguments = (crystal, "--points", 12, "--dos", "--json")
    found = json.loads(hip_ext(*arguments, "--out", tmp_path / "b.npz", "--plot", tmp_path / "b.png").stdout)
    atoms = ase.io.read(crystal)
    path = band_path(atoms, npoints=12)
    expected = phonon_wavenumbers(from_pretrained(DEFAULT_MODEL).hessian(atoms), atoms.get_masses(), path.kpts)
    written = np.load(tmp_path / "b.npz", allow_pickle=False)
    np.testing.assert_allclose(written["wavenumbers_0"], expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    np.testing.assert_array_equal(written["kpoints_0"], path.kpts)
    assert written["labels_0"].tolist() == list(path.get_linear_kpoint_axis()[2])
    step = np.diff(written["dos_wavenumbers_0"])[0]
    assert written["dos_0"].sum() * step == pytest.approx(18, rel=1e-6)
    assert (found["formula"], found["atoms"], found["path"]) == ("CH4O", 6, path.path)
    np.testing.assert_allclose(
        found["special_points"][path.path[0]], expected[0], rtol=0, atol=1e-6 * np.abs(expected).max()
    )
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")


def test_text_and_a_path_of_ones_own(crystal, tmp_path):
    shown = hip_ext(crystal, "--path", "GX", "--points", 5, "-o", tmp_path / "bands.json").stdout
    assert "phonons along GX" in shown
    assert "not a structure at rest" in shown
    (written,) = json.loads((tmp_path / "bands.json").read_text(encoding="utf-8"))
    assert np.shape(written["wavenumbers"]) == (5, 18)
    assert written["labels"] == ["G", "X"]
    assert written["pbc"] == [True, True, True]


def test_beside_finite_displacements(crystal):
    """The supercell is one cell: what is compared here is the way, not the figures of a head taught on molecules."""
    pytest.importorskip("phonopy", reason="needs phonopy: pip install 'hip-ext[phonons]'")
    arguments = (crystal, "--path", "GX", "--points", 2, "--compare", "displacements", "--width", 4)
    found = json.loads(hip_ext(*arguments, "--json").stdout)
    assert found["supercell"] == [1, 1, 1]
    assert found["displacements"] in range(18, 37)
    assert 0 < found["band_mae"] < found["band_largest_error"]
    shown = hip_ext(*arguments).stdout
    assert "1×1×1 cells" in shown


def test_what_is_refused(crystal, tmp_path):
    def file(name: str, atoms: Atoms | list[Atoms]):
        ase.io.write(tmp_path / name, atoms)
        return tmp_path / name

    flat = methanol_crystal()
    flat.cell[:] = 0
    (tmp_path / "words.txt").write_text("no structure")
    for arguments, message in [
        ((file("molecule.xyz", molecule("H2O")),), "molecule.xyz: a structure that is not periodic has no"),
        ((file("flat.extxyz", flat),), "flat.extxyz: "),
        ((file("two.extxyz", [methanol_crystal()] * 2),), "two.extxyz: phonons are those of one structure, found 2"),
        ((file("salt.extxyz", bulk("NaCl", "rocksalt", 5.6)),), "does not know Na"),
        ((crystal, "--path", "GQ"), "there is no path 'GQ' through this Brillouin zone; its points are"),
        ((crystal, "--path", ","), "there is no path ','"),
        ((crystal, "--path", "G"), "two points at least, found 'G'"),
        ((crystal, "--model", "no-such-model"), "no-such-model"),
        ((crystal, "--out", tmp_path / "bands.extxyz"), "unknown extension '.extxyz', expected one of .npz, .json"),
        ((crystal, "--out", tmp_path / "no/bands.json"), "its folder does not exist"),
        ((crystal, "--plot", tmp_path / "bands.txt"), "unknown extension '.txt'"),
        ((tmp_path / "words.txt",), "words.txt: "),
        ((tmp_path / "absent.cif",), "there is no such file"),
    ]:
        result = hip_ext(*arguments, code=2)
        lines = [line for line in result.stderr.splitlines() if "hip-ext: warning: " not in line]
        assert len(lines) == 1, result.stderr
        assert lines[0].startswith("hip-ext: error: ")
        assert message in lines[0]
        assert result.stdout == ""
    for wrong in (("--points", "1"), ("--width", "0"), ("--compare", "phonopy"), ("--points", "many")):
        assert hip_ext(crystal, *wrong, code=2).stdout == ""
