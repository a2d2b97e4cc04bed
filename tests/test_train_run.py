"""Whole training runs on a small analytic potential: what they leave, that they go on, and what stops them."""

import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from training_cases import HEAD, labelled, partial, small_config, toy, write_store

from hip_ext.data.record import HessianRecord
from hip_ext.errors import ConfigError, DataError, HipExtError
from hip_ext.model import from_pretrained
from hip_ext.training.run import train
from hip_ext.training.settings import TrainingConfig, first_difference
from hip_ext.training.state import STATE, read_state

pytest.importorskip("lightning", reason="Lightning is not installed")


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    records = labelled(26)
    rows = [partial(r, [0, len(r.numbers) - 1]) for r in records[8:16]]
    return write_store(folder / "train.lmdb", records[:8] + rows + records[16:20]), write_store(
        folder / "validation.lmdb", records[20:]
    )


@pytest.fixture(scope="module")
def finished(stores, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "a"
    return train(small_config(*stores), folder, backbone=toy()), folder


def weights(result):
    return result.model.head.state_dict()


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.values(), other.values(), strict=True))


def test_a_run_leaves_what_it_says(finished, stores):
    result, folder = finished
    assert [point["step"] for point in result.curve] == [4, 8, 12]
    assert result.curve[-1]["held_out_mae"] < result.curve[0]["held_out_mae"]
    assert result.metrics["all"]["structures"] == 6
    loaded = from_pretrained(result.checkpoint, backbone=toy())
    assert same(loaded.head.state_dict(), weights(result))
    assert loaded.metrics == result.metrics
    assert set(loaded.elements) == {1, 6, 7, 8}
    assert loaded.training_record["structures"] == 20
    assert TrainingConfig.from_yaml(folder / "config.yaml") == small_config(*stores)
    assert "torch" in json.loads((folder / "versions.json").read_text())
    assert json.loads((folder / "curve.json").read_text()) == result.curve
    assert (folder / "learning_curve.png").read_bytes().startswith(b"\x89PNG")


def test_the_metrics_are_those_of_the_checkpoint(finished, stores):
    result, _ = finished
    validation = labelled(26)[20:]
    model = from_pretrained(result.checkpoint, backbone=toy())
    errors = [np.abs(model.hessian(r.atoms()).dense().numpy() - r.hessian()).mean() for r in validation]
    assert result.metrics["all"]["hessian_mae"] == pytest.approx(np.mean(errors), rel=1e-9)
    assert result.curve[-1]["held_out_mae"] == pytest.approx(np.mean(errors), rel=1e-9)


def test_every_parameter_of_the_head_moves(stores, tmp_path):
    config = small_config(*stores, run={"steps": 4}, optimiser={"average": 0.0, "weight_decay": 0.0})
    result = train(config, tmp_path / "a", backbone=toy())
    from hip_ext.model import attach_head

    start = attach_head(toy(), config.head, seed=0).head
    for (name, before), after in zip(start.named_parameters(), result.model.head.parameters(), strict=True):
        assert (before != after).any(), name


@pytest.mark.parametrize("trainable", ["all", ["weights", "coefficients"]])
def test_backbone_and_head_together(stores, tmp_path, trainable):
    """The student begins as another potential than the teacher; energies, forces and Hessians all get better."""
    config = small_config(
        *stores,
        backbone={"name": "toy", "trainable": trainable},
        loss={"energy": 20.0, "forces": 20.0},
        optimiser={"learning_rate": 0.02, "backbone_rate": 1.0, "average": 0.5},
        run={"steps": 24, "evaluate_every": 3},
    )
    before = dict(toy(seed=3).model.named_parameters())
    result = train(config, tmp_path / "a", backbone=toy(seed=3))
    after = dict(result.model.backbone.model.named_parameters())
    trained = set(before) if trainable == "all" else set(trainable)
    assert {name for name in before if (before[name] != after[name]).any()} == trained
    first, last = result.curve[0], result.curve[-1]
    for name in ("held_out_mae", "held_out_energy", "held_out_forces"):
        assert last[name] < first[name]
    loaded = from_pretrained(result.checkpoint, backbone=toy(seed=3))
    atoms = labelled(1)[0].atoms()
    mine, theirs = (model.energy_forces_hessian(atoms) for model in (result.model, loaded))
    assert torch.equal(mine.energy, theirs.energy) and torch.equal(mine.hessian.pair, theirs.hessian.pair)
    step = 1e-4
    for place in ((0, 0), (1, 2)):
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[place] += sign * step
            energies.append(float(loaded.energy_forces_hessian(moved).energy))
        gradient = (energies[0] - energies[1]) / (2 * step)
        assert -gradient == pytest.approx(float(theirs.forces[place]), abs=1e-6)


def test_accumulated_passes_give_the_same_run(finished, stores, tmp_path):
    config = small_config(*stores, run={"accumulate": 2})
    result = train(config, tmp_path / "a", backbone=toy())
    for point, expected in zip(result.curve, finished[0].curve, strict=True):
        assert point == pytest.approx(expected, rel=1e-8)


def test_adamw_buckets_and_every_loss(stores, tmp_path):
    hessian = {"mse": 0.1, "diagonal": 2.0, "off_diagonal": 0.5, "subspace": 0.1, "twists": 0.2}
    config = small_config(
        *stores, loss={"hessian": hessian}, optimiser={"name": "adamw"}, data={"bucket": 3, "largest": 60, "workers": 1}
    )
    result = train(config, tmp_path / "a", backbone=toy())
    assert result.curve[-1]["held_out_mae"] < result.curve[0]["held_out_mae"]


def test_products_alone_teach_a_head(stores, tmp_path):
    rng = np.random.default_rng(0)
    records = []
    for record in labelled(12):
        n = len(record.numbers)
        probes = rng.normal(size=(4, n, 3))
        products = (probes.reshape(4, -1) @ record.hessian()).reshape(4, n, 3)
        records.append(replace(record, labelled=None, rows=None, probes=probes, products=products, info={}))
    store = write_store(tmp_path / "products.lmdb", records)
    hessian = {"mae": 0.0, "twists": 0.0, "products": 1.0}
    config = small_config(store, stores[1], loss={"hessian": hessian}, run={"steps": 40, "evaluate_every": 20})
    result = train(config, tmp_path / "a", backbone=toy())
    assert result.curve[-1]["held_out_mae"] < result.curve[0]["held_out_mae"]


def test_a_trained_head_is_where_fine_tuning_begins(finished, stores, tmp_path):
    config = small_config(
        *stores,
        head=None,
        start=str(finished[0].checkpoint),
        optimiser={"learning_rate": 1e-9},
        run={"steps": 1, "evaluate_every": 1},
    )
    result = train(config, tmp_path / "a", backbone=toy())
    assert result.curve[-1]["held_out_mae"] == pytest.approx(finished[0].curve[-1]["held_out_mae"], rel=1e-5)
    assert set(result.model.elements) >= set(finished[0].model.elements)
    again = train(config.model_copy(update={"start": str(result.checkpoint)}), tmp_path / "b", backbone=toy()).model
    assert [again.training_record[f"stage {n}"]["steps"] for n in (1, 2)] == [12, 1]
    assert again.training_record["steps"] == 1 and "stage 3" not in again.training_record
    assert "| stage 2 |" in (tmp_path / "b/checkpoint/README.md").read_text()
    with pytest.raises(ConfigError, match="head and start exclude"):
        small_config(*stores, start=str(finished[0].checkpoint))


def test_validation_is_split_off_by_sum_formula(stores, tmp_path):
    config = small_config(*stores, data={"validation": [], "split": 0.3})
    result = train(config, tmp_path / "a", backbone=toy())
    counts = json.loads((tmp_path / "a/metrics.json").read_text())["training"]
    assert counts["structures"] + counts["held_out_structures"] == 20
    assert result.metrics["all"]["structures"] >= 1


def run_in_fork(config, folder, steps_done=None):
    """A process that trains; forked, so that it need not import anything again."""

    def stages(name, total):
        def report(done, note):
            if steps_done is not None and name == "train":
                steps_done.value += 1

        return report

    def work():
        try:
            train(config, folder, backbone=toy(), stages=stages)
        except SystemExit as stop:
            os._exit(int(stop.code))
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


def test_ten_kills_at_random_moments_change_nothing(stores, tmp_path):
    config = small_config(*stores, run={"steps": 60, "evaluate_every": 20, "save_every": 1})
    undisturbed = train(config, tmp_path / "undisturbed", backbone=toy())
    folder = tmp_path / "killed"
    rng = np.random.default_rng(0)
    for _ in range(10):
        steps_done = multiprocessing.Value("i", 0)
        process = run_in_fork(config, folder, steps_done)
        wanted = rng.integers(0, 6)
        while steps_done.value < wanted and process.is_alive():
            time.sleep(0.001)
        time.sleep(rng.uniform(0.0, 0.03))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    result = train(config, folder, backbone=toy())
    assert same(weights(result), weights(undisturbed))
    assert result.curve == undisturbed.curve
    assert result.metrics == undisturbed.metrics


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stores_the_state_and_ends_the_run(stores, tmp_path, number):
    config = small_config(*stores, run={"steps": 400, "evaluate_every": 400})
    folder = tmp_path / "stopped"
    steps_done = multiprocessing.Value("i", 0)
    process = run_in_fork(config, folder, steps_done)
    while steps_done.value < 3 and process.is_alive():
        time.sleep(0.001)
    os.kill(process.pid, number)
    process.join(20)
    assert process.exitcode == 128 + number
    assert 3 <= read_state(folder)["step"] < 400


def test_signals_end_the_process_again_after_a_run(stores, tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    train(small_config(*stores, run={"steps": 2, "evaluate_every": 2}), tmp_path / "a", backbone=toy())
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_two_processes_learn_what_one_does(stores, tmp_path):
    sections = {"data": {"batch": 4}, "loss": {"hessian": {"subspace": 0.1}}}
    alone = train(small_config(*stores, **sections), tmp_path / "one", backbone=toy())
    config = small_config(*stores, **sections, run={"devices": 2})
    path = tmp_path / "two.yaml"
    path.write_text(config.to_yaml())
    script = Path(__file__).with_name("training_cases.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(path), str(tmp_path / "two")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    for point, expected in zip(found["curve"], alone.curve, strict=True):
        assert point == pytest.approx(expected, rel=1e-8)
    assert found["metrics"]["all"]["hessian_mae"] == pytest.approx(alone.metrics["all"]["hessian_mae"], rel=1e-8)


def test_another_config_or_a_foreign_folder_is_refused(finished, stores, tmp_path):
    with pytest.raises(ConfigError, match=r"optimiser\.learning_rate is 0\.02, was 0\.01"):
        train(small_config(*stores, optimiser={"learning_rate": 0.02}), finished[1], backbone=toy())
    (tmp_path / "precious.txt").write_text("keep")
    with pytest.raises(ConfigError, match="not a training run"):
        train(small_config(*stores), tmp_path, backbone=toy())
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_a_run_that_failed_before_its_first_state_leaves_its_folder_free(stores, tmp_path):
    bare = write_store(tmp_path / "bare.lmdb", [replace(r, labelled=None, rows=None, info={}) for r in labelled(8)])
    with pytest.raises(DataError, match="set it to 0"):
        train(small_config(bare, stores[1]), tmp_path / "a", backbone=toy())
    corrected = small_config(*stores, run={"steps": 4, "evaluate_every": 4})
    assert train(corrected, tmp_path / "a", backbone=toy()).metrics
    assert TrainingConfig.from_yaml(tmp_path / "a/config.yaml") == corrected


def test_validation_data_without_a_hessian_are_refused(stores, tmp_path):
    bare = write_store(tmp_path / "bare.lmdb", [replace(r, labelled=None, rows=None, info={}) for r in labelled(8)])
    with pytest.raises(DataError, match=r"none of 8 validation records has any Hessian rows: .*data\.validation"):
        train(small_config(stores[0], bare), tmp_path / "a", backbone=toy())
    assert not (tmp_path / "a" / STATE).exists()


def test_a_device_that_is_not_here_is_named(stores, tmp_path):
    kind = "mps" if torch.cuda.is_available() else "cuda"
    with pytest.raises(ConfigError, match=f"run.accelerator is {kind}, but torch finds no such device"):
        train(small_config(*stores, run={"accelerator": kind}), tmp_path / "a", backbone=toy())
    assert not (tmp_path / "a").exists()


def test_a_file_in_place_of_the_folder_is_named(stores, tmp_path):
    (tmp_path / "file").write_text("keep")
    for folder, words in (
        (tmp_path / "file", "file is a file: a run needs a folder"),
        (tmp_path / "file/x", "cannot keep a run in .*Not a directory"),
        (Path("/proc/nothing"), "cannot keep a run in /proc/nothing: "),
    ):
        with pytest.raises(ConfigError, match=words) as caught:
            train(small_config(*stores), folder, backbone=toy())
        assert "\n" not in str(caught.value)
    assert (tmp_path / "file").read_text() == "keep"


def test_a_finished_run_is_not_trained_again(finished, stores):
    result, folder = finished
    before = (folder / STATE).stat().st_mtime_ns
    moved = small_config(*stores, run={"save_every": 5}, data={"cache": {"memory": 1}})
    again = train(moved, folder, backbone=toy())
    assert again.metrics == result.metrics
    assert (folder / STATE).stat().st_mtime_ns == before


def test_a_corrupt_record_is_stepped_over_and_reported(stores, tmp_path):
    import lmdb

    records = labelled(12)
    alien = HessianRecord(numbers=np.array([92, 8]), positions=np.array([[0, 0, 0], [0, 0, 1.8]]))
    store = write_store(tmp_path / "some.lmdb", [*records, alien.with_hessian(np.zeros((6, 6)))])
    with lmdb.open(store, subdir=False, max_dbs=8) as file:
        table = file.open_db(b"records")
        with file.begin(write=True, db=table) as transaction:
            keys = [key for key, _ in transaction.cursor()]
            transaction.put(keys[3], b"not a record at all")
    result = train(small_config(store, stores[1]), tmp_path / "a", backbone=toy())
    assert set(result.skipped) == {3, 12}
    assert "record 3" in result.skipped[3] and "92" in result.skipped[12]
    assert json.loads((tmp_path / "a/metrics.json").read_text())["skipped"].keys() == {"3", "12"}


def test_missing_labels_are_named(stores, tmp_path):
    bare = [replace(r, labelled=None, rows=None, energy=None, info={}) for r in labelled(8)]
    store = write_store(tmp_path / "bare.lmdb", bare)
    with pytest.raises(DataError, match=r"loss\.hessian\.mae is 1, but none of 8 records has any Hessian rows"):
        train(small_config(store, stores[1]), tmp_path / "a", backbone=toy())
    energy = {"energy": 1.0, "hessian": {"mae": 0.0, "twists": 0.0}}
    with pytest.raises(DataError, match=r"loss\.energy is 1, but none of 8 records has any energy"):
        train(
            small_config(store, stores[1], loss=energy, backbone={"trainable": "all"}), tmp_path / "b", backbone=toy()
        )


def test_a_loss_that_breaks_down_is_named_and_nothing_is_lost(stores, tmp_path, monkeypatch):
    from hip_ext.training import objective

    entry_loss = objective.entry_loss
    calls = []

    def poisoned(*args, **options):
        calls.append(1)
        return entry_loss(*args, **options) * (float("nan") if len(calls) > 12 else 1.0)

    monkeypatch.setattr(objective, "entry_loss", poisoned)
    with pytest.raises(DataError, match=r"broke down at step 5.*nan.*checkpoint: begin another run") as caught:
        train(small_config(*stores), tmp_path / "a", backbone=toy())
    assert "\n" not in str(caught.value)
    assert read_state(tmp_path / "a")["step"] == 4
    rescued = from_pretrained(tmp_path / "a/checkpoint", backbone=toy())
    assert all(bool(torch.isfinite(value).all()) for value in rescued.head.state_dict().values())


def test_a_full_disk_leaves_the_old_state(stores, tmp_path):
    config = small_config(*stores, run={"save_every": 2})
    folder = tmp_path / "full"
    train(small_config(*stores, run={"save_every": 2}), folder, backbone=toy())
    state = read_state(folder)
    size = (folder / STATE).stat().st_size
    from hip_ext.training.state import write_state

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, before[1]))
    try:
        with pytest.raises(DataError, match=r"cannot write the state of step 99 .*; the state before it is kept"):
            write_state(folder, {**state, "step": 99})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert read_state(folder)["step"] == config.run.steps
    assert not list(folder.glob(".state*"))


def test_a_damaged_state_is_named(finished, stores, tmp_path):
    folder = tmp_path / "damaged"
    folder.mkdir()
    for name in ("config.yaml", STATE):
        (folder / name).write_bytes((finished[1] / name).read_bytes())
    (folder / STATE).write_bytes((folder / STATE).read_bytes()[:4000])
    with pytest.raises(DataError, match=r"is damaged .* delete it"):
        train(small_config(*stores), folder, backbone=toy())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optimizer": {}}, "did you mean 'optimiser'"),
        ({"run": {"stepz": 3}}, "did you mean 'steps'"),
        ({"loss": {"hessian": {"maee": 1}}}, "did you mean 'mae'"),
        ({"loss": {"energy": 1.0}}, "need backbone.trainable"),
        ({"backbone": {"trainable": "all"}}, "needs loss.energy or loss.forces"),
        ({"data": {"train": ["a"], "batch": 2}, "run": {"devices": 4}}, "fewer than"),
        ({"data": {"train": []}}, r"'data.train' is \[\], expected 1 or more entries$"),
        ({"data": {"train": "a.lmdb"}}, "'data.train' is 'a.lmdb', expected a list$"),
        ({"data": None}, "'data' is None, expected keys with values$"),
        ({"stps": 40}, "there is no key 'stps'; did you mean 'run.steps'"),
        ({"backbone": {"trainable": 3}}, "'backbone.trainable' is 3, expected one of 'none' or 'all' or a list$"),
        ({"run": {"zebra": 1}}, "there is no key 'run.zebra'; known are steps, evaluate_every"),
        (
            {"run": {"steps": -4}, "optimiser": {"learning_rate": float("nan")}, "head": {"layer": 2}},
            r"no key 'head.layer'; did you mean 'layers'\? 'optimiser.learning_rate' is nan, expected a finite number; "
            "'run.steps' is -4, expected at least 1$",
        ),
        (
            {"loss": {"energy": 1.0}, "data": {"train": ["a"], "batch": 2}, "run": {"devices": 4}},
            "bad.yaml: loss.energy and .* does not move; data.batch is 2, fewer than",
        ),
        ({"loss": {"hessian": {"mae": 0, "twists": 0}}}, "every loss has weight zero"),
    ],
)
def test_bad_configs_are_named(tmp_path, values, message):
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump({"data": {"train": ["a.lmdb"]}, **values}))
    with pytest.raises(ConfigError, match=message) as caught:
        TrainingConfig.from_yaml(path)
    assert "\n" not in str(caught.value)


def test_a_pattern_of_no_parameter_and_a_missing_store_are_named(stores, tmp_path):
    loss = {"forces": 1.0}
    config = small_config(*stores, backbone={"trainable": ["wights"]}, loss=loss)
    with pytest.raises(ConfigError, match="did you mean 'weights'"):
        train(config, tmp_path / "a", backbone=toy())
    (tmp_path / "labels.xyz").write_text("1\n\nH 0 0 0\n")
    with pytest.raises(
        DataError, match=r"labels\.xyz is no label store: hip-ext data convert .*labels\.xyz labels\.lmdb"
    ):
        train(small_config(str(tmp_path / "labels.xyz"), stores[1]), tmp_path / "b", backbone=toy())
    with pytest.raises(HipExtError, match="no label store"):
        train(small_config(str(tmp_path / "none.lmdb"), stores[1]), tmp_path / "b", backbone=toy())
    config = small_config(*stores, run={"precision": "float32"})
    with pytest.raises(ConfigError, match=r"run.precision is float32, the backbone computes in torch\.float64"):
        train(config, tmp_path / "c", backbone=toy())


def test_what_may_change_when_a_run_goes_on(stores):
    one = small_config(*stores)
    other = small_config(*stores, run={"devices": 2}, data={"workers": 3, "cache": {"memory": 5}})
    assert first_difference(one.model_dump(), other.model_dump()) is None
    assert HEAD["scalars"] == one.head.scalars
