"""MACE's own trainer with a Hessian head: what it learns, what it leaves alone, what it refuses, and going on."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.io import read, write
from backbone_cases import mace_calculator, random_mace, trained_mace

from hip_ext import from_pretrained
from hip_ext.backbones import load_backbone
from hip_ext.backbones.mace_models import import_mace
from hip_ext.cli.app import app
from hip_ext.errors import CheckpointError, ConfigError, DataError, HipExtError
from hip_ext.head import HeadConfig
from hip_ext.plugins.mace.labels import label_loader
from hip_ext.plugins.mace.loss import HessianLoss
from hip_ext.plugins.mace.model import DIRECT_HESSIAN, JointMACE
from hip_ext.plugins.mace.options import parse
from hip_ext.plugins.mace.session import check_optimiser
from hip_ext.plugins.mace.trainer import train
from hip_ext.reference import autograd_hessian
from hip_ext.structures import Structures

if find_spec("mace") is None:
    pytest.skip("needs mace-torch", allow_module_level=True)

HEAD = "{scalars: 16, channels: 4, hidden: 16, pair_channels: 4, coordinates: 4, cutoff: 3.0}"
NEW_MODEL = ["--r_max=4.0", "--num_channels=8", "--max_L=1", "--correlation=2", "--num_radial_basis=6"]
E0S = "{1: -1.0, 6: -3.0, 7: -4.0, 8: -5.0}"
UNLABELLED = 3
"""Index of the training structure without a Hessian."""


def labelled_molecules() -> tuple[list[Atoms], list[Atoms]]:
    """Rattled molecules with energy, forces and Hessian of a random MACE model: to train on, and to validate on."""
    teacher = load_backbone("mace", random_mace(seed=1))
    frames = []
    for seed, name in enumerate(["H2O", "CH4", "NH3", "H2O", "CH4", "NH3", "H2O", "H2CO"]):
        atoms = molecule(name)
        atoms.rattle(0.05, seed=seed)
        structures = Structures.from_ase(atoms)
        found = teacher.evaluate(structures)
        atoms.info["REF_energy"] = float(found.energy[0])
        atoms.arrays["REF_forces"] = found.forces.numpy()
        if seed != UNLABELLED:
            atoms.info["REF_hessian"] = 100 * autograd_hessian(teacher, structures).numpy().ravel()
        frames.append(atoms)
    return frames[:6], frames[6:]


class Workshop:
    """A folder with data and a foundation model, and a way to run the trainer in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, frames in zip(("train", "valid"), labelled_molecules(), strict=True):
            write(folder / f"{name}.xyz", frames, format="extxyz")
        # As they are in the files, with eight decimals.
        self.training, self.validation = (read(folder / f"{name}.xyz", index=":") for name in ("train", "valid"))
        torch.save(random_mace(seed=0), folder / "base.model")
        (folder / "checkpoints").mkdir()  # MACE makes it with its first checkpoint, which a run of no epochs has not
        self.frozen = ["--freeze_backbone", f"--foundation_model={folder}/base.model"]

    def arguments(self, name: str, *options: str, epochs: int = 1) -> list[str]:
        given = {option.partition("=")[0] for option in options}
        defaults = {
            "--work_dir": self.folder,
            "--train_file": self.folder / "train.xyz",
            "--valid_file": self.folder / "valid.xyz",
            "--E0s": "average",
            "--batch_size": 2,
            "--valid_batch_size": 2,
            "--hessian_head": HEAD,
            "--max_num_epochs": epochs,
            "--plot": False,
        }
        own = [f"{option}={value}" for option, value in defaults.items() if option not in given]
        return [f"--name={name}", *own, *options]

    def train(self, name: str, *options: str, epochs: int = 1) -> Path:
        return train(self.arguments(name, *options, epochs=epochs))

    def model(self, name: str) -> torch.nn.Module:
        return torch.load(self.folder / f"{name}.model", weights_only=False)

    def epochs(self, name: str) -> list[int]:
        """The epochs in which a run made steps, in their order."""
        lines = (self.folder / "results" / f"{name}_run-123_train.txt").read_text().splitlines()
        steps = [record["epoch"] for record in map(json.loads, lines) if record["mode"] == "opt"]
        return [epoch for place, epoch in enumerate(steps) if place == 0 or steps[place - 1] != epoch]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("mace_train"))


@pytest.fixture(scope="module")
def untrained(workshop: Workshop) -> Path:
    """A head as it is before training."""
    return workshop.train("untrained", *workshop.frozen, epochs=0)


def head_weights(folder: Path) -> dict[str, torch.Tensor]:
    model = from_pretrained(folder, trust_source=True)
    return {name: parameter.detach() for name, parameter in model.head.named_parameters()}


def assert_all_differ(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if torch.equal(first[name], second[name])] == []


def assert_same_module(first: torch.nn.Module, second: torch.nn.Module) -> None:
    expected = first.state_dict()
    assert second.state_dict().keys() == expected.keys()
    assert [name for name, value in second.state_dict().items() if not torch.equal(value, expected[name])] == []


# Training


def test_a_frozen_backbone_stays_as_it_is_and_its_head_learns(workshop, untrained):
    end = workshop.train("frozen", *workshop.frozen, "--ema", "--weight_decay=0.1", "--hessian_lr=0.01", epochs=25)
    base, left = workshop.model("base"), workshop.model("frozen")
    assert_same_module(base, left)
    assert [p.requires_grad for p in left.parameters()] == [p.requires_grad for p in base.parameters()]
    assert_all_differ(head_weights(untrained), head_weights(end))
    own = from_pretrained(end, backbone=load_backbone("mace", str(workshop.folder / "base.model")))
    first = from_pretrained(untrained, trust_source=True)
    assert own.metrics["validation"]["structures"] == 2 and own.elements == [1, 6, 7, 8]
    assert own.metrics["validation"]["hessian_mae"] < 0.7 * first.metrics["validation"]["hessian_mae"]
    errors = []
    for atoms in workshop.validation:
        label = np.reshape(atoms.info["REF_hessian"], (3 * len(atoms), -1))
        errors.append(np.abs(own.hessian(atoms).dense().numpy() - label).mean())
    assert own.metrics["validation"]["hessian_mae"] == pytest.approx(np.mean(errors), rel=1e-10)
    for atoms in workshop.validation:
        results = []
        for model in (base, left):
            copy = atoms.copy()
            copy.calc = mace_calculator(model)
            results.append((copy.get_potential_energy(), copy.get_forces()))
        assert results[0][0] == results[1][0] and np.array_equal(results[0][1], results[1][1])


def test_a_new_model_is_trained_together_with_its_head(workshop):
    start = workshop.train("new0", *NEW_MODEL, epochs=0)
    end = workshop.train("new", *NEW_MODEL, epochs=2)
    assert_all_differ(head_weights(start), head_weights(end))
    before = dict(workshop.model("new0").named_parameters())
    after = dict(workshop.model("new").named_parameters())
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert {name.partition(".")[0] for name in moved} >= {"node_embedding", "interactions", "products", "readouts"}
    # The energy model knows nothing of the head: its file runs in MACE alone, and gives what the joint model gives.
    assert type(workshop.model("new")).__module__.startswith("mace.")
    atoms = workshop.validation[1].copy()
    atoms.calc = mace_calculator(workshop.model("new"))
    joint = from_pretrained(end, trust_source=True).energy_forces_hessian(atoms)
    assert float(joint.energy) == pytest.approx(atoms.get_potential_energy(), rel=1e-13)
    np.testing.assert_allclose(joint.forces.numpy(), atoms.get_forces(), rtol=0, atol=1e-13)


def test_lora_trains_the_head_and_is_merged_into_the_energy_model(workshop, untrained):
    end = workshop.train("lora", "--lora=True", f"--foundation_model={workshop.folder}/base.model")
    assert_all_differ(head_weights(untrained), head_weights(end))
    left = workshop.model("lora")
    assert not [name for name in left.state_dict() if "lora" in name]
    assert from_pretrained(end, backbone=load_backbone("mace", left)).hessian(workshop.validation[0])


def test_replay_of_other_data_and_both_stages(workshop):
    options = [f"--foundation_model={workshop.folder}/base.model", f"--pt_train_file={workshop.folder}/replay.xyz"]
    replay = [atoms.copy() for atoms in workshop.training]
    for atoms in replay:
        atoms.info.pop("REF_hessian", None)
    write(workshop.folder / "replay.xyz", replay, format="extxyz")
    last = workshop.train("replay", *options, f"--E0s={E0S}", "--valid_fraction=0.3", "--start_swa=1", epochs=2)
    assert last.name == "replay_stagetwo_hessian"
    for name in ("replay", "replay_stagetwo"):
        model = from_pretrained(workshop.folder / f"{name}_hessian", trust_source=True)
        assert workshop.model(name).heads == ["pt_head", "Default"]
        assert model.training_record["structures"] == 5
    assert_all_differ(head_weights(workshop.folder / "replay_hessian"), head_weights(last))


def test_hdf5_files_give_the_same_head_as_xyz_files(workshop):
    h5py = pytest.importorskip("h5py", reason="needs h5py")
    data = import_mace("mace.data")
    keys = data.KeySpecification().update({"energy": "REF_energy", "hessian": "REF_hessian"}, {"forces": "REF_forces"})
    for name, frames in (("train", workshop.training), ("valid", workshop.validation)):
        with h5py.File(workshop.folder / f"{name}.h5", "w") as file:
            data.save_configurations_as_HDF5(data.config_from_atoms_list(frames, keys), None, file)
    files = [f"--train_file={workshop.folder}/train.h5", f"--valid_file={workshop.folder}/valid.h5"]
    elements = [f"--E0s={E0S}", "--atomic_numbers=[1, 6, 7, 8]"]
    from_hdf5 = head_weights(workshop.train("hdf5", *files, *elements, *workshop.frozen))
    from_xyz = head_weights(workshop.train("xyz", *elements, *workshop.frozen))
    for name, value in from_xyz.items():
        torch.testing.assert_close(from_hdf5[name], value, rtol=1e-9, atol=1e-12)
    bad = [atoms.copy() for atoms in workshop.training]
    bad[1].info["REF_hessian"] = np.zeros(9)
    with h5py.File(workshop.folder / "bad.h5", "w") as file:
        data.save_configurations_as_HDF5(data.config_from_atoms_list(bad, keys), None, file)
    with pytest.raises(DataError, match="training structure 1: the Hessian has 9 numbers, expected 225 for its 5 atom"):
        workshop.train("bad", *files, f"--train_file={workshop.folder}/bad.h5", *elements, *workshop.frozen)
    (workshop.folder / "tests").mkdir()
    (workshop.folder / "bad.h5").rename(workshop.folder / "tests/bad_test.h5")
    with pytest.raises(DataError, match=r"bad_test\.h5: structure 1: the Hessian has 9 numbers"):
        workshop.train("bad", *files, *elements, f"--test_dir={workshop.folder}/tests", *workshop.frozen)
    assert not list(workshop.folder.glob("checkpoints/bad*"))


@pytest.mark.usefixtures("untrained")
def test_a_dry_run_does_not_claim_an_older_result(workshop, capsys):
    app(["mace-train", *workshop.arguments("untrained", *workshop.frozen, "--dry_run")], standalone_mode=False)
    assert (workshop.folder / "untrained_hessian").is_dir()
    assert capsys.readouterr().out.splitlines()[-1] == "nothing was trained: dry run"


# The parts


def joint_model(untrained: Path) -> JointMACE:
    model = from_pretrained(untrained, trust_source=True)
    return JointMACE(model.backbone, model.head)


def batches(workshop: Workshop, indices: list[int]):
    data = import_mace("mace.data")
    table = import_mace("mace.tools").AtomicNumberTable([1, 6, 7, 8])
    keys = data.KeySpecification().update({"energy": "REF_energy", "hessian": "REF_hessian"}, {"forces": "REF_forces"})
    configurations = data.config_from_atoms_list([workshop.training[index] for index in indices], keys)
    torch.set_default_dtype(torch.float64)
    try:
        items = [data.AtomicData.from_config(one, z_table=table, cutoff=4.0) for one in configurations]
    finally:
        torch.set_default_dtype(torch.float32)
    return next(iter(label_loader(items, batch_size=len(items))))


@pytest.mark.parametrize("indices", [[0, UNLABELLED, 1], [UNLABELLED, 1], [1]])
def test_the_loss_is_the_mean_over_labelled_structures(workshop, untrained, indices):
    model, batch = joint_model(untrained), batches(workshop, indices)
    batch.weight = torch.linspace(0.5, 2.0, len(indices), dtype=torch.float64)
    loss = HessianLoss(3.0)(batch, model(batch.to_dict(), training=True))
    expected = []
    for weight, index in zip(batch.weight.tolist(), indices, strict=True):
        if index != UNLABELLED:
            atoms = workshop.training[index]
            structures = Structures.from_ase(atoms)
            found = model.head(model.backbone.features(model.backbone.prepare(structures)), structures).dense()
            label = np.reshape(atoms.info["REF_hessian"], found.shape)
            expected.append(weight * np.abs(found.detach().numpy() - label).mean())
    assert float(loss.detach()) == pytest.approx(3.0 * np.mean(expected), rel=1e-10)
    loss.backward()
    for part in (model.head.mix_vectors, model.energy_model.interactions[0].linear_up):
        assert max(float(p.grad.abs().max()) for p in part.parameters()) > 0


def test_a_batch_without_labels_costs_nothing_and_can_be_differentiated(workshop, untrained):
    model, batch = joint_model(untrained), batches(workshop, [UNLABELLED])
    loss = HessianLoss(1.0)(batch, model(batch.to_dict(), training=True))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert all(p.grad is None or not bool(p.grad.any()) for p in model.parameters())


def test_energies_and_forces_do_not_know_of_the_head(workshop, untrained):
    model, batch = joint_model(untrained), batches(workshop, [0, 1, 2])
    alone = model.energy_model(batch.clone().to_dict(), compute_stress=True)
    joint = model(batch.clone().to_dict(), compute_stress=True)
    for name in ("energy", "forces", "stress"):
        assert torch.equal(joint[name], alone[name])
    assert joint["hessian"] is None and not joint[DIRECT_HESSIAN].isnan().any()


def test_an_optimiser_without_the_head_is_refused(untrained):
    model = joint_model(untrained)
    check_optimiser(torch.optim.SGD(model.parameters(), lr=1e-3), model.head)
    without = torch.optim.SGD([*model.backbone.parameters(), *list(model.head.parameters())[1:]], lr=1e-3)
    with pytest.raises(ConfigError, match="would not change 1 parameters of the Hessian head"):
        check_optimiser(without, model.head)
    with pytest.raises(ConfigError, match="learning rate above zero"):
        check_optimiser(torch.optim.SGD(model.parameters(), lr=0.0), model.head)
    model.head.requires_grad_(False)
    with pytest.raises(ConfigError, match="would not change"):
        check_optimiser(torch.optim.SGD(model.parameters(), lr=1e-3), model.head)


def test_nothing_of_mace_or_of_the_process_is_changed(workshop):
    run_train = import_mace("mace.cli.run_train")
    names, tools = dict(vars(run_train)), dict(vars(run_train.tools))
    before = (torch.get_default_dtype(), dict(os.environ), list(logging.getLogger().handlers))
    workshop.train("clean", *workshop.frozen)
    assert vars(run_train) == names and vars(run_train.tools) == tools
    assert (torch.get_default_dtype(), dict(os.environ), list(logging.getLogger().handlers)) == before


def test_the_recipe_is_for_a_frozen_backbone():
    recipe = Path(__file__).parents[1] / "configs/mace/finetune.yaml"
    args = parse([f"--config={recipe}", "--name=x", "--foundation_model=y", "--hessian_lr=0.5"])
    assert args.freeze_backbone and args.foundation_model_elements and args.E0s == "foundation"
    assert args.hessian_head == HeadConfig() and args.hessian_lr == 0.5 and args.batch_size == 16


# Bad input


def spoilt(workshop: Workshop, name: str) -> str:
    """A training file in which something is wrong."""
    frames = [atoms.copy() for atoms in workshop.training]
    label = np.array(frames[1].info["REF_hessian"])
    if name == "long":
        frames[1].info["REF_hessian"] = np.append(label, 0.0)
    elif name == "nan":
        frames[1].info["REF_hessian"] = np.where(np.arange(len(label)) == 7, np.nan, label)
    elif name == "text":
        frames[1].info["REF_hessian"] = "see supplement"
    elif name == "chlorine":
        frames[1].symbols[0] = "Cl"
    else:
        for atoms in frames:
            atoms.info.pop("REF_hessian", None)
    write(workshop.folder / f"{name}.xyz", frames, format="extxyz")
    return f"--train_file={workshop.folder}/{name}.xyz"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("long", "training structure 1 (5 atoms): the Hessian has 226 numbers, expected 225 for its 5 atoms"),
        ("nan", "training structure 1 (5 atoms): 1 numbers of the Hessian are not finite"),
        ("text", "training structure 1 (5 atoms): the Hessian is no list of numbers but 'see supplement'"),
        ("none", "none of 6 training structures has a Hessian: xyz files need it as info 'REF_hessian'"),
        ("chlorine", "the foundation model does not know Cl; it knows H, C, N, O"),
    ],
)
def test_wrong_labels_stop_a_run_before_its_first_step(workshop, name, message):
    for place in ("--train_file", "--test_file") if name in ("long", "nan") else ("--train_file",):
        options = [spoilt(workshop, name).replace("--train_file", place), *workshop.frozen]
        wanted = message if place == "--train_file" else message.replace("training", "test set Default_Default,")
        with pytest.raises(HipExtError, match=re.escape(wanted)) as caught:
            workshop.train(f"bad_{name}", *options)
        assert "\n" not in str(caught.value)
    assert not list(workshop.folder.glob(f"checkpoints/bad_{name}*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--hessian_lr=0"], "--hessian_lr is 0.0, expected a positive number"),
        (["--hessian_weight=-1"], "--hessian_weight is -1.0, expected a positive number"),
        (["--hessian_head={lairs: 2}"], "there is no key 'lairs'; did you mean 'layers'?"),
        (["--hessian_head=nowhere.yaml"], "cannot read 'nowhere.yaml' (No such file or directory)"),
        (["--hessian_head={layers: ["], "is not valid YAML"),
        (["--hessian_weigth=2"], "unrecognized arguments: --hessian_weigth=2"),
        (["--max_num_epochs=many"], "argument --max_num_epochs: invalid int value: 'many'"),
        (["--batch_size=7"], "--batch_size 7 is larger than the 6 training structures"),
        (["--freeze_backbone"], "--freeze_backbone needs a trained model"),
        (["--freeze_backbone", "--foundation_model=x", "--lora=True"], "leaves nothing for --lora"),
        (["--foundation_model=nowhere.model"], "there is no MACE model file at 'nowhere.model'"),
        (["--foundation_model={folder}/train.xyz"], "cannot be read as a MACE model"),
        (["--distributed"], "does not support --distributed: train in one process"),
        (["--enable_cueq=True"], "does not support --enable_cueq"),
        (["--train_file={folder}/nowhere.xyz"], "MACE stopped before training: [Errno 2] No such file"),
        (["--energy_key=E", "--forces_key=F"], "MACE stopped before training: None of 'E', 'F'"),
        (
            ["--model=AtomicDipolesMACE", "--loss=dipole", "--error_table=DipoleRMSE"],
            "expected a MACE or ScaleShiftMACE",
        ),
    ],
)
def test_bad_options_are_one_line(workshop, options, message):
    given = [option.replace("{folder}", str(workshop.folder)) for option in options]
    with pytest.raises(HipExtError, match=re.escape(message)) as caught:
        workshop.train("bad_options", *NEW_MODEL, *given)
    assert "\n" not in str(caught.value)
    assert not list(workshop.folder.glob("checkpoints/bad_options*"))


def test_a_folder_that_is_no_checkpoint_is_not_overwritten(workshop):
    (workshop.folder / "taken_hessian").mkdir()
    (workshop.folder / "taken_hessian" / "thesis.tex").touch()
    with pytest.raises(CheckpointError, match="taken_hessian exists and is not a checkpoint of hip-ext"):
        workshop.train("taken", *workshop.frozen)


# Stopping and going on


def test_an_interrupted_run_goes_on(workshop, monkeypatch):
    forward, calls = HessianLoss.forward, []

    def interrupted(self, *args, **kwargs):
        calls.append(1)
        if len(calls) > 36:
            raise KeyboardInterrupt
        return forward(self, *args, **kwargs)

    # MACE writes a checkpoint when the validation error falls: here it is that of the training set.
    options = [*workshop.frozen, f"--valid_file={workshop.folder}/train.xyz", "--hessian_lr=0.0003"]
    with monkeypatch.context() as patch:
        patch.setattr(HessianLoss, "forward", interrupted)
        with pytest.raises(KeyboardInterrupt):
            workshop.train("stopped", *options, epochs=6)
    assert not (workshop.folder / "stopped_hessian").exists()
    (checkpoint,) = workshop.folder.glob("checkpoints/stopped_run-123_epoch-*.pt")
    done = int(re.search(r"epoch-(\d+)", checkpoint.name)[1])
    assert done >= 1
    stopped = workshop.epochs("stopped")
    folder = workshop.train("stopped", *options, "--restart_latest", epochs=6)
    # MACE does the epoch of the checkpoint once more.
    assert stopped == [0, 1, 2, 3] and workshop.epochs("stopped")[len(stopped) :] == [*range(done, 6)]
    assert head_weights(folder)
    with pytest.raises(CheckpointError, match="repeat the options that it was made with, or remove it"):
        workshop.train("stopped", *options, "--restart_latest", "--hessian_head={layers: 0}", epochs=6)
    latest = max(workshop.folder.glob("checkpoints/stopped_run-123_epoch-*.pt"), key=lambda path: path.stat().st_mtime)
    latest.write_bytes(latest.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"latest checkpoint in .* cannot be used"):
        workshop.train("stopped", *options, "--restart_latest", epochs=6)


def test_the_command_in_a_process_of_its_own(workshop):
    recipe = workshop.folder / "recipe.yaml"
    recipe.write_text("freeze_backbone: true\nhessian_lr: 0.002\nhessian_head: {layers: 0, scalars: 8}\n")
    options = [
        f"--config={recipe}",
        "--foundation_model=base.model",
        "--train_file=train.xyz",
        "--valid_file=valid.xyz",
    ]
    options += ["--batch_size=2", "--restart_latest", "--scheduler=ReduceLROnPlateau"]
    # Both runs in one process, for the time that it takes to import MACE.
    runs = (
        f"for n in '13': app(['mace-train', '--name=own', '--max_num_epochs=' + n, *{options}], standalone_mode=False)"
    )
    command = [sys.executable, "-c", f"from hip_ext.cli.app import app\n{runs}"]
    # MACE, when imported as it is, lets torch unpickle anything in this process and its children.
    environment = {name: value for name, value in os.environ.items() if name != "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"}
    done = subprocess.run(command, cwd=workshop.folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "head: own_hessian"
    assert "Loading checkpoint: ./checkpoints/own_run-123_epoch-0.pt" in done.stdout
    model = from_pretrained(
        workshop.folder / "own_hessian", backbone=load_backbone("mace", str(workshop.folder / "own.model"))
    )
    assert (model.head.config.layers, model.head.config.scalars) == (0, 8)


def test_the_command_says_what_is_wrong_in_one_line(capsys):
    with pytest.raises(SystemExit) as caught:
        app(["mace-train", "--train_file", "x.xyz"])
    assert caught.value.code == 2
    message = "hip-ext: error: mace-train: the following arguments are required: --name\n"
    assert capsys.readouterr().err == message


# Real input


def test_a_released_model_learns_dft_hessians(shared, tmp_path):
    """Ten HORM records on the SPICE model: real weights, real labels, elements that the data do not have."""
    lmdb = pytest.importorskip("lmdb", reason="needs lmdb")
    pytest.importorskip("torch_geometric", reason="needs torch_geometric to read HORM records")
    import pickle

    frames = []
    database = lmdb.open(str(shared / "data/horm_t1x_60.lmdb"), subdir=False, readonly=True, lock=False)
    with database.begin() as transaction:
        for key in range(10):
            record = pickle.loads(transaction.get(str(key).encode()))
            atoms = Atoms(record.charges.long().numpy(), record.pos.numpy())
            atoms.info |= {"REF_energy": float(record.energy), "REF_hessian": record.hessian.double().numpy()}
            atoms.arrays["REF_forces"] = record.forces.double().numpy()
            frames.append(atoms)
    write(tmp_path / "train.xyz", frames[:8], format="extxyz")
    write(tmp_path / "valid.xyz", frames[8:], format="extxyz")
    torch.save(trained_mace(shared / "weights", "mace_spice"), tmp_path / "spice.model")
    files = [f"--{part}_file={tmp_path}/{part}.xyz" for part in ("train", "valid")]
    common = [*files, f"--work_dir={tmp_path}", f"--foundation_model={tmp_path}/spice.model", "--freeze_backbone"]
    (tmp_path / "checkpoints").mkdir()
    errors = []
    for epochs in (0, 8):
        options = [f"--name=e{epochs}", "--batch_size=4", f"--max_num_epochs={epochs}", "--hessian_lr=0.003"]
        folder = train([*options, *common, f"--hessian_head={HEAD.replace('16', '32')}"])
        model = from_pretrained(folder, backbone=load_backbone("mace", str(tmp_path / "spice.model")))
        errors.append(model.metrics["validation"]["hessian_mae"])
    assert errors[1] < 0.8 * errors[0]
