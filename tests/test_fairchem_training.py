"""Training a Hessian head by fairchem's own command line: the recipes, stopping and going on, bad data."""

import argparse
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

pytest.importorskip("fairchem.core", reason="needs fairchem-core")

import fairchem_cases as cases
from ase.db import connect
from fairchem.core import FAIRChemCalculator
from fairchem.core._cli import get_hydra_config_from_yaml, main
from fairchem.core.datasets.base_dataset import create_dataset
from fairchem.core.datasets.mt_concat_dataset import ConcatDataset
from fairchem.core.datasets.samplers.max_atom_distributed_sampler import MaxAtomDistributedBatchSampler
from fairchem.core.units.mlip_unit import load_predict_unit
from fairchem.core.units.mlip_unit.mlip_unit import Task, mt_collater_adapter
from hydra.utils import instantiate
from torch.utils.data import DataLoader

from hip_ext.errors import ConfigError, DataError
from hip_ext.plugins.fairchem import HessianDataset, HessianTrainEvalUnit, hessian_model, write_database
from hip_ext.plugins.fairchem.database import scales
from hip_ext.plugins.fairchem.layout import LABELS, labels_of
from hip_ext.plugins.fairchem.unit import with_targets

RECIPES = Path(__file__).parents[1] / "configs" / "fairchem"
SMALL = "{scalars: 12, channels: 4, layers: 1, hidden: 12, pair_channels: 4, coordinates: 6, cutoff: 3.0}"
TASK = "omol_direct_hessian"
STEPS = 12


def labelled(name, seed, hessian=True):
    """A rattled molecule with the energy, forces and Hessian of ASE's EMT, by central differences of its forces."""
    atoms = molecule(name)
    atoms.rattle(0.05, seed=seed)
    atoms.calc = EMT()
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    rows = []
    for index in np.ndindex(len(atoms), 3):
        pair = []
        for step in (1e-4, -1e-4):
            moved = atoms.copy()
            moved.positions[index] += step
            moved.calc = EMT()
            pair.append(moved.get_forces().ravel())
        rows.append((pair[1] - pair[0]) / 2e-4)
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    atoms.info.update(charge=0, spin=1)
    if hessian:
        matrix = np.array(rows)
        atoms.info["hessian"] = (matrix + matrix.T) / 2
    return atoms


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two databases; every third structure, the first among them, has no Hessian."""
    folder = tmp_path_factory.mktemp("data")
    names = ["H2O", "NH3", "CH4", "H2O", "CO2", "HCN", "NH3", "C2H2"]
    train = [labelled(name, seed, hessian=seed % 3 > 0) for seed, name in enumerate(names)]
    write_database(folder / "train", train)
    write_database(folder / "val", [labelled("H2O", 20, hessian=False), labelled("NH3", 21), labelled("CH4", 22)])
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return cases.write_checkpoint(tmp_path_factory.mktemp("base") / "base.pt", *cases.dense())


def arguments(data, run_dir, **more):
    """The options of a short run on the CPU."""
    values = {
        "train": data / "train",
        "val": data / "val",
        "job.run_dir": run_dir,
        "job.device_type": "CPU",
        "steps": STEPS,
        "max_atoms": 9,
        "every": 4,
        "workers": 0,
        "head": SMALL,
        "+job.timestamp_id": "run",
    }
    return [f"{name}={value}" for name, value in (values | more).items()]


def command(recipe, *options):
    code = "import torch; torch.set_num_threads(1); from fairchem.core._cli import main; main()"
    return [sys.executable, "-c", code, "-c", str(recipe), *options]


def run(recipe, *options):
    """Runs fairchem's command line in this process, whose import of fairchem takes long, and returns what it logs."""
    lines, state = [], torch.get_rng_state()
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    handlers = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGINT)}
    logging.getLogger().addHandler(handler)
    try:
        main(argparse.Namespace(config=str(recipe)), list(options))
    finally:
        if torch.distributed.is_initialized():  # a run that ends in an error leaves its process group behind
            torch.distributed.destroy_process_group()
        logging.getLogger().removeHandler(handler)
        torch.set_rng_state(state)
        for name, before in handlers.items():
            signal.signal(name, before)
    return "\n".join(lines)


@pytest.fixture(scope="module")
def interrupted(data, base, tmp_path_factory):
    """A run that was killed after its first checkpoint."""
    folder = tmp_path_factory.mktemp("interrupted")
    options = arguments(data, folder, checkpoint=base, steps=400)
    log = folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command(RECIPES / "hessian-head.yaml", *options), stdout=output, stderr=output, start_new_session=True
        )
        checkpoint = folder / "run" / "checkpoints" / "step_4"
        deadline = time.monotonic() + 240
        while not (checkpoint / "inference_ckpt.pt").exists() or not (checkpoint / "resume.yaml").exists():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.05)
        time.sleep(0.3)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    return folder


@pytest.fixture(scope="module")
def finished(interrupted):
    """The same run, taken up from its last whole checkpoint and trained to step 12 or more."""
    checkpoints = interrupted / "run" / "checkpoints"
    whole = [p for p in checkpoints.iterdir() if (p / ".metadata").exists() and (p / "resume.yaml").exists()]
    last = max(whole, key=lambda p: int(p.name.removeprefix("step_")))
    steps = int(last.name.removeprefix("step_")) + 8
    log = run(last / "resume.yaml", f"runner.max_steps={steps}")
    return last, steps, checkpoints / "final", log


def read(path):
    return torch.load(path, map_location="cpu", weights_only=False)


def test_a_killed_run_goes_on(finished):
    last, steps, final, log = finished
    before = int(last.name.removeprefix("step_"))
    assert f"Training Completed {steps} steps" in log
    assert "setting sampler state to" in log
    old, new = read(last / "inference_ckpt.pt"), read(final / "inference_ckpt.pt")
    head = {name for name in new.model_state_dict if ".hessian.head." in name}
    weights = {name for name in head if name.endswith("weight")}
    assert before >= 4 and weights
    assert any(not torch.equal(old.model_state_dict[name], new.model_state_dict[name]) for name in weights)
    scale = next(name for name in head if name.endswith("scalar_scale"))
    assert torch.equal(old.model_state_dict[scale], new.model_state_dict[scale])
    assert not bool((new.model_state_dict[scale] == 1).all())


def test_evaluation_reports_the_error_of_the_labelled_structures(finished):
    assert f"val/omol.val,{TASK},mae" in finished[3]


def test_all_other_weights_and_predictions_stay(finished, base):
    final = finished[2] / "inference_ckpt.pt"
    old, new = read(base), read(final)
    for name, value in old.ema_state_dict.items():
        if name != "n_averaged":
            assert torch.equal(value, new.ema_state_dict[name]), name
    results = []
    for path in (base, final):
        atoms = molecule("CH3CH2OH")
        atoms.info.update(charge=0, spin=1)
        unit = load_predict_unit(str(path), device="cpu", inference_settings="batch", seed=3)
        atoms.calc = FAIRChemCalculator(unit, task_name="omol")
        torch.manual_seed(1)
        results.append((atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(), atoms.calc.results))
    for a, b in zip(results[0][:3], results[1][:3], strict=True):
        np.testing.assert_array_equal(a, b)
    assert "hessian" not in results[0][3] and results[1][3]["hessian"].shape == (27, 27)


def test_the_checkpoint_loads_in_a_fresh_process(finished):
    final = finished[2] / "inference_ckpt.pt"
    code = (
        "import sys, json; from ase.build import molecule; from fairchem.core import FAIRChemCalculator\n"
        "from fairchem.core.units.mlip_unit import load_predict_unit\n"
        "unit = load_predict_unit(sys.argv[1], device='cpu', inference_settings='batch')\n"
        "a = molecule('NH3'); a.info.update(charge=0, spin=1); a.calc = FAIRChemCalculator(unit, task_name='omol')\n"
        "a.get_forces(); print('RESULT', json.dumps(a.calc.results['hessian'].tolist()))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(final)], check=True, capture_output=True, text=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))
    found = np.array(json.loads(line.removeprefix("RESULT")))
    atoms = molecule("NH3")
    atoms.info.update(charge=0, spin=1)
    model = hessian_model(final)
    np.testing.assert_allclose(found, model.hessian(atoms).dense().numpy(), atol=1e-4 * abs(found).max())


@pytest.mark.parametrize("recipe", ["energy-forces", "joint", "hessian-head"])
def test_recipes_are_whole(recipe, data, tmp_path):
    more = {"checkpoint": "none.pt"} if recipe == "hessian-head" else {}
    options = arguments(data, tmp_path, **more)
    if recipe == "energy-forces":
        options = [option for option in options if not option.startswith("head=")]
    config = get_hydra_config_from_yaml(str(RECIPES / f"{recipe}.yaml"), options)
    tasks = [instantiate(task) for task in config.runner.train_eval_unit.tasks]
    dataset = instantiate(config.runner.train_dataloader.dataset)
    assert len(dataset) == 8
    batch = mt_collater_adapter(tasks)([dataset[k] for k in range(8)])
    assert {task.name for task in tasks} <= set(batch.keys())


@pytest.fixture(scope="module")
def joint(data, tmp_path_factory):
    """Energies, forces and Hessians from scratch, everything learning."""
    folder = tmp_path_factory.mktemp("joint")
    references, scale = scales(data / "train")
    small = {"channels": 8, "layers": 1, "energy_scale": scale, "learning_rate": 0.005, "every": 12}
    options = arguments(data, folder, energy_references=references, **small)
    log = run(RECIPES / "joint.yaml", *options, "runner.train_eval_unit.ema_decay=0.5")
    return folder / "run" / "checkpoints" / "final" / "inference_ckpt.pt", log


def test_training_everything_together(joint):
    path, log = joint
    assert f"val/omol.val,{TASK},mae" in log and "val/omol.val,forces,mae" in log
    unit = load_predict_unit(str(path), device="cpu", inference_settings="batch")
    atoms = molecule("H2O")
    atoms.info.update(charge=0, spin=1)
    atoms.calc = FAIRChemCalculator(unit, task_name="omol")
    assert np.isfinite(atoms.get_potential_energy())
    assert atoms.calc.results["hessian"].shape == (9, 9)


def source(folder):
    """How a recipe names a data set."""
    return {
        "format": "hip_ext.plugins.fairchem.dataset.HessianDataset",
        "src": [str(folder)],
        "key_mapping": {"hessian": TASK},
        "a2g_args": {"task_name": "omol", "r_data_keys": ["charge", "spin"]},
        "transforms": {"common_transform": {"dataset_name": "omol"}},
    }


def dataset(folder, **more):
    return HessianDataset(source(folder) | more)


def hessian_task():
    config = get_hydra_config_from_yaml(str(RECIPES / "hessian-head.yaml"), ["checkpoint=x", "train=x", "val=x"])
    return instantiate(config.runner.train_eval_unit.tasks[0])


def test_labels_of_mixed_batches(data):
    structures = dataset(data / "train")
    batch = mt_collater_adapter([hessian_task()])([structures[k] for k in range(5)])
    labels = labels_of(batch, TASK)
    for k, label in enumerate(labels):
        expected = structures.get_atoms(k).info.get("hessian")
        assert (label is None) == (expected is None) == (k % 3 == 0)
        if label is not None:
            np.testing.assert_allclose(label, expected, rtol=1e-6, atol=1e-6)
    seen = with_targets(batch, [hessian_task()])
    assert torch.isfinite(seen[TASK]).tolist() == [k % 3 != 0 for k in range(5)]
    assert [label is None for label in seen[LABELS]] == [k % 3 == 0 for k in range(5)]


def test_another_data_set_without_hessians_is_masked(data):
    """fairchem's collater fills in for data sets whose structures have no such task."""
    structures = dataset(data / "train")
    other = structures[1]
    del other[TASK]
    other.dataset = "omat"
    task = hessian_task()
    energy = Task("energy", "system", "energy", task.out_spec, task.normalizer, ["omol", "omat"], task.loss_fn)
    items = [structures[2], other]
    for item in items:
        item["energy"] = torch.zeros(1)
    batch = mt_collater_adapter([task, energy])(items)
    labels = labels_of(batch, TASK)
    assert labels[0] is not None and labels[1] is None


def spoiled(folder, records):
    folder.mkdir()
    with connect(str(folder / "data.aselmdb"), type="aselmdb") as database:
        for atoms, hessian in records:
            database.write(atoms, data={"charge": 0, "spin": 1} | ({} if hessian is None else {"hessian": hessian}))
    return folder


WATER = molecule("H2O")
GOOD = np.eye(9)
BAD = {
    "81 entries, found 80": np.ones(80),
    "3 of 81 Hessian entries are not finite": np.where(np.arange(81) < 3, np.nan, 1.0),
    "is symmetric": np.triu(np.ones((9, 9))) * 5,
}


@pytest.mark.parametrize("reason", BAD)
def test_bad_labels_are_found_before_training(tmp_path, reason):
    folder = spoiled(tmp_path / "bad", [(WATER, GOOD), (WATER, BAD[reason]), (WATER, None)])
    with pytest.raises(DataError, match=reason) as error:
        dataset(folder)
    assert "1 of 3 checked records" in str(error.value) and "record 1" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_bad_record_does_not_stop_a_run(tmp_path, caplog):
    close = Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.01]])
    records = [(WATER, GOOD), (WATER, BAD["81 entries, found 80"]), (close, None), (WATER, 2 * GOOD)]
    structures = dataset(spoiled(tmp_path / "bad", records), bad_records="skip")
    assert structures.labelled == 2
    with caplog.at_level(logging.WARNING):
        assert torch.isinf(structures[1][TASK]).all()
        stand_in = structures[2]
        assert torch.equal(stand_in[TASK], 2 * torch.eye(9).ravel())
        structures[1], structures[2]
    assert caplog.text.count("its Hessian is left out") == 1
    assert caplog.text.count("stands in") == 1
    with pytest.raises(ConfigError, match="'error' or 'skip', found 'ignore'"):
        dataset(tmp_path / "bad", bad_records="ignore")


def test_a_run_without_any_hessian_does_not_start(tmp_path, base):
    for name in ("molecules", "crystals"):
        write_database(tmp_path / name, [labelled("H2O", seed, hessian=False) for seed in range(3)])
    parts = {f"{name}.train": dataset(tmp_path / name) for name in ("molecules", "crystals")}
    assert [part.labelled for part in parts.values()] == [0, 0]
    mixed = ConcatDataset(parts, ONE)
    state = SimpleNamespace(train_state=SimpleNamespace(dataloader=DataLoader(mixed)), eval_state=None)
    unit = object.__new__(HessianTrainEvalUnit)
    with pytest.raises(DataError, match="no structure of any data set has a Hessian") as error:
        HessianTrainEvalUnit.on_train_start(unit, state)
    assert "\n" not in str(error.value)


def test_the_command_ends_before_its_first_step_where_nothing_is_labelled(base, tmp_path):
    for name in ("train", "val"):
        write_database(tmp_path / name, [labelled("H2O", seed, hessian=False) for seed in range(3)])
    options = arguments(tmp_path, tmp_path / "run", checkpoint=base)
    with pytest.raises(Exception, match="no structure of any data set has a Hessian"):
        run(RECIPES / "hessian-head.yaml", *options)
    assert not list(tmp_path.glob("run/run/checkpoints/*"))


def test_data_sets_of_nothing(data, tmp_path):
    folder = spoiled(tmp_path / "empty", [])
    with pytest.raises(DataError, match="No valid ase data found") as error:
        dataset(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(DataError, match=r"none of 8 structures has up to max_atoms=2 atoms, the smallest has 3"):
        dataset(data / "train", max_atoms=2)
    assert dataset(data / "train", max_atoms=3).labelled > 0


def test_batches_of_nothing(data):
    """fairchem's sampler drops structures that are too large for a batch, all of them if need be."""
    joined = ConcatDataset(
        {"omol.train": create_dataset({"splits": {"train": {}}} | source(data / "train"), "train")}, ONE
    )
    sampler = MaxAtomDistributedBatchSampler(joined, max_atoms=2, num_replicas=1, rank=0, seed=0, shuffle=True)
    assert sampler.all_batches == [[]]
    whole = MaxAtomDistributedBatchSampler(joined, max_atoms=9, num_replicas=1, rank=0, seed=0, shuffle=True)
    unit = object.__new__(HessianTrainEvalUnit)
    for train, evaluation in ((sampler, whole), (whole, sampler)):
        parts = [SimpleNamespace(dataloader=DataLoader(joined, batch_sampler=one)) for one in (train, evaluation)]
        with pytest.raises(DataError, match="all structures have more than max_atoms=2 atoms: set a larger one"):
            unit.on_train_start(SimpleNamespace(train_state=parts[0], eval_state=parts[1]))


def test_a_record_that_turns_bad_stops_no_training(data, base, tmp_path):
    """The check at the start, here of the first and the last record, does not see them."""
    folder = tmp_path / "train"
    shutil.copytree(data / "train", folder)
    with connect(str(folder / "data.aselmdb"), type="aselmdb") as database:
        database.update(3, data={"charge": 0, "spin": 1, "hessian": np.full(225, np.nan)})
        broken = database.get_atoms(6)
        broken.positions[1] = broken.positions[0]
        database.update(6, atoms=broken, data={"charge": 0, "spin": 1})
    unchecked = "runner.train_dataloader.dataset.dataset_configs.omol.splits.train"
    options = arguments(data, tmp_path / "run", checkpoint=base, train=folder, steps=8, every=8)
    log = run(RECIPES / "hessian-head.yaml", *options, f"+{unchecked}.check_records=2")
    assert "Training Completed 8 steps" in log
    assert log.count("its Hessian is left out: 225 of 225 Hessian entries are not finite") == 1
    assert log.count("the next one stands in: two atoms on one spot") == 1
    assert f"val/omol.val,{TASK},mae" in log


ONE = {"type": "temperature", "temperature": 1.0}


def test_tasks_that_do_not_fit_are_refused(base, tmp_path):
    import dataclasses

    from hip_ext.plugins.fairchem import add_hessian_head

    model = add_hessian_head(base, [TASK], head={"scalars": 8, "channels": 2})
    task = hessian_task()
    wrong = {
        "no head answers the task 'omat_direct_hessian', only omol_direct_hessian": {"name": "omat_direct_hessian"},
        "level: system": {"level": "atom"},
        "rmsd 1": {"normalizer": type(task.normalizer)(0.0, 2.0)},
        r"names \['omat'\], the model knows \['omol'\]": {"datasets": ["omat"]},
    }
    for message, change in wrong.items():
        with pytest.raises(ConfigError, match=message):
            HessianTrainEvalUnit(None, model, None, None, [dataclasses.replace(task, **change)])
    with pytest.raises(ConfigError, match="1 Hessian heads and 0 Hessian tasks"):
        HessianTrainEvalUnit(None, model, None, None, [])
    with pytest.raises(ConfigError, match="head config"):
        add_hessian_head(base, [TASK], head={"scalar": 8})
    with pytest.raises(ConfigError, match="everything, heads, hessian"):
        add_hessian_head(base, [TASK], trainable="nothing")


def test_database_round_trip_and_scales(tmp_path):
    atoms = labelled("NH3", 1)
    assert write_database(tmp_path / "one", [atoms, labelled("H2O", 2)]) == 2
    with pytest.raises(DataError, match="exists"):
        write_database(tmp_path / "one", [atoms])
    with pytest.raises(DataError, match="no structures"):
        write_database(tmp_path / "none", [])
    stored = dataset(tmp_path / "one").get_atoms(0)
    np.testing.assert_array_equal(stored.info["hessian"], atoms.info["hessian"])
    np.testing.assert_allclose(stored.get_forces(), atoms.get_forces())
    references, scale = scales(tmp_path / "one")
    assert len(references) == 9 and scale > 0


@pytest.mark.parametrize("moment", ["after two records", "between the two files"])
def test_a_database_is_whole_or_not_there(tmp_path, moment):
    """A writer that is killed leaves nothing that a reader would take, and the same command then writes it."""
    folder, records = tmp_path / "train", [labelled("H2O", seed) for seed in range(3)]

    def killed_in_time():
        yield from records[:2]
        if moment == "after two records":
            os.kill(os.getpid(), signal.SIGKILL)
        yield records[2]

    replace = Path.replace

    def killed_after(path, target):
        replace(path, target)
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if not child:
        Path.replace = killed_after
        write_database(folder, killed_in_time())
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not list(folder.glob("*.aselmdb"))
    with pytest.raises(DataError, match="No valid ase data found"):
        dataset(folder)
    assert write_database(folder, records) == 3
    assert dataset(folder).labelled == 3
    assert sorted(path.name for path in folder.glob("*")) == ["data.aselmdb", "metadata.npz"]


def test_an_error_in_the_middle_leaves_no_database(tmp_path):
    def spoiled_third():
        yield from (labelled("H2O", seed) for seed in range(2))
        raise DataError("the third record is damaged")

    with pytest.raises(DataError, match="the third record"):
        write_database(tmp_path / "train", spoiled_third())
    assert not list((tmp_path / "train").iterdir())
