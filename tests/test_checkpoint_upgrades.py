"""Every schema ever written is read, to the same numbers, and one that is not known yet says what to install."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from ase.build import molecule
from safetensors.torch import load_file
from test_checkpoint import edit, refused
from toy_backbone import ToyBackbone, ToyModel

from hip_ext import from_pretrained
from hip_ext.checkpoint import SCHEMA, read_config, read_head
from hip_ext.checkpoint.upgrades import STEPS

DATA = Path(__file__).parent / "data" / "checkpoints"


def toy() -> ToyBackbone:
    return ToyBackbone(ToyModel(channels=2))


def test_every_schema_has_a_stored_checkpoint_and_a_step():
    assert {int(path.name.split("-")[1]) for path in DATA.glob("schema-*")} == set(range(1, SCHEMA + 1))
    assert set(STEPS) == set(range(1, SCHEMA))


@pytest.mark.parametrize("schema", range(1, SCHEMA + 1))
def test_stored_checkpoints_give_the_hessian_that_was_stored_with_them(schema):
    folder = DATA / f"schema-{schema}"
    assert json.loads((folder / "config.json").read_text())["schema_version"] == schema
    model = from_pretrained(folder, backbone=toy())
    expected = torch.tensor(json.loads((DATA / "hessian-of-water.json").read_text()), dtype=torch.float64)
    torch.testing.assert_close(model.hessian(molecule("H2O")).dense(), expected, rtol=0, atol=1e-10)
    assert (model.elements, model.metrics) == ([1, 8], {"water": {"hessian_mae": 0.5}})


def test_upgrades_give_the_present_schema(tmp_path):
    old, new = read_config(DATA / "schema-1"), read_config(DATA / "schema-2")
    assert old.schema_version == SCHEMA
    assert old.model_copy(update={"sha256": new.sha256}) == new
    first, second = (read_head(DATA / f"schema-{n}", read_config(DATA / f"schema-{n}")).state_dict() for n in (1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first | second)
    from_pretrained(DATA / "schema-1", backbone=toy()).save_pretrained(tmp_path / "schema-2")
    for path in (DATA / "schema-2").iterdir():
        assert (tmp_path / "schema-2" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("name", "source"),
    [("in-memory", "memory"), ("calculator", "memory"), ("/tmp/my.model", "file"), ("mace_mp:small", "release")],
)
def test_schema_1_did_not_say_what_a_name_stands_for(tmp_path, name, source):
    shutil.copytree(DATA / "schema-1", tmp_path / "old")
    edit(tmp_path / "old", lambda values: values["backbone"].update(name=name))
    assert read_config(tmp_path / "old").backbone.source == source


def test_the_stored_tuned_backbone_is_applied():
    model = from_pretrained(DATA / "schema-2-tuned", backbone=toy())
    assert torch.equal(model.backbone.model.depth, 1.5 * toy().model.depth)
    assert set(load_file(DATA / "schema-2-tuned" / "backbone.safetensors")) == {"depth"} == model.tuning.changed


@pytest.mark.parametrize(
    ("written_by", "command"),
    [
        ("0.7.0", "pip install 'hip-ext>=0.7.0'"),
        ("1.0rc1", "pip install 'hip-ext>=1.0rc1'"),
        ("1; rm -rf /", "pip install --upgrade hip-ext"),
        (None, "pip install --upgrade hip-ext"),
        (7, "pip install --upgrade hip-ext"),
    ],
)
def test_a_newer_schema_says_what_to_install(tmp_path, written_by, command):
    shutil.copytree(DATA / "schema-2", tmp_path / "new")
    edit(tmp_path / "new", lambda values: values.update(schema_version=3, hip_ext_version=written_by, novelty={"a": 1}))
    message = refused(tmp_path / "new")
    assert "schema 3 is newer than hip-ext" in message and message.endswith(f"which reads up to 2: {command}")


@pytest.mark.parametrize("backbone", [None, 1, [], {}, {"name": 3}, {"kind": "toy", "widths": 1, "features": {}}])
def test_damaged_configs_of_schema_1_are_refused_as_any_other(tmp_path, backbone: Any):
    shutil.copytree(DATA / "schema-1", tmp_path / "old")
    edit(tmp_path / "old", lambda values: values.update(backbone=backbone))
    assert "'backbone" in refused(tmp_path / "old")
