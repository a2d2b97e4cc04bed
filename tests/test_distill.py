"""Distillation end to end on a few small molecules, and its parts against independent references."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
import yaml
from ase.build import molecule
from ase.data import covalent_radii
from toy_backbone import ToyBackbone
from typer.testing import CliRunner

from hip_ext.backbones import load_backbone
from hip_ext.cli.app import app
from hip_ext.data.geometries import CLOSEST, DISTORTIONS, distort, embed
from hip_ext.data.molecules import formula, random_molecules, split_key
from hip_ext.data.store import HessianStore
from hip_ext.errors import ConfigError, DataError, HipExtError, StructureError
from hip_ext.head import HeadConfig
from hip_ext.labelling.backbone import label
from hip_ext.labelling.relaxation import relax_roughly
from hip_ext.reference import autograd_hessian
from hip_ext.structures import Structures
from hip_ext.training.config import DistillConfig, LabelConfig, TrainConfig
from hip_ext.training.distill import distill
from hip_ext.training.labelling import split_sources
from hip_ext.training.sources import read_sources

SMILES = ["CO", "CN", "CC", "C=O", "CF", "C#N", "N", "O", "C=C", "CS", "OO", "NO"]
SMALL_HEAD = HeadConfig(scalars=16, channels=4, hidden=16, pair_channels=4, coordinates=8)


def small_recipe(**train):
    settings = {"steps": 12, "batch": 3, "evaluate_every": 4, "warmup": 2, **train}
    return DistillConfig(
        labels=LabelConfig(shard=4, rows=2, relax_steps=2), head=SMALL_HEAD, train=TrainConfig(**settings)
    )


@pytest.fixture(scope="module")
def so3lr():
    pytest.importorskip("so3krates_torch", reason="SO3LR is not installed")
    return load_backbone("so3lr")


@pytest.fixture(scope="module")
def finished(so3lr, tmp_path_factory):
    folder = tmp_path_factory.mktemp("distill") / "run"
    return distill(small_recipe(), SMILES, folder, backbone=so3lr), folder


def test_a_run_leaves_a_checkpoint_that_loads_and_agrees(finished, so3lr):
    from hip_ext import from_pretrained

    result, folder = finished
    loaded = from_pretrained(folder / "checkpoint")
    water = molecule("H2O")
    assert torch.equal(loaded.hessian(water).dense(), result.model.hessian(water).dense())
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["held_out"] == result.metrics == loaded.metrics
    assert 0 < metrics["held_out"]["all"]["hessian_mae"] < 20
    assert (folder / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    assert {1, 6} <= set(loaded.elements) <= {1, 6, 7, 8, 9, 16}


def test_training_makes_the_error_smaller(finished):
    curve = json.loads((finished[1] / "training/curve.json").read_text())
    assert [entry["step"] for entry in curve] == [4, 8, 12]
    assert curve[-1]["held_out_mae"] < curve[0]["held_out_mae"]


def test_running_again_changes_nothing(finished, so3lr):
    result, folder = finished
    before = {path: path.read_bytes() for path in (folder / "labels").glob("*.lmdb")}
    assert len(before) == 2
    again = distill(small_recipe(), SMILES, folder, backbone=so3lr)
    assert again.metrics == result.metrics
    assert before == {path: path.read_bytes() for path in (folder / "labels").glob("*.lmdb")}


def test_a_killed_run_ends_as_an_undisturbed_one(finished, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(small_recipe().model_dump()))
    molecules = tmp_path / "molecules.smi"
    molecules.write_text("\n".join(SMILES))
    command = [sys.executable, "-m", "hip_ext.cli", "distill", "--recipe", str(recipe), "--out", str(tmp_path / "run")]
    command += ["--structures", f"smiles:{molecules}", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    interrupted = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not (tmp_path / "run/training/state.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    interrupted.send_signal(signal.SIGKILL)
    interrupted.wait()
    assert (tmp_path / "run/training/state.pt").exists()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    metrics = json.loads(done.stdout)["held_out"]
    expected = finished[0].metrics
    for group, values in expected.items():
        assert metrics[group] == pytest.approx(values, rel=1e-4)


def test_labels_alone_are_those_of_a_whole_run(finished, tmp_path):
    recipe, molecules, out = tmp_path / "recipe.yaml", tmp_path / "molecules.smi", tmp_path / "run"
    recipe.write_text(yaml.safe_dump(small_recipe().model_dump()))
    molecules.write_text("\n".join([*SMILES, "CCCCCC"]))
    options = ["--structures", f"smiles:{molecules}", "--recipe", recipe, "--out", out, "--labels-only", "--json"]
    options += ["--limit", len(SMILES)]
    done = CliRunner().invoke(app, ["distill", *map(str, options)])
    assert done.exit_code == 0, done.output
    assert not (out / "training").exists()
    for name, count in json.loads(done.stdout).items():
        store, expected = HessianStore(name), HessianStore(finished[1] / "labels" / Path(name).name)
        assert count == len(store) == len(expected) > 0
        for record, other in zip(store, expected, strict=True):
            np.testing.assert_array_equal(record.labelled, other.labelled)
            np.testing.assert_allclose(record.rows, other.rows, atol=1e-4 * np.abs(other.rows).max())


def test_labels_are_rows_of_the_exact_hessian(so3lr):
    atoms = [embed("CO", seed=1), embed("CC#N", seed=2)]
    records = label(so3lr, atoms, [np.array([0, 3]), np.array([2])])
    for record, one in zip(records, atoms, strict=True):
        exact = autograd_hessian(so3lr, Structures.from_ase(one, dtype=so3lr.dtype)).numpy()
        n = len(one)
        expected = exact.reshape(n, 3, n, 3)[record.labelled]
        np.testing.assert_allclose(record.rows, expected, atol=2e-4 * np.abs(expected).max())


def test_rough_relaxation_lowers_energy_and_forces(so3lr):
    start = [embed("CCO", seed=3), embed("CC=O", seed=4)]
    end = relax_roughly(so3lr, start, steps=15)
    for before, after in zip(start, end, strict=True):
        first, last = (so3lr.evaluate(Structures.from_ase(a, dtype=so3lr.dtype)) for a in (before, after))
        assert last.energy < first.energy
        assert last.forces.abs().max() < 0.5 * first.forces.abs().max()


def test_incomplete_rows_are_no_hessian(so3lr):
    (record,) = label(so3lr, [embed("CO", seed=1)], [np.array([0])])
    with pytest.raises(DataError, match="1 of 6 atoms"):
        record.hessian()


def test_split_shares_neither_scaffold_nor_formula():
    pytest.importorskip("rdkit", reason="RDKit is not installed")
    molecules = list(random_molecules(300, seed=5))
    split = split_sources(molecules, LabelConfig(held_out=0.1))
    assert split.train
    assert split.held_out
    assert not {split_key(s) for s in split.train} & {split_key(s) for s in split.held_out}
    assert not {formula(s) for s in split.train} & {formula(s) for s in split.held_out}


def test_random_molecules_are_valid_distinct_and_repeatable():
    chem = pytest.importorskip("rdkit.Chem", reason="RDKit is not installed")
    molecules = list(random_molecules(200, seed=7))
    assert len(set(molecules)) == 200
    assert molecules == list(random_molecules(200, seed=7))
    for smiles in molecules:
        parsed = chem.MolFromSmiles(smiles)
        assert {a.GetSymbol() for a in parsed.GetAtoms()} <= {"H", "C", "N", "O", "F", "S", "Cl"}
        assert chem.GetFormalCharge(parsed) == 0
        assert 2 <= parsed.GetNumAtoms(onlyExplicit=False) <= 30


def test_distortions_keep_atoms_apart_and_all_occur():
    rng = np.random.default_rng(0)
    start = embed("NCC(=O)O", seed=1)
    names = set()
    for _ in range(60):
        moved = distort(start, rng)
        names.add(moved.info["distortion"])
        radii = covalent_radii[moved.numbers]
        ratio = moved.get_all_distances() / (radii[:, None] + radii[None, :])
        assert ratio[np.triu_indices(len(moved), 1)].min() > CLOSEST
        np.testing.assert_array_equal(moved.numbers, start.numbers)
    assert names == set(DISTORTIONS)


def test_a_run_of_a_version_without_options_goes_on(finished, so3lr):
    result, folder = finished
    recipe = json.loads((folder / "recipe.json").read_text())
    assert recipe.pop("options") == {}
    (folder / "recipe.json").write_text(json.dumps(recipe))
    assert distill(small_recipe(), SMILES, folder, backbone=so3lr).metrics == result.metrics


def test_another_recipe_or_a_foreign_folder_is_refused(finished, so3lr, tmp_path):
    with pytest.raises(ConfigError, match="another recipe"):
        distill(small_recipe(batch=2), SMILES, finished[1], backbone=so3lr)
    with pytest.raises(ConfigError, match="another recipe"):
        distill(small_recipe().model_copy(update={"options": {"cutoff": 5.0}}), SMILES, finished[1], backbone=so3lr)
    (tmp_path / "precious.txt").write_text("keep")
    with pytest.raises(ConfigError, match="not a distillation run"):
        distill(small_recipe(), SMILES, tmp_path, backbone=so3lr)
    assert (tmp_path / "precious.txt").read_text() == "keep"


def test_structures_instead_of_smiles_and_another_backbone(tmp_path):
    frames = [molecule(name) for name in ("H2O", "CH4", "NH3", "CH3OH", "HCN", "C2H4")]
    path = tmp_path / "frames.extxyz"
    ase.io.write(path, frames)
    result = distill(small_recipe(), read_sources([str(path)]), tmp_path / "run", backbone=ToyBackbone.load(cutoff=4.0))
    assert result.metrics["given"]["structures"] >= 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: 3", "there is no key 'steps'; did you mean 'train.steps'"),
        ("train: {stepz: 3}", "did you mean 'steps'"),
        ("- a", "not a recipe"),
    ],
)
def test_bad_recipes_are_named(tmp_path, text, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        DistillConfig.from_yaml(path)
    assert "\n" not in str(caught.value)


def test_bad_sources_are_named(tmp_path):
    empty = tmp_path / "empty.smi"
    empty.write_text("\n")
    broken = molecule("H2O")
    broken.positions[0] = np.nan
    ase.io.write(tmp_path / "nan.xyz", broken)
    with pytest.raises(DataError, match="no structures"):
        read_sources([f"smiles:{empty}"])
    with pytest.raises(DataError, match="cannot read"):
        read_sources([str(tmp_path / "missing.xyz")])
    with pytest.raises(StructureError, match=r"nan\.xyz, frame 0: .*not a finite number"):
        read_sources([str(tmp_path / "nan.xyz")])
    with pytest.raises(DataError, match="not a valid SMILES"):
        embed("C(C")
    for classify in (split_key, formula):
        with pytest.raises(DataError, match="not a valid SMILES string: 'hello'"):
            classify("hello")
    with pytest.raises(DataError, match="not a valid SMILES string: 'hello'"):
        split_sources(["CCO", "hello"], LabelConfig())
    with pytest.raises(HipExtError, match="too few"):
        split_sources(["CCO"], LabelConfig())
