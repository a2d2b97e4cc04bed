"""`hip-ext ts` and `hip-ext irc` on SO3LR with the head that ships: the inversion of ammonia, and bad input."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import read, write
from typer.testing import CliRunner

from hip_ext import shipped
from hip_ext.cli import app
from hip_ext.cli.options import DEFAULT_MODEL
from hip_ext.workflows.reactions.connectivity import aligned_rmsd

for package in ("so3krates_torch", "sella", "geodesic_interpolate"):
    pytest.importorskip(package, reason=f"needs {package}")
pytestmark = pytest.mark.skipif(
    DEFAULT_MODEL not in shipped.shipped_checkpoints(), reason=f"the checkpoint {DEFAULT_MODEL} is not in checkpoints/"
)


def hip_ext(*arguments: object, code: int = 0):
    result = CliRunner().invoke(app, [str(a) for a in arguments], prog_name="hip-ext")
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Both pyramids of ammonia, a guess between them, and what cannot be used."""
    folder = tmp_path_factory.mktemp("reactions")
    up = molecule("NH3")
    down = up.copy()
    down.positions[:, 2] *= -1
    flat = up.copy()
    flat.positions[:, 2] *= 0.1
    crystal = up.copy()
    crystal.cell, crystal.pbc = np.eye(3) * 8, True
    structures = {"up": up, "down": down, "flat": flat, "crystal": crystal, "ends": [up, down]}
    structures |= {"shuffled": down[[1, 0, 2, 3]], "water": molecule("H2O")}
    for name, frames in structures.items():
        write(folder / f"{name}.xyz", frames)
    (folder / "broken.xyz").write_text("not a structure\n")
    (folder / "close.xyz").write_text("3\n\nO 0 0 0\nH 0 0 0.01\nH 0 1 0\n")
    (folder / "pair.xyz").write_text("2\n\nH 0 0 0\nH 0 0 0.7\n")
    return folder


@pytest.fixture(scope="module")
def run(files, tmp_path_factory):
    """The inversion from its two ends, into a folder."""
    out = tmp_path_factory.mktemp("out") / "inversion"
    return out, hip_ext("ts", files / "up.xyz", files / "down.xyz", "--out", out)


def test_inversion_of_ammonia(run):
    out, printed = run
    folder = out / "up"
    numbers = json.loads((folder / "reaction.json").read_text())
    assert numbers["status"] == "done" and numbers["reason"] == "" and numbers["match"] == "both"
    assert numbers["imaginary_modes"] == 1 and -1500 < numbers["imaginary_wavenumber"] < -300
    assert numbers["forward_barrier"] == pytest.approx(numbers["reverse_barrier"], abs=2e-3)
    assert 0.05 < numbers["forward_barrier"] < 0.6  # 0.25 eV in nature
    assert numbers["largest_force"] < 0.01
    # One exact Hessian for the saddle and one for each minimum; the search itself has a predicted one.
    assert (numbers["direct_hessians"], numbers["exact_hessians"]) == (1, 3)
    saddle, path = read(folder / "saddle.extxyz"), read(folder / "path.extxyz", index=":")
    centred = saddle.positions - saddle.positions.mean(axis=0)
    assert np.linalg.svd(centred)[1][2] < 0.02  # planar
    assert saddle.arrays["reacting_mode"].shape == (4, 3) and saddle.arrays["modes"].shape == (4, 18)
    assert aligned_rmsd(read(folder / "reactant.extxyz"), path[0]) < 0.1
    energies = [frame.info["energy"] if "energy" in frame.info else frame.get_potential_energy() for frame in path]
    assert np.argmax(energies) not in (0, len(path) - 1)
    assert "saddle of first order, verified by an exact Hessian" in printed.stdout and "forward" in printed.stdout


def test_irc_from_the_saddle_that_was_found(run):
    out, _ = run
    found = json.loads(hip_ext("irc", out / "up" / "saddle.extxyz", "--json").stdout)[0]
    numbers = json.loads((out / "up/reaction.json").read_text())
    assert found["forward_barrier"] == pytest.approx(numbers["forward_barrier"], abs=2e-3)
    assert found["steps"] == 0 and found["reactant"] == found["product"] == "H3N"


def test_many_go_on_after_what_cannot_be_used_and_are_resumed(files, tmp_path):
    names = ("ends", "broken", "crystal", "flat", "water")
    arguments = ["ts", "--each", *(files / f"{name}.xyz" for name in names), "--out", tmp_path / "many", "--json"]
    rows = {row["name"]: row for row in json.loads(hip_ext(*arguments, code=1).stdout)}
    assert {name: row["status"] for name, row in rows.items()} == {
        "ends": "done", "broken": "failed", "crystal": "failed", "flat": "done", "water": "failed",
    }  # fmt: skip
    assert "cannot read" in rows["broken"]["reason"] and "is periodic" in rows["crystal"]["reason"]
    assert "saddle" in rows["water"]["reason"]
    assert rows["flat"]["forward_barrier"] == pytest.approx(rows["ends"]["forward_barrier"], abs=2e-3)
    assert (tmp_path / "many/flat/path.extxyz").is_file() and (tmp_path / "many/results.csv").is_file()
    before = (tmp_path / "many/outcomes.jsonl").read_bytes()
    assert len(json.loads(hip_ext(*arguments, code=1).stdout)) == 5
    assert (tmp_path / "many/outcomes.jsonl").read_bytes() == before
    refused = hip_ext(*arguments, "--fmax", 0.02, code=2)
    assert "go on with the same options" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["up.xyz", "shuffled.xyz"], "another order: pass --map"),
        (["up.xyz", "water.xyz"], "different atoms, H3N and H2O"),
        (["up.xyz", "up.xyz"], "are one structure"),
        (["crystal.xyz"], "is periodic"),
        (["broken.xyz"], "cannot read"),
        (["close.xyz"], "close.xyz: the calculator fails at this geometry: two atoms on one spot"),
        (["pair.xyz"], "pair.xyz: the guess has 2 atoms"),
        (["none.xyz"], "there is no such file"),
        (["up.xyz", "down.xyz", "flat.xyz"], "--each"),
        (["--each", "up.xyz", "down.xyz"], "add --out FOLDER"),
        (["up.xyz", "ends.xyz"], "expected one end point"),
    ],
)
def test_refusals_are_one_line(arguments, message, files):
    result = hip_ext("ts", *(files / a if a.endswith(".xyz") else a for a in arguments), code=2)
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("hip-ext: error: ") and message in lines[0]
    assert result.stdout == ""


def test_other_order_is_taken_with_map(files):
    found = json.loads(hip_ext("ts", files / "up.xyz", files / "shuffled.xyz", "--map", "--json").stdout)[0]
    assert found["status"] == "done" and found["imaginary_modes"] == 1


def test_minimum_in_place_of_a_saddle(tmp_path):
    write(tmp_path / "water.xyz", Atoms("H2O", molecule("H2O").positions))
    for command in ("ts", "irc"):
        result = hip_ext(command, tmp_path / "water.xyz", code=1)
        assert "failed: " in result.stdout and "Traceback" not in result.output
    assert "no saddle: the largest force is" in result.stdout  # of irc, which does not search


def test_without_sella_the_line_says_what_to_install(files, monkeypatch):
    monkeypatch.setattr("hip_ext.backbones.frameworks.installed_version", lambda requirement: None)
    from hip_ext.errors import MissingDependencyError
    from hip_ext.workflows.reactions.requirements import require_geodesic, require_sella

    for require in (require_sella, require_geodesic):
        with pytest.raises(MissingDependencyError, match=r"pip install 'hip-ext\[workflows\]'"):
            require()
