"""fairchem's own command trains a direct Hessian head on a frozen MACE, by the recipe that ships."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

pytest.importorskip("mace", reason="needs mace-torch")
pytest.importorskip("fairchem.core", reason="needs fairchem-core")

from backbone_cases import methanol_crystal, random_mace
from fairchem.core.datasets.atomic_data import AtomicData, atomicdata_list_to_batch
from fairchem.core.units.mlip_unit import load_predict_unit

from hip_ext.backbones import load_backbone
from hip_ext.head import HessianHead
from hip_ext.model import HessianModel
from hip_ext.plugins.fairchem import hessian_model, unpadded, write_database
from hip_ext.reference import autograd_hessians
from hip_ext.structures import Structures

RECIPE = Path(__file__).parents[1] / "configs" / "fairchem" / "mace_hessian.yaml"
SMALL = "{scalars: 16, channels: 8, hidden: 16, pair_channels: 8, coordinates: 8}"
PREDICT = """
import sys, torch
from fairchem.core.units.mlip_unit import load_predict_unit
torch.set_num_threads(1)
prediction = load_predict_unit(sys.argv[1], device="cpu").predict(torch.load(sys.argv[2], weights_only=False))
torch.save({name: x.detach() for name, x in prediction.items()}, sys.argv[3])
"""


class Run(NamedTuple):
    """What is left of a training run."""

    source: Path
    checkpoint: Path
    losses: list[float]
    text: str


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Eight molecules with the model's own exact Hessians, 40 steps."""
    folder = tmp_path_factory.mktemp("run")
    torch.save(random_mace(), folder / "random.model")
    names = ("H2O", "CH4", "NH3", "CH3OH", "C2H4", "H2CO", "CO2", "N2H4")
    write_database(folder / "data" / "train", labelled(names))
    write_database(folder / "data" / "val", labelled(("C2H2", "HCN")))
    done = fresh(
        [str(Path(sys.executable).parent / "fairchem"), "-c", str(RECIPE)],
        [f"source={folder / 'random.model'}", f"data={folder / 'data'}", f"job.run_dir={folder / 'runs'}"],
        ["epochs=40", f"head={SMALL}", "runner.train_eval_unit.print_every=1"],
    )
    assert done.returncode == 0, done.stderr[-3000:]
    text = done.stdout + done.stderr
    losses = [float(found) for found in re.findall(r"'train/loss': ([\d.e-]+)", text)]
    return Run(folder / "random.model", folder / "runs/hessian/checkpoints/final/inference_ckpt.pt", losses, text)


def labelled(names: tuple[str, ...]) -> list[Atoms]:
    structures = [molecule(name) for name in names]
    for seed, atoms in enumerate(structures):
        atoms.rattle(0.03, seed=seed)
    hessians = autograd_hessians(load_backbone("mace", random_mace()), Structures.from_ase(structures))
    for atoms, hessian in zip(structures, hessians, strict=True):
        atoms.info["hessian"] = hessian.numpy()
    return structures


def fresh(*command: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs a command as a user would, with safe loading as torch has it by default."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TORCH_FORCE")}
    words = [word for part in command for word in part]
    return subprocess.run(
        words, capture_output=True, text=True, env=environment | {"OMP_NUM_THREADS": "1"}, timeout=600, check=False
    )


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


def test_the_loss_falls(run: Run) -> None:
    assert len(run.losses) == 40
    assert np.mean(run.losses[-5:]) < 0.2 * run.losses[0]


def test_the_borrowed_weights_are_left_alone(run: Run) -> None:
    unit = load_predict_unit(run.checkpoint, device="cpu")
    original = load_backbone("mace", run.source, dtype=torch.float32)
    found = unit.model.module.backbone.adapter
    assert found.source == original.source
    for name, value in original.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name


def test_a_fresh_process_predicts_what_a_hessian_model_with_the_same_weights_does(run: Run, tmp_path: Path) -> None:
    structures = [molecule("H2O"), molecule("CH3CHO"), methanol_crystal()]
    batch = atomicdata_list_to_batch([AtomicData.from_ase(atoms, task_name="omol") for atoms in structures])
    torch.save(batch, tmp_path / "batch.pt")
    paths = [str(run.checkpoint), str(tmp_path / "batch.pt"), str(tmp_path / "prediction.pt")]
    done = fresh([sys.executable, "-W", "ignore", "-c", PREDICT], paths)
    assert done.returncode == 0, done.stderr[-3000:]
    found = torch.load(tmp_path / "prediction.pt", weights_only=True)

    trained = load_predict_unit(run.checkpoint, device="cpu").model.module.output_heads["hessian"].head
    backbone = load_backbone("mace", run.source, dtype=torch.float32)
    head = HessianHead(backbone.widths, trained.config)
    head.load_state_dict(trained.state_dict())
    expected = HessianModel(backbone, head.eval()).energy_forces_hessian(structures)

    assert relative(found["energy"].to(expected.energy), expected.energy) < 1e-6
    assert relative(found["forces"], expected.forces) < 1e-5
    matrices = unpadded(found["hessian"], batch.natoms)
    for matrix, wanted in zip(matrices, expected.hessian.dense_list(), strict=True):
        assert relative(matrix, wanted.detach()) < 1e-5

    again = hessian_model(run.checkpoint)
    assert again.backbone.source == backbone.source
    for matrix, wanted in zip(again.hessian(structures).dense_list(), expected.hessian.dense_list(), strict=True):
        assert relative(matrix, wanted) < 1e-6
