"""The command line, with SO3LR and an untrained head of which a checkpoint is written first."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.io import read, write
from typer.testing import CliRunner

from hip_ext import attach_head, from_pretrained, shipped
from hip_ext.backbones import load_backbone
from hip_ext.cli import app
from hip_ext.cli.demo import IN_TRAINING, MOLECULES
from hip_ext.cli.options import DEFAULT_MODEL
from hip_ext.reference import autograd_hessian, finite_difference_hessian
from hip_ext.structures import Structures
from hip_ext.vibrations import analyse

pytest.importorskip("so3krates_torch", reason="needs so3krates-torch")

ROOT = Path(__file__).resolve().parents[1]
HAS_SHIPPED = DEFAULT_MODEL in shipped.shipped_checkpoints()
needs_shipped = pytest.mark.skipif(not HAS_SHIPPED, reason=f"the checkpoint {DEFAULT_MODEL} is not in checkpoints/")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A head with random weights in float64 on SO3LR."""
    folder = tmp_path_factory.mktemp("checkpoints") / "untrained"
    attach_head("so3lr", dtype=torch.float64).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(checkpoint):
    return from_pretrained(checkpoint)


@pytest.fixture(scope="module")
def frames(tmp_path_factory) -> Path:
    """Two frames, water and ammonia, neither of them relaxed."""
    path = tmp_path_factory.mktemp("frames") / "two.xyz"
    write(path, [molecule("H2O"), molecule("NH3")])
    return path


def hip_ext(*arguments: object, code: int = 0):
    result = CliRunner().invoke(app, [str(a) for a in arguments], prog_name="hip-ext")
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code == code, result.output
    return result


def refused(*arguments: object) -> str:
    """The one line that a command prints when it refuses; nothing goes to stdout."""
    result = hip_ext(*arguments, code=2)
    lines = [line for line in result.stderr.splitlines() if "warning: the head is untrained" not in line]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("hip-ext: error: ")
    assert result.stdout == ""
    return lines[0]


def process(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


# The commands


def test_hessian_writes_npz_without_pickles(checkpoint, model, frames, tmp_path):
    out = tmp_path / "h.npz"
    result = hip_ext("hessian", frames, "-m", checkpoint, "--out", out)
    assert "H2O" in result.stdout and "H3N" in result.stdout
    with np.load(out, allow_pickle=False) as found:
        assert set(found) == {f"{name}_{k}" for name in ("numbers", "positions", "hessian") for k in (0, 1)}
        for k, atoms in enumerate(read(frames, index=":")):
            np.testing.assert_array_equal(found[f"numbers_{k}"], atoms.numbers)
            np.testing.assert_array_equal(found[f"positions_{k}"], atoms.positions)
            expected = model.hessian(atoms).dense().numpy()
            assert found[f"hessian_{k}"].dtype == np.float64
            np.testing.assert_allclose(found[f"hessian_{k}"], expected, rtol=0, atol=1e-10)


def test_hessian_summary_is_that_of_the_matrix(checkpoint, frames, tmp_path):
    out = tmp_path / "h.json"
    result = hip_ext("hessian", frames, "-m", checkpoint, "--json", "-o", out, "--compare", "autograd")
    summaries, written = json.loads(result.stdout), json.loads(out.read_text())
    assert [one["formula"] for one in summaries] == ["H2O", "H3N"]
    for one, frame in zip(summaries, written, strict=True):
        matrix, n = np.array(frame["hessian"]), one["atoms"]
        assert matrix.shape == (3 * n, 3 * n) and np.shape(frame["positions"]) == (n, 3)
        assert np.shape(frame["cell"]) == (3, 3) and frame["pbc"] == [False] * 3
        assert (one["min"], one["max"]) == (matrix.min(), matrix.max())
        assert one["mean_abs"] == pytest.approx(np.abs(matrix).mean(), rel=1e-12)
        assert one["asymmetry"] == 0.0
        rows = sum(matrix[:, 3 * j : 3 * j + 3] for j in range(n))
        assert one["sum_rule_residual"] == pytest.approx(np.abs(rows).max(), abs=1e-12) and np.abs(rows).max() < 1e-9
        assert one["speed_up"] == pytest.approx(one["exact_seconds"] / one["seconds"])


def test_autograd_hessian_is_that_of_finite_differences(checkpoint, model, frames, tmp_path):
    out = tmp_path / "h.extxyz"
    hip_ext("hessian", frames, "-m", checkpoint, "--method", "autograd", "--out", out)
    for atoms in read(out, index=":"):
        exact = finite_difference_hessian(model.backbone.calculator(), atoms, 0.002).hessian
        np.testing.assert_allclose(atoms.info["hessian"].reshape(exact.shape), exact, rtol=0, atol=2e-3)


def test_extxyz_keeps_every_digit_and_what_was_there(checkpoint, model, tmp_path):
    atoms = molecule("H2O")
    atoms.info["label"] = "mine"
    write(tmp_path / "in.extxyz", atoms)
    hip_ext("hessian", tmp_path / "in.extxyz", "-m", checkpoint, "--out", tmp_path / "out.extxyz")
    found = read(tmp_path / "out.extxyz")
    given = read(tmp_path / "in.extxyz")
    assert found.info["label"] == "mine"
    expected = model.hessian(given).dense().numpy().ravel()
    np.testing.assert_allclose(found.info["hessian"], expected, rtol=0, atol=1e-10)


def test_frequencies_compares_with_the_exact_ones(checkpoint, model, tmp_path):
    file = shipped.molecules_folder() / "water.xyz"
    out = tmp_path / "f.npz"
    result = hip_ext("frequencies", file, "-m", checkpoint, "--compare", "autograd", "--json", "--out", out)
    (one,) = json.loads(result.stdout)
    atoms = read(file)
    exact = analyse(atoms, autograd_hessian(model.backbone, Structures.from_ase(atoms)).numpy())
    ours = analyse(atoms, model.hessian(atoms).dense().numpy())
    np.testing.assert_allclose(one["exact_frequencies"], exact.frequencies, rtol=0, atol=1e-5)
    np.testing.assert_allclose(one["frequencies"], ours.frequencies, rtol=0, atol=1e-5)
    assert one["exact_zero_point_energy"] == pytest.approx(exact.zero_point_energy, abs=1e-9)
    assert one["frequency_mae"] == pytest.approx(np.abs(ours.frequencies - exact.frequencies).mean(), abs=1e-5)
    assert one["imaginary_modes"] == ours.num_imaginary and one["exact_imaginary_modes"] == 0
    assert one["largest_force"] < 0.005
    with np.load(out, allow_pickle=False) as found:
        np.testing.assert_array_equal(found["frequencies_0"], one["frequencies"])
        assert found["zero_point_energy_0"] == one["zero_point_energy"]


def test_frequencies_marks_imaginary_modes_and_counts_them_beyond_a_threshold(checkpoint):
    file = shipped.molecules_folder() / "carbamic_acid_dimer_ts.xyz"
    common = ("frequencies", file, "-m", checkpoint, "--method", "autograd")
    text = hip_ext(*common).stdout
    (imaginary,) = re.findall(r"\d+\.\d i|\d+\.\di\b", text)
    assert "imaginary modes 1" in text and "stationary" not in text
    assert "imaginary modes 0" in hip_ext(*common, "--threshold", float(imaginary[:-1]) + 1).stdout


def test_frequencies_says_when_the_geometry_is_not_stationary(checkpoint, frames):
    result = hip_ext("frequencies", frames, "-m", checkpoint, "--method", "autograd")
    assert result.stdout.count("not a stationary point") == 2
    assert "untrained" not in result.stderr


def test_untrained_head_is_called_so(checkpoint, frames):
    assert hip_ext("hessian", frames, "-m", checkpoint).stderr.count("the head is untrained") == 1


def test_untaught_elements_are_named(tmp_path, model, frames):
    folder = tmp_path / "hydrogen-and-oxygen"
    model.elements = [1, 8]
    try:
        model.save_pretrained(folder)
    finally:
        model.elements = []
    assert "the head was not taught N:" in hip_ext("hessian", frames, "-m", folder).stderr
    write(tmp_path / "gold.xyz", Atoms("Au2", positions=[[0, 0, 0], [0, 0, 2.5]]))
    assert "backbone does not know Au" in refused("hessian", tmp_path / "gold.xyz", "-m", folder)  # and no warning


def test_single_atom_has_a_hessian_of_zeros_and_no_frequencies(checkpoint, tmp_path):
    write(tmp_path / "o.xyz", Atoms("O"))
    for method in ("direct", "autograd"):
        common = (tmp_path / "o.xyz", "-m", checkpoint, "--json", "--method", method)
        (one,) = json.loads(hip_ext("hessian", *common).stdout)
        assert one["min"] == one["max"] == 0.0
        (one,) = json.loads(hip_ext("frequencies", *common).stdout)
        assert one["frequencies"] == [] and one["zero_point_energy"] == 0.0 and one["imaginary_modes"] == 0


@pytest.mark.parametrize("suffix", [".xyz", ".traj", ".cif", ".pdb", ".json"])
def test_reads_what_ase_reads(checkpoint, tmp_path, suffix):
    atoms = molecule("H2O", vacuum=6.0)
    atoms.pbc = suffix == ".cif"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write(tmp_path / f"w{suffix}", atoms)
    (one,) = json.loads(hip_ext("hessian", tmp_path / f"w{suffix}", "-m", checkpoint, "--json").stdout)
    assert one["atoms"] == 3


def test_backbones_lists_what_is_here():
    listed = json.loads(hip_ext("backbones", "--json").stdout)
    assert {"mace", "so3lr"} <= {one["kind"] for one in listed}
    (so3lr,) = (one for one in listed if one["kind"] == "so3lr")
    assert so3lr["usable"] and so3lr["package"] == "so3krates-torch" and so3lr["hint"] == ""
    assert "so3krates-torch" in hip_ext("backbones").stdout


# The demonstration


def test_demo_molecules_are_the_stationary_points_that_they_claim_to_be(model):
    files = {path.stem for path in shipped.molecules_folder().glob("*.xyz")}
    assert files == set(MOLECULES) and set(IN_TRAINING) <= files
    for name in MOLECULES[:-1]:
        atoms = read(shipped.molecules_folder() / f"{name}.xyz")
        found = model.backbone.evaluate(Structures.from_ase(atoms))
        assert found.forces.norm(dim=1).max() < 0.0051, name
        modes = analyse(atoms, autograd_hessian(model.backbone, Structures.from_ase(atoms)).numpy())
        assert (modes.eigenvalues < 0).sum() == name.endswith("_ts"), name
    assert len(read(shipped.molecules_folder() / f"{MOLECULES[-1]}.xyz")) >= 60


def test_demo_prints_and_draws(checkpoint, tmp_path):
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    result = hip_ext("demo", "water", "ethanol", "-m", checkpoint, "--plot", tmp_path / "p.png")
    for word in ("water", "C2H6O", "ZPE", "speed-up", "the head is untrained"):
        assert word in result.stdout
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["p.png"]


def test_demo_as_json(checkpoint):
    (one,) = json.loads(hip_ext("demo", "water", "-m", checkpoint, "--json").stdout)
    assert one["name"] == "water" and len(one["exact_frequencies"]) == 3 and one["in_training"] is None
    assert one["exact_frequencies"][0] == pytest.approx(1631.8, abs=0.5)


@needs_shipped
def test_demo_of_the_shipped_checkpoint():
    (one,) = json.loads(hip_ext("demo", "caffeine", "--json").stdout)
    assert one["in_training"] == "isomers" and one["note"] == ""
    assert one["hessian_mae"] < 0.5 and one["speed_up"] > 1


def test_demo_refuses_what_it_does_not_have(tmp_path):
    assert "has no molecule 'benzene'" in refused("demo", "benzene")
    assert "unknown extension '.gif'" in refused("demo", "--plot", tmp_path / "p.gif")


def test_wheel_finds_the_molecules(tmp_path):
    pytest.importorskip("build", reason="needs the extra dev")
    pytest.importorskip("hatchling", reason="needs the extra dev")
    built = process("-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    shutil.unpack_archive(wheel, tmp_path / "site", "zip")
    code = "from hip_ext import shipped; print(*sorted(p.stem for p in shipped.molecules_folder().iterdir()))"
    found = process("-P", "-c", code, PYTHONPATH=str(tmp_path / "site"))
    assert found.stdout.split() == sorted(MOLECULES), found.stderr


# Refusals


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.xyz", b"", "it is empty"),
        ("no-frames.json", b"{}", "cannot read"),
        ("text.xyz", b"this is not a structure\nat all\n", "its first line is no number of atoms"),
        ("bytes.dat", bytes(range(256)) * 20, "cannot read"),
        ("bytes.xyz", bytes(range(256)) * 20, "it is not text"),
        ("words.txt", b"some words\n", "not in a format that ASE knows, such as .xyz"),
        ("cut.xyz", b"3\n\nO 0 0 0\nH 0 0", "cannot read"),
        ("unknown.xyz", b"1\n\nQq 0 0 0\n", "there is no element 'Qq'"),
        ("nan.xyz", b"2\n\nO 0 0 0\nH nan 0 1\n", "not a finite number: atom 1"),
        ("no-atoms.xyz", b"0\n\n", "is empty"),
        ("dummy.xyz", b"2\n\nX 0 0 0\nH 0 0 1\n", "no element at atom 0"),
        ("overlap.xyz", b"2\n\nO 0 0 0\nH 0 0 0.01\n", "two atoms on one spot"),
        ("gold.xyz", b"2\n\nAu 0 0 0\nH 0 0 1.6\n", "does not know Au"),
    ],
)
@pytest.mark.parametrize("command", ["hessian", "frequencies"])
def test_bad_structures_are_one_line_and_write_nothing(checkpoint, tmp_path, name, content, words, command):
    (tmp_path / name).write_bytes(content)
    line = refused(command, tmp_path / name, "-m", checkpoint, "--out", tmp_path / "out.npz")
    assert words in line and name in line
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_bad_frame_is_named_and_no_other_is_written(checkpoint, tmp_path):
    file = tmp_path / "two.xyz"
    write(file, [molecule("H2O"), Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.01]])])
    assert "two.xyz, frame 1: two atoms on one spot" in refused(
        "hessian", file, "-m", checkpoint, "--out", tmp_path / "out.json"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["two.xyz"]


def test_missing_files_and_folders(checkpoint, frames, tmp_path):
    assert "there is no such file" in refused("hessian", tmp_path / "nope.xyz", "-m", checkpoint)
    assert "it is not a file" in refused("hessian", tmp_path, "-m", checkpoint)
    assert "no checkpoint 'nope'" in refused("hessian", frames, "-m", "nope")
    assert "its folder does not exist" in refused("hessian", frames, "-m", checkpoint, "-o", tmp_path / "no/h.npz")
    (tmp_path / "d.npz").mkdir()
    assert "it is a folder" in refused("hessian", frames, "-m", checkpoint, "-o", tmp_path / "d.npz")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_forbidden_files(checkpoint, frames, tmp_path):
    secret = tmp_path / "secret.xyz"
    secret.write_text("1\n\nO 0 0 0\n")
    secret.chmod(0)
    assert "cannot read" in refused("hessian", secret, "-m", checkpoint)
    tmp_path.chmod(0o500)
    assert "cannot write" in refused("hessian", frames, "-m", checkpoint, "--out", tmp_path / "h.npz")


def test_options_that_make_no_sense(checkpoint, frames, tmp_path):
    common = ("hessian", frames, "-m", checkpoint)
    assert "unknown extension '.hdf5'" in refused(*common, "--out", tmp_path / "h.hdf5")
    assert "needs a prediction to compare" in refused(*common, "--method", "autograd", "--compare", "autograd")
    for usage in ((*common, "--method", "magic"), (*common, "--compare", "dft"), ("hessian",), ("unknown",)):
        result = hip_ext(*usage, code=2)
        assert result.stdout == "" and "Traceback" not in result.stderr
    hip_ext("frequencies", frames, "--threshold", "-1", code=2)


@pytest.mark.parametrize("damage", ["truncated", "no weights", "no config", "not json"])
def test_damaged_checkpoints(checkpoint, frames, tmp_path, damage):
    folder = tmp_path / "damaged"
    shutil.copytree(checkpoint, folder)
    weights, config = folder / "model.safetensors", folder / "config.json"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif damage == "not json":
        config.write_text("{")
    else:
        (weights if damage == "no weights" else config).unlink()
    assert "damaged" in refused("hessian", frames, "-m", folder, "-o", tmp_path / "h.npz")
    assert not (tmp_path / "h.npz").exists()


# The process


def test_framework_that_cannot_be_imported_is_one_line(checkpoint, frames, tmp_path):
    (tmp_path / "so3krates_torch").mkdir()
    (tmp_path / "so3krates_torch/__init__.py").write_text("raise ImportError('broken on purpose')\n")
    path = os.pathsep.join((str(tmp_path), str(ROOT)))
    done = process("-m", "hip_ext.cli", "hessian", frames, "-m", checkpoint, "-o", tmp_path / "h.npz", PYTHONPATH=path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("hip-ext: error: ") and done.stderr.count("\n") == 1
    assert "broken on purpose" in done.stderr
    assert not (tmp_path / "h.npz").exists()


def test_output_of_a_process_is_json_alone(checkpoint, frames):
    done = process("-m", "hip_ext.cli", "hessian", frames, "-m", checkpoint, "--json")
    assert done.returncode == 0
    assert len(json.loads(done.stdout)) == 2
    assert done.stderr == "hip-ext: warning: the head is untrained: its Hessians mean nothing\n"


def test_interruption_exits_with_130_and_writes_nothing(checkpoint, tmp_path):
    file = shipped.molecules_folder() / "cholesterol.xyz"
    command = ["-m", "hip_ext.cli", "hessian", file, "-m", checkpoint, "--method", "autograd", "-o", tmp_path / "h.npz"]
    running = subprocess.Popen(
        [sys.executable, *map(str, command)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background makes them, and so this child, ignore the signal.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    maps = Path(f"/proc/{running.pid}/maps")
    deadline = time.monotonic() + 120
    # Once torch is being loaded, the command is under way.
    while maps.exists() and "libtorch_cpu" not in maps.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(2.0)
    running.send_signal(signal.SIGINT)
    out, errors = running.communicate(timeout=120)
    assert running.returncode == 130, errors
    assert out == "" and errors == "hip-ext: interrupted\n"
    assert list(tmp_path.iterdir()) == []


def test_help_is_fast_and_loads_nothing_heavy():
    code = """
import sys, time
from hip_ext.cli import app
try:
    app(["--help"])
except SystemExit as stop:
    assert stop.code == 0
print(time.process_time(), *sorted({"torch", "numpy", "ase", "mace"} & {n.split(".")[0] for n in sys.modules}))
"""
    done = process("-c", code)
    assert done.returncode == 0, done.stderr
    for command in ("hessian", "frequencies", "backbones", "demo", "distill", "mace-train"):
        assert command in done.stdout
    seconds, *heavy = done.stdout.splitlines()[-1].split()
    assert heavy == [] and float(seconds) < 1.0


def test_version():
    assert re.fullmatch(r"hip-ext \S+\n", hip_ext("--version").stdout)


def test_backbone_file_is_read_only_when_it_is_trusted(tmp_path, frames):
    torch.save(load_backbone("so3lr", dtype=torch.float64).model, tmp_path / "my.model")
    attach_head("so3lr", source=str(tmp_path / "my.model")).save_pretrained(tmp_path / "head")
    arguments = ("hessian", frames, "--model", tmp_path / "head")
    assert "--trust-source" in hip_ext(*arguments, code=2).stderr
    assert len(json.loads(hip_ext(*arguments, "--trust-source", "--json").stdout)) == 2


# The examples


def test_example_head_on_my_mace():
    pytest.importorskip("mace", reason="needs mace-torch")
    done = process(ROOT / "examples/head_on_my_mace.py")
    assert done.returncode == 0, done.stderr
    assert "(18, 18) eV/Å², the same after loading: True" in done.stdout


@needs_shipped
@pytest.mark.parametrize(
    ("script", "words"), [("hessian_of_a_molecule", "(27, 27) eV/Å²"), ("frequencies", "imaginary modes 1")]
)
def test_examples_with_the_shipped_checkpoint(script, words):
    done = process(ROOT / f"examples/{script}.py")
    assert done.returncode == 0, done.stderr
    assert words in done.stdout
