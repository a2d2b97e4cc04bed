"""What a training run does with data, folders and disks that are not as they should be: a named end, nothing lost."""

import multiprocessing
import os
import resource
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.units import Bohr, Hartree
from test_data_check import springs
from training_cases import labelled, small_config, toy, write_store

from hip_ext.errors import CheckpointError, ConfigError, DataError
from hip_ext.model import from_pretrained
from hip_ext.training.run import train
from hip_ext.training.state import STATE, read_state

pytest.importorskip("lightning", reason="Lightning is not installed")


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    records = labelled(20)
    return write_store(folder / "train.lmdb", records[:16]), write_store(folder / "validation.lmdb", records[16:])


@pytest.fixture(scope="module")
def undisturbed(stores, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "a"
    return train(small_config(*stores, run={"save_every": 1}), folder, backbone=toy()), folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_one_store_in_other_units_among_others_is_named(tmp_path):
    names = ("H2O", "CH4", "NH3", "CH3OH", "C2H4", "C2H6")
    right = [springs(name, seed) for name in names for seed in range(3)]
    wrong = [replace(r, rows=r.rows / (Hartree / Bohr**2), forces=None, info={}) for r in right[:6]]
    paths = [write_store(tmp_path / "right.lmdb", right), write_store(tmp_path / "wrong.lmdb", wrong)]
    data = {"train": paths, "validation": [paths[0]], "trust_units": False}
    config = small_config(*paths, data=data, run={"steps": 2, "evaluate_every": 2})
    with pytest.raises(DataError, match=r"^6 of 24 records .* other units, the first: .*Hartree/Bohr².*trust_units$"):
        train(config, tmp_path / "a", backbone=toy())
    assert train(config.changed({"data": {"trust_units": True}}), tmp_path / "a", backbone=toy()).metrics
    config = config.changed({"data": {"train": paths[:1]}})
    assert train(config, tmp_path / "b", backbone=toy()).metrics["all"]["structures"] == len(right)


def test_a_run_does_not_go_on_with_another_backbone_or_other_data(undisturbed, stores, tmp_path):
    folder = undisturbed[1]
    before = contents(folder)
    with pytest.raises(ConfigError, match=r"begun with a backbone of other weights \(fingerprint \w+, now \w+\)"):
        train(small_config(*stores), folder, backbone=toy(seed=1))
    grown = write_store(tmp_path / "grown.lmdb", labelled(6))
    config = small_config(grown, stores[1], run={"steps": 2, "evaluate_every": 2})
    train(config, tmp_path / "b", backbone=toy())
    write_store(grown, labelled(3, seed=5))
    with pytest.raises(ConfigError, match=r"6 training and 4 validation records, now there are 9 and 4"):
        train(config, tmp_path / "b", backbone=toy())
    assert contents(folder) == before


def test_a_head_of_another_backbone_is_no_start(undisturbed, stores, tmp_path):
    config = small_config(*stores, head=None, start=str(undisturbed[0].checkpoint))
    with pytest.raises(CheckpointError, match="fingerprint") as caught:
        train(config, tmp_path / "a", backbone=toy(seed=1))
    assert "\n" not in str(caught.value)


def test_one_corrupt_record_among_thousands(tmp_path):
    """Every record is read; the damaged one is named, and the others teach what they teach."""
    import lmdb

    some = [replace(r, rows=r.rows.astype(np.float32), info={}) for r in labelled(24)]
    store = write_store(tmp_path / "many.lmdb", [some[k % len(some)] for k in range(3000)])
    with lmdb.open(store, subdir=False, max_dbs=8) as file, file.begin(write=True) as transaction:
        table = file.open_db(b"records", transaction)
        key = list(transaction.cursor(table).iternext(values=False))[1234]
        value = bytearray(transaction.get(key, db=table))
        value[len(value) // 2] ^= 1
        transaction.put(key, bytes(value), db=table)
    validation = write_store(tmp_path / "validation.lmdb", some[:4])
    config = small_config(
        store,
        validation,
        data={"batch": 100, "bucket": 5},
        run={"steps": 30, "evaluate_every": 30, "precision": "float64"},
    )
    result = train(config, tmp_path / "a", backbone=toy())
    assert set(result.skipped) == {1234}
    assert "record 1234" in result.skipped[1234]
    assert np.isfinite(result.curve[-1]["held_out_mae"])


def test_a_disk_that_fills_up_during_a_run_loses_nothing(undisturbed, stores, tmp_path):
    result, folder = undisturbed
    config = small_config(*stores, run={"save_every": 1})
    size = (folder / STATE).stat().st_size
    reader, writer = multiprocessing.Pipe(duplex=False)

    def work():
        def stages(name, total):
            def report(done, note):
                if name == "train" and done == 3:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))

            return report

        try:
            train(config, tmp_path / "full", backbone=toy(), stages=stages)
        except DataError as error:
            writer.send(str(error))
            os._exit(2)
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    assert process.exitcode == 2
    message = reader.recv()
    assert message.startswith("cannot write the state of step 3")
    assert "the state before it is kept, make room and run the same command" in message
    assert read_state(tmp_path / "full")["step"] == 2
    again = train(config, tmp_path / "full", backbone=toy())
    assert again.metrics == result.metrics
    assert again.curve == result.curve


def test_a_learning_rate_that_is_much_too_large_ends_with_the_last_finite_weights(stores, tmp_path):
    config = small_config(*stores, optimiser={"learning_rate": 1e200, "warmup": 0}, run={"steps": 40})
    with pytest.raises(DataError, match=r"broke down at step \d+: loss .*begin another run with a smaller") as caught:
        train(config, tmp_path / "a", backbone=toy())
    assert "\n" not in str(caught.value)
    saved = from_pretrained(tmp_path / "a/checkpoint", backbone=toy())
    assert all(bool(torch.isfinite(value).all()) for value in saved.head.state_dict().values())


def test_energies_and_forces_alone(stores, tmp_path):
    config = small_config(
        *stores,
        backbone={"trainable": "all"},
        loss={"energy": 1.0, "forces": 10.0, "hessian": {"mae": 0.0, "twists": 0.0}},
    )
    result = train(config, tmp_path / "a", backbone=toy(seed=3))
    assert result.curve[-1]["held_out_forces"] < result.curve[0]["held_out_forces"]
    assert (tmp_path / "a/learning_curve.png").read_bytes().startswith(b"\x89PNG")


def test_validation_on_products_alone(stores, tmp_path):
    rng = np.random.default_rng(0)
    records = []
    for record in labelled(8, seed=4):
        probes = rng.normal(size=(2, len(record.numbers), 3))
        products = (probes.reshape(2, -1) @ record.hessian()).reshape(probes.shape)
        records.append(replace(record, labelled=None, rows=None, probes=probes, products=products, info={}))
    path = write_store(tmp_path / "products.lmdb", records)
    config = small_config(stores[0], path, loss={"hessian": {"products": 1.0}}, data={"train": [stores[0], path]})
    result = train(config, tmp_path / "a", backbone=toy())
    first, last = result.curve[0], result.curve[-1]
    assert "held_out_mae" not in last
    assert last["held_out_products"] < first["held_out_products"]
    model = result.model
    errors = [
        np.abs(
            np.einsum("ab,kb->ka", model.hessian(r.atoms()).dense().numpy(), r.probes.reshape(2, -1)).reshape(
                r.products.shape
            )
            - r.products
        ).mean()
        for r in records
    ]
    assert last["held_out_products"] == pytest.approx(np.mean(errors), rel=1e-9)
