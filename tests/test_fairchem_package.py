"""The commands of the package on a fairchem model with two tasks: distil, predict, label, evaluate."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import yaml
from ase.build import molecule

pytest.importorskip("fairchem.core", reason="needs fairchem-core")

from fairchem_cases import experts, write_checkpoint
from typer.testing import CliRunner

from hip_ext import HessianCalculator, from_pretrained
from hip_ext.cli.app import app
from hip_ext.data.store import HessianStore
from hip_ext.errors import ConfigError
from hip_ext.reference import autograd_hessian

MOLECULES = ("H2O", "NH3", "CH4", "HCN", "CO2", "C2H2", "H2CO", "N2H4")
RECIPE: dict[str, Any] = {
    "backbone": "fairchem",
    "options": {"task": "omol"},
    "labels": {"rows": 2, "shard": 4},
    "head": {"scalars": 12, "channels": 4, "layers": 1, "hidden": 12, "pair_channels": 4, "coordinates": 4},
    "train": {"steps": 6, "batch": 3, "evaluate_every": 3, "warmup": 2},
}


@pytest.fixture(scope="module", autouse=True)
def quiet():
    """Neither fairchem's log nor its warnings."""
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def uma(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("uma") / "uma.pt", *experts())


@pytest.fixture(scope="module")
def frames(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("frames") / "molecules.xyz"
    structures = [molecule(name) for name in MOLECULES]
    for seed, atoms in enumerate(structures):
        atoms.rattle(0.05, seed=seed)
    ase.io.write(path, structures, format="extxyz")
    return path


def command(*words: object) -> str:
    """What a command prints on stdout."""
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def distilled(uma, frames, tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("distil")
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE | {"source": str(uma)}))
    where = ("--structures", frames, "--held-out", frames, "--out", folder / "run")
    return folder / "run", json.loads(command("distill", "--recipe", recipe, *where, "--json"))


def test_distillation_leaves_a_head_that_its_own_backbone_taught(distilled, frames):
    folder, printed = distilled
    model = from_pretrained(printed["checkpoint"], trust_source=True)
    assert model.backbone.kind == "fairchem" and model.backbone.task == "omol"
    curve = json.loads((folder / "training/curve.json").read_text())
    assert [entry["step"] for entry in curve] == [3, 6]
    (water, *_), exact = ase.io.read(frames, ":"), HessianStore(folder / "labels/held_out.lmdb")
    record = next(record for record in exact if len(record.numbers) == 3 and record.numbers[0] == 8)
    expected = autograd_hessian(model.backbone, model.structures(water)).cpu().numpy()
    np.testing.assert_allclose(record.hessian(), expected, rtol=0, atol=1e-4 * abs(expected).max())
    assert 0 < printed["held_out"]["all"]["hessian_mae"] < 20


def test_a_recipe_without_a_task_names_those_that_there_are(uma, frames, tmp_path):
    words = ("distill", "--backbone", "fairchem", "--source", uma, "--structures", frames, "--out", tmp_path / "run")
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 2
    assert done.stderr.strip() == (
        "hip-ext: error: this fairchem model has the tasks omat, omol: name one, as in task='omat'"
    )


def test_commands_predict_with_the_distilled_head(distilled, frames, tmp_path):
    _, printed = distilled
    checkpoint, one = printed["checkpoint"], tmp_path / "one.xyz"
    atoms = ase.io.read(frames, 3)
    ase.io.write(one, atoms, format="extxyz")
    calculator = HessianCalculator(from_pretrained(checkpoint, trust_source=True))
    for method in ("direct", "autograd"):
        words = ("hessian", one, "-m", checkpoint, "--trust-source", "--method", method)
        command(*words, "--out", tmp_path / f"{method}.npz")
        with np.load(tmp_path / f"{method}.npz") as stored:
            (found,) = [stored[name] for name in stored.files if stored[name].shape[-2:] == (9, 9)]
        expected = calculator.get_hessian(atoms, method)
        np.testing.assert_allclose(np.squeeze(found), expected, rtol=0, atol=1e-5 * abs(expected).max())
    shown = command("frequencies", one, "-m", checkpoint, "--trust-source", "--compare", "autograd", "--json")
    assert len(json.loads(shown)) > 0
    command("checkpoint", "verify", checkpoint, "--trust-source")


def test_labels_and_an_evaluation_against_them(uma, distilled, frames, tmp_path):
    store = tmp_path / "labels.lmdb"
    source = ("--with", f"backbone:fairchem:{uma}", "--backbone-option", "task=omat", "--float64")
    counts = json.loads(command("label", frames, *source, "--limit", 3, "--out", store, "--json"))
    assert counts == {"labelled": 3, "failed": 0, "skipped": 0}
    options = ("--limit", 3, "--out", tmp_path / "evaluation", "--json", "--trust-source")
    summary = json.loads(command("evaluate", distilled[1]["checkpoint"], store, *options))
    assert [result["failures"] for result in summary["results"]] == [{}, {}]


@pytest.mark.parametrize("text", ["task", "=omol", "task=", "task=[omol"])
def test_options_that_are_none(text):
    from hip_ext.cli.label import _pairs

    with pytest.raises(ConfigError, match="--backbone-option "):
        _pairs([text])
