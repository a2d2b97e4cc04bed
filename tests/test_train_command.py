"""`hip-ext train` from the command line, and several processes at once."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from toy_backbone import ToyBackbone
from training_cases import labelled, small_config, toy, write_store
from typer.testing import CliRunner

from hip_ext.backbones.declared import registered
from hip_ext.cli import app
from hip_ext.model import from_pretrained
from hip_ext.training.run import train
from hip_ext.training.settings import TrainingConfig
from hip_ext.training.state import STATE, read_state

pytest.importorskip("lightning", reason="Lightning is not installed")

SCRIPT = Path(__file__).with_name("training_cases.py")


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    records = labelled(90)
    return write_store(folder / "train.lmdb", records[:80]), write_store(folder / "validation.lmdb", records[80:])


@pytest.fixture
def config(stores, tmp_path, monkeypatch):
    """A config file, in whose folder the command runs; the toy potential is known by name, as a plugin's would be."""
    monkeypatch.setitem(registered, "toy", ToyBackbone)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.yaml"
    path.write_text(small_config(*stores).to_yaml())
    return path


def changed(path, **sections):
    path.write_text(TrainingConfig.from_yaml(path).changed(sections).to_yaml())
    return path


def run(*arguments):
    done = CliRunner().invoke(app, ["train", *map(str, arguments)])
    return done.exit_code, done.stdout, done.stderr


def test_a_run_prints_its_metrics_and_goes_on_in_the_same_folder(config):
    code, out, _ = run(config, "--json")
    assert code == 0
    printed = json.loads(out)
    assert printed["checkpoint"] == "runs/small/checkpoint"
    assert from_pretrained(printed["checkpoint"], backbone=toy()).metrics == printed["held_out"]
    before = Path("runs/small", STATE).stat().st_mtime_ns
    code, out, _ = run(config)
    assert code == 0 and "Hessian MAE" in out and "checkpoint: runs/small/checkpoint" in out
    assert Path("runs/small", STATE).stat().st_mtime_ns == before


def test_smoke_and_limit_runs_are_short_and_apart(config):
    changed(config, run={"steps": 10_000, "evaluate_every": 10_000})
    assert run(config, "--smoke", "--json")[0] == 0
    assert not Path("runs/small").exists()
    stored = TrainingConfig.from_yaml("runs/small-smoke/config.yaml")
    assert (stored.run.steps, stored.data.limit) == (20, 64)
    record = json.loads(Path("runs/small-smoke/metrics.json").read_text())["training"]
    assert (record["structures"], record["held_out_structures"], record["steps"]) == (64, 10, 20)
    changed(config, run={"steps": 2, "evaluate_every": 2})
    assert run(config, "--limit", "7", "--out", "limited")[0] == 0
    assert json.loads(Path("limited/metrics.json").read_text())["training"]["structures"] == 7


def test_tensorboard_gets_every_curve(config):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    changed(config, run={"logger": "tensorboard", "log_every": 2})
    assert run(config, "--out", "logged")[0] == 0
    found = events.EventAccumulator("logged/logs").Reload()
    assert [event.step for event in found.Scalars("loss")] == [2, 4, 6, 8, 10, 12]
    curve = json.loads(Path("logged/curve.json").read_text())
    logged = [event.value for event in found.Scalars("held_out_mae")]
    assert logged == pytest.approx([point["held_out_mae"] for point in curve], rel=1e-6)
    assert {"learning_rate", "gradient", "mae", "train_mae"} <= set(found.Tags()["scalars"])


def test_what_is_wrong_is_one_line(config, stores):
    try:
        import wandb  # noqa: F401
    except ImportError:
        changed(config, run={"logger": "wandb"})
        code, _, error = run(config, "--out", "logged")
        assert code == 2 and "run.logger is wandb, which is not installed" in error and "\n" not in error.strip()
    config.write_text(config.read_text().replace("optimiser:", "optimizer:"))
    code, _, error = run(config)
    assert code == 2 and "did you mean 'optimiser'" in error and "\n" not in error.strip()
    config.write_text(small_config(*stores, backbone={"name": "tay"}).to_yaml())
    code, _, error = run(config, "--out", "other")
    assert code == 2 and "there is no backbone 'tay'; did you mean 'toy'?" in error and "\n" not in error.strip()
    code, _, error = run("missing.yaml")
    assert code == 2 and "cannot read the config missing.yaml" in error


def start(config, folder, path):
    """The run in processes of its own."""
    path.write_text(config.to_yaml())
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), str(path), str(folder)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_train_backbone_and_head_as_one_does(stores, tmp_path):
    """Several passes a step, labels of which one process has none, and parameters that no loss reaches."""
    sections = {
        "backbone": {"trainable": ["weights", "coefficients"]},
        "loss": {"energy": 2.0, "forces": 5.0, "hessian": {"subspace": 0.1}},
        "data": {"batch": 6, "bucket": 2},
    }
    alone = train(small_config(*stores, **sections), tmp_path / "one", backbone=toy())
    config = small_config(*stores, **sections, run={"devices": 2})
    process = start(config, tmp_path / "two", tmp_path / "two.yaml")
    out, error = process.communicate(timeout=180)
    assert process.returncode == 0, error[-2000:]
    for point, expected in zip(json.loads(out)["curve"], alone.curve, strict=True):
        assert point == pytest.approx(expected, rel=1e-7)
    one, two = (torch.load(tmp_path / name / STATE, weights_only=True)["average"] for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-6, atol=1e-9)


def test_two_processes_stop_together_and_one_goes_on(stores, tmp_path):
    """The signal reaches the first process alone; the run goes on with one process to the same end."""
    sections = {"run": {"steps": 100, "evaluate_every": 50, "save_every": 1, "devices": 2}}
    folder = tmp_path / "run"
    process = start(small_config(*stores, **sections), folder, tmp_path / "two.yaml")
    while not (folder / STATE).exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=180)
    assert process.returncode == 128 + signal.SIGTERM, error[-2000:]
    assert 1 <= read_state(folder)["step"] < 100
    sections["run"]["devices"] = 1
    again = train(small_config(*stores, **sections), folder, backbone=toy())
    whole = train(small_config(*stores, **sections), tmp_path / "whole", backbone=toy())
    for point, expected in zip(again.curve, whole.curve, strict=True):
        assert point == pytest.approx(expected, rel=1e-6)
