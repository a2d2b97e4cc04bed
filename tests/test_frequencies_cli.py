"""`hip-ext frequencies` beyond frequencies: checks, isotopes, intensities, thermochemistry, files, bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.io import read, write
from numpy.testing import assert_allclose
from typer.testing import CliRunner

from hip_ext import attach_head, shipped
from hip_ext.backbones.frameworks import installed_version
from hip_ext.cli import app
from hip_ext.vibrations import analyse, thermochemistry

pytest.importorskip("so3krates_torch", reason="needs so3krates-torch")
needs_pymsym = pytest.mark.skipif(installed_version("pymsym") is None, reason="needs pymsym")

WATER = shipped.molecules_folder() / "water.xyz"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A head with random weights on SO3LR: its Hessians fail every check."""
    folder = tmp_path_factory.mktemp("checkpoints") / "untrained"
    attach_head("so3lr", dtype=torch.float64).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def exact(checkpoint, tmp_path_factory) -> Path:
    """The exact Hessian of water, as `hip-ext hessian` writes it."""
    path = tmp_path_factory.mktemp("hessians") / "water.npz"
    run("hessian", WATER, "-m", checkpoint, "--method", "autograd", "--out", path)
    return path


def run(*arguments: object, code: int = 0):
    result = CliRunner().invoke(app, [str(a) for a in arguments], prog_name="hip-ext")
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code == code, result.output
    return result


def found(*arguments: object) -> list[dict]:
    return json.loads(run("frequencies", *arguments, "--json").stdout)


def refused(*arguments: object) -> str:
    result = run("frequencies", *arguments, code=2)
    lines = [line for line in result.stderr.splitlines() if "warning: the head is untrained" not in line]
    assert len(lines) == 1 and lines[0].startswith("hip-ext: error: "), result.stderr
    assert result.stdout == ""
    return lines[0]


def test_failed_prediction_is_marked_and_replaced_on_demand(checkpoint, exact):
    (marked,) = found(WATER, "-m", checkpoint)
    assert marked["method"] == "direct" and not marked["ok"] and marked["replaced"] == []
    assert [flag["name"] for flag in marked["flags"]] == ["residual force", "translations", "rotations", "lowest mode"]
    assert "check failed: lowest mode" in run("frequencies", WATER, "-m", checkpoint).stdout
    (replaced,) = found(WATER, "-m", checkpoint, "--verify", "exact")
    assert replaced["method"] == "autograd" and replaced["ok"] and any("lowest mode" in t for t in replaced["replaced"])
    with np.load(exact) as file:
        expected = analyse(read(WATER), file["hessian_0"]).frequencies
    assert_allclose(replaced["frequencies"], expected, atol=1e-6)
    assert (replaced["kind"], replaced["order"]) == ("minimum", 0)
    shown = run("frequencies", WATER, "-m", checkpoint, "--verify", "exact").stdout
    assert "replaced by the exact Hessian" in shown and "checks passed" in shown


@needs_pymsym
def test_everything_at_once_and_its_files(checkpoint, tmp_path):
    log, folder, out = tmp_path / "w.log", tmp_path / "modes", tmp_path / "w.npz"
    shown = run(
        "frequencies", WATER, "-m", checkpoint, "--method", "autograd", "--ir", "-T", 298.15, "-T", 500, "-P", 1e5,
        "--low-modes", "grimme", "--scale", 0.96, "--isotopes", "D", "--gaussian-log", log, "--molden",
        tmp_path / "w.molden", "--modes", folder, "--out", out,
    ).stdout  # fmt: skip
    for words in ("km/mol", "minimum (threshold 10 cm⁻¹)", "point group C2v, symmetry number 2", "500.00", "× 0.96"):
        assert words in shown
    with np.load(out) as file:
        heavy = read(WATER)
        masses = np.where(heavy.numbers == 1, 2.01410177812, heavy.get_masses())
        expected = analyse(heavy, file["hessian_0"], masses=masses).scaled(0.96)
        assert_allclose(file["frequencies_0"], expected.frequencies, rtol=1e-9)
        assert (file["intensities_0"] > 1).all()
    assert "Normal termination" in log.read_text() and "[FREQ]" in (tmp_path / "w.molden").read_text()
    assert (folder / "mode_003.traj").is_file()


def test_hessian_from_a_file_needs_no_model(exact):
    (one,) = found(WATER, "--hessian", exact, "-T", 400, "--symmetry-number", 2, "-m", "nothing", "--multiplicity", 3)
    atoms = read(WATER)
    with np.load(exact) as file:
        vibrations = analyse(atoms, file["hessian_0"])
    (expected,) = thermochemistry(vibrations, 0.0, symmetry_number=2, spin=1, temperatures=[400])
    assert_allclose(one["thermochemistry"][0]["gibbs"], expected.gibbs, rtol=1e-9)
    assert "forces not known" in run("frequencies", WATER, "--hessian", exact).stdout


def test_free_atoms_and_frames_of_their_own(exact, tmp_path):
    with np.load(exact) as file:
        matrix = file["hessian_0"]
    np.save(tmp_path / "w.npy", matrix)
    np.savetxt(tmp_path / "w.txt", matrix)
    for name in ("w.npy", "w.txt"):
        (one,) = found(WATER, "--hessian", tmp_path / name, "--free", "1-2")
        assert_allclose(one["frequencies"], analyse(read(WATER), matrix, indices=[1, 2]).frequencies, rtol=1e-9)
    write(tmp_path / "two.xyz", [read(WATER), read(WATER)])
    np.savez(tmp_path / "two.npz", hessian_0=matrix, hessian_1=-matrix)
    common = (tmp_path / "two.xyz", "--hessian", tmp_path / "two.npz", "-T", 300, "--symmetry-number", 2)
    good, bad = found(*common, "--molden", tmp_path / "w.molden")
    assert len(good["thermochemistry"]) == 1 and good["kind"] == "minimum"
    assert bad["thermochemistry"] == [] and "no imaginary mode, found 3" in bad["thermochemistry_refused"]
    assert bad["kind"] == "saddle point of order 3"
    assert (tmp_path / "w_0.molden").is_file() and (tmp_path / "w_1.molden").is_file()


def test_bad_input_is_one_line(exact, tmp_path):
    given = (WATER, "--hessian", exact)
    write(tmp_path / "ammonia.xyz", molecule("NH3"))
    write(tmp_path / "cu.extxyz", bulk("Cu", cubic=True))
    write(tmp_path / "hcl.xyz", molecule("HCl"))
    write(tmp_path / "two.xyz", [read(WATER)] * 2)
    np.save(tmp_path / "cu.npy", np.eye(12))
    block = 30 * np.diag([0.0, 0, 1])
    np.save(tmp_path / "hcl.npy", np.block([[block, -block], [-block, block]]))
    (tmp_path / "broken.npz").write_bytes(b"PK not a zip")
    (tmp_path / "object.npy").write_bytes(np.lib.format.magic(1, 0) + b"\x10\x00{'descr': '|O'}\n")
    assert "must have shape (12, 12), found (9, 9)" in refused(tmp_path / "ammonia.xyz", "--hessian", exact)
    assert "1 Hessians for 2 structures" in refused(tmp_path / "two.xyz", "--hessian", exact)
    (tmp_path / "empty.txt").write_text("\n")
    for name in ("broken.npz", "object.npy", "missing.npy", "empty.txt"):
        assert f"cannot read {tmp_path / name}" in refused(WATER, "--hessian", tmp_path / name)
    assert "found '.csv'" in refused(WATER, "--hessian", tmp_path / "h.csv")
    assert "--temperature must be a positive number, found 0" in refused(*given, "-T", 0)
    assert "--temperature must be a positive number, found -300" in refused(*given, "-T", 300, "-T", -300)
    assert "--pressure must be" in refused(*given, "-T", 300, "-P", 0)
    assert "--scale must be" in refused(*given, "--scale", 0)
    assert "--cutoff must be" in refused(*given, "--cutoff", -1)
    assert "write atoms, counted from 0" in refused(*given, "--free", "one")
    assert "between 0 and 2" in refused(*given, "--free", "1-7")
    assert "isotopes: cannot read" in refused(*given, "--isotopes", "Q")
    assert "use phonons for a crystal" in refused(tmp_path / "cu.extxyz", "--hessian", tmp_path / "cu.npy", "-T", 300)
    line = refused(tmp_path / "hcl.xyz", "--hessian", tmp_path / "hcl.npy", "-T", 300, "--symmetry-number", 2)
    assert "HCl is linear with point group Cinfv, whose symmetry number is 1, found 2" in line.replace("ClH", "HCl")
    assert "--hessian uses no model" in refused(*given, "--ir")
    assert "give one of them" in refused(WATER, "--compare", "autograd", "--verify", "exact")
    assert "its folder does not exist" in refused(*given, "--gaussian-log", tmp_path / "no/w.log")
    assert not list(tmp_path.glob("*.log"))


def test_single_atom(tmp_path):
    write(tmp_path / "ar.xyz", Atoms("Ar"))
    np.save(tmp_path / "ar.npy", np.zeros((3, 3)))
    (one,) = found(tmp_path / "ar.xyz", "--hessian", tmp_path / "ar.npy", "-T", 298.15, "-P", 1e5)
    assert (one["frequencies"], one["point_group"], one["kind"]) == ([], "Kh", "minimum")
    assert_allclose(one["thermochemistry"][0]["entropy"] / (units.J / units.mol), 154.846, atol=0.003)
