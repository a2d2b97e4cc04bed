"""`hip-ext checkpoint inspect|verify|convert`."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_checkpoint import edit
from toy_backbone import ToyBackbone, ToyModel
from typer.testing import CliRunner

from hip_ext import from_pretrained
from hip_ext.checkpoint import read_config
from hip_ext.checkpoint.verification import water_like
from hip_ext.cli.app import app

DATA = Path(__file__).parent / "data" / "checkpoints"


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["checkpoint", *map(str, arguments)])
    assert result.exit_code == code, result.output
    if code:
        assert result.stderr.startswith("hip-ext: error: ") and result.stderr.count("\n") == 1
        return result.stderr
    return result.stdout


def test_inspect_says_what_is_in_the_config():
    text = run("inspect", "hip-so3lr-organic")
    config = read_config(Path(__file__).parents[1] / "checkpoints" / "hip-so3lr-organic")
    for expected in (
        config.backbone.fingerprint,
        "so3lr 'so3lr' (so3krates-torch 0.2.1)",
        "H, C, N, O, F, S, Cl",
        "1.3",
    ):
        assert expected in text
    assert "whole" not in text and "tuned        1 → " in run("inspect", DATA / "schema-2-tuned")
    found = json.loads(run("inspect", "hip-so3lr-organic", "--json"))
    assert found["config"] == json.loads(config.model_dump_json()) and found["bytes"] > 1e6


def test_inspect_loads_no_framework_and_no_tensors(tmp_path):
    (tmp_path / "head").mkdir()
    (tmp_path / "head" / "config.json").write_bytes((DATA / "schema-2" / "config.json").read_bytes())
    code = (
        "import sys\nfrom hip_ext.cli.app import app\n"
        f"app(['checkpoint', 'inspect', {str(tmp_path / 'head')!r}], standalone_mode=False)\n"
        "assert not {'mace', 'e3nn', 'so3krates_torch', 'fairchem', 'sevenn', 'lightning'} & set(sys.modules)\n"
    )
    assert (
        "toy 'in-memory' (memory)"
        in subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    )


def test_verify_predicts_where_the_framework_is():
    pytest.importorskip("so3krates_torch", reason="needs so3krates-torch")
    lines = run("verify", "hip-so3lr-organic").splitlines()
    assert all(line.startswith("ok ") for line in lines) and len(lines) == 4
    assert "sha256" in lines[1] and "as recorded" in lines[1]
    assert "Hessian of H2O: finite, symmetric" in lines[3]


def test_verify_says_what_it_could_not_look_at():
    lines = run("verify", DATA / "schema-2-tuned").splitlines()
    assert lines[2].startswith("ok       backbone.safetensors: 1 tensors")
    assert lines[3] == "skipped  the backbone: 'in-memory' is not a released model"
    found = json.loads(run("verify", DATA / "schema-1", "--json"))
    assert found["skipped"] and any("upgraded" in line for line in found["checks"])


def test_verify_finds_damage(tmp_path):
    run("convert", DATA / "schema-2", tmp_path / "head")
    path = tmp_path / "head" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(data)
    assert "its sha256 is not the one in config.json" in run("verify", tmp_path / "head", code=2)
    assert "not a folder" in run("verify", tmp_path / "nowhere", code=2)
    assert "not a folder" in run("inspect", "hip-so3lr-organc", code=2)


def test_convert_upgrades_and_keeps_the_weights(tmp_path):
    assert "schema 2, float64" in run("convert", DATA / "schema-1", tmp_path / "schema-2")
    for path in (DATA / "schema-2").iterdir():
        assert (tmp_path / "schema-2" / path.name).read_bytes() == path.read_bytes()
    run("convert", tmp_path / "schema-2", tmp_path / "schema-2")
    assert (tmp_path / "schema-2" / "config.json").read_bytes() == (DATA / "schema-2" / "config.json").read_bytes()


@pytest.mark.parametrize("name", ["schema-2", "schema-2-tuned"])
def test_convert_to_another_precision(tmp_path, name):
    run("convert", DATA / name, tmp_path / "single", "--dtype", "float32")
    before = from_pretrained(DATA / name, backbone=ToyBackbone(ToyModel(channels=2)))
    after = from_pretrained(tmp_path / "single", backbone=ToyBackbone(ToyModel(channels=2)))
    assert read_config(tmp_path / "single").dtype == "float32"
    for key, value in load_file(tmp_path / "single" / "model.safetensors").items():
        assert torch.equal(value, before.head.state_dict()[key].float())
    assert after.backbone.source.fingerprint == before.backbone.source.fingerprint
    run("convert", tmp_path / "single", tmp_path / "double", "--dtype", "float64")
    assert load_file(tmp_path / "double" / "model.safetensors")["curvature.weight"].dtype == torch.float64


def test_convert_writes_nothing_over_others(tmp_path):
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "thesis.tex").write_text("years")
    assert "choose another folder" in run("convert", DATA / "schema-1", tmp_path / "documents", code=2)
    run("convert", DATA / "schema-1", tmp_path / "head")
    edit(tmp_path / "head", lambda values: values.update(schema_version=9))
    assert "schema 9 is newer" in run("convert", tmp_path / "head", tmp_path / "out", code=2)
    assert {path.name for path in tmp_path.iterdir()} == {"documents", "head"}


@pytest.mark.parametrize("elements", [[1, 8], [1, 6, 8], [14], [29, 79], list(range(1, 90))])
def test_water_like_molecules(elements):
    atoms = water_like(elements)
    assert len(atoms) == 3 and set(atoms.numbers) <= set(elements)
    assert atoms.get_all_distances()[0, 1] > 0.5 and atoms.get_angle(1, 0, 2) == pytest.approx(104.5)


def test_the_guide_runs_as_it_is_printed(tmp_path):
    pytest.importorskip("so3krates_torch", reason="needs so3krates-torch")
    guide = (Path(__file__).parents[1] / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", guide, flags=re.DOTALL))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"my-head", "tuned-head"}
    assert "sha256" in run("verify", tmp_path / "tuned-head").splitlines()[2]
    for name in re.findall(r"^\$ hip-ext checkpoint (\w+)", guide, flags=re.MULTILINE):
        run(name, "--help")


def test_text_of_a_checkpoint_cannot_pass_for_lines_of_ours(tmp_path):
    forged = "0.1.0\nok       backbone: fingerprint verified\u202e"
    shutil.copytree(DATA / "schema-2", tmp_path / "head")
    edit(
        tmp_path / "head",
        lambda values: values.update(training={forged: 1}) or values["backbone"].update(revision=forged),
    )
    printed = run("inspect", tmp_path / "head")
    assert "0.1.0 ok backbone: fingerprint verified" in printed and "\nok " not in printed and "\u202e" not in printed
    run("convert", tmp_path / "head", tmp_path / "new")
    assert "\nok " not in (tmp_path / "new/README.md").read_text(encoding="utf-8")
