"""The guide to training does what it says, and the recipes train."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from config_reference import reference
from training_cases import labelled, write_store
from typer.testing import CliRunner

from hip_ext.cli import app
from hip_ext.shipped import shipped_checkpoints
from hip_ext.training.run import train
from hip_ext.training.settings import INDIFFERENT, TrainingConfig

pytest.importorskip("lightning", reason="Lightning is not installed")

ROOT = Path(__file__).resolve().parents[1]
GUIDE = (ROOT / "docs/training.md").read_text(encoding="utf-8")
RECIPES = sorted((ROOT / "configs/training").glob("*.yaml"))
SHORT = {"steps": 2, "evaluate_every": 2, "accelerator": "cpu"}
SMALL = {"scalars": 16, "channels": 4, "hidden": 16, "pair_channels": 4, "coordinates": 8}


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, flags=re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the stores that the guide and the recipes name, of a toy potential: their units are not judged."""
    records = labelled(12)
    for name in ("train.lmdb", "dft.lmdb"):
        write_store(tmp_path / name, records[:8])
    write_store(tmp_path / "held_out.lmdb", records[8:])
    write_store(tmp_path / "products.lmdb", [along_probes(record) for record in records[:8]])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def along_probes(record):
    """The record with products in the place of the matrix."""
    probes = np.random.default_rng(0).normal(size=(2, len(record.numbers), 3))
    products = (probes.reshape(2, -1) @ record.hessian()).reshape(probes.shape)
    return replace(record, labelled=None, rows=None, probes=probes, products=products, info={})


def shortened(values):
    """A config of few steps, otherwise as it is."""
    config = TrainingConfig.from_dict(values)
    return config.changed({"run": SHORT, "data": {"trust_units": True}})


def needs_so3lr():
    pytest.importorskip("so3krates_torch", reason="SO3LR is not installed")


@pytest.mark.parametrize("block", blocks("yaml"), ids=range(len(blocks("yaml"))))
def test_config_of_the_guide_trains(block, folder):
    needs_so3lr()
    result = train(shortened(yaml.safe_load(block)), "run")
    assert result.metrics["all"]["structures"] == 4


def test_commands_and_python_of_the_guide(folder):
    """One after the other in one folder, with the guide's first config, made short."""
    needs_so3lr()
    (folder / "config.yaml").write_text(shortened(yaml.safe_load(blocks("yaml")[0])).to_yaml())
    (commands,) = blocks("bash")
    for line in commands.splitlines():
        program, *arguments = line.split()
        if arguments[0] == "evaluate":  # the records are a toy potential's
            arguments.append("--trust-units")
        done = CliRunner().invoke(app, arguments)
        assert (program, done.exit_code) == ("hip-ext", 0), done.output
    (code,) = blocks("python")
    exec(compile(code, "docs/training.md", "exec"), {})
    table = GUIDE.partition("## What a run leaves")[2].partition("## Reference")[0]
    files = [name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(.+?)`", row)]
    assert [name for name in files if not (folder / "runs/mine" / name).exists()] == ["logs/"]


def test_the_reference_is_that_of_the_config():
    assert reference() in GUIDE, "put what `python tests/config_reference.py` prints in docs/training.md"
    assert all(f"`{key}`" in GUIDE.partition("## Reference")[0] for key in INDIFFERENT)


def test_every_recipe_is_in_the_guide():
    assert RECIPES
    assert all(f"`{path.name}`" in GUIDE for path in RECIPES)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_trains(path, folder):
    """Every recipe as it stands, but for the number of steps, and MACE's weights, which would have to be fetched."""
    config = shortened(TrainingConfig.from_yaml(path).model_dump(mode="json"))
    backbone = None
    if config.backbone.name == "mace":
        from backbone_cases import random_mace

        from hip_ext.backbones import load_backbone

        backbone = load_backbone("mace", random_mace().float())
    else:
        needs_so3lr()
    if config.start and config.start not in shipped_checkpoints():
        pytest.skip(f"the checkpoint {config.start} is not in this checkout")
    result = train(config, "run", backbone=backbone)
    assert result.checkpoint.is_dir()
    assert len(result.curve) == 1 and result.curve[0]["held_out_mae"] > 0


def test_the_plan_for_all_of_horm_adds_up(monkeypatch, capsys):
    """The table of the plan is what its own code makes of the measured costs."""
    text = (ROOT / "docs/scaling.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    (table,) = re.findall(r"```text\n(.*?)```", text, flags=re.DOTALL)
    monkeypatch.chdir(ROOT)
    exec(compile(code, "docs/scaling.md", "exec"), {})
    assert capsys.readouterr().out == table
