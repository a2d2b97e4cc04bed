"""What a Hessian adds to a training step: predicted by a head, or differentiated from the energy.

    python benchmarks/training_step.py --out benchmarks/results/training_step.json

One step of a batch of 8 molecules of 8 to 20 atoms, the sizes of HORM's Transition1x part, with every parameter
trained, forward and backward without the optimiser:

    energy + forces             L = |ΔE| + |ΔF|
    energy + forces + head      the same, with the mean |ΔH| of a predicted Hessian
    energy + forces + k columns the same, with k columns of −∂F/∂x a molecule in place of the head (HORM takes 1 or 2)
    energy + forces + full      the same with all 3N columns of one small molecule, beside a step of that molecule alone

"trainer" are whole steps of `hip-ext train` on the same batch with its default losses: reading the records, losses
with random twists, backward, clipping, the optimiser, and the running average; for a frozen backbone with features from
the cache. torch's Muon computes in bfloat16, which is slow on a processor, hence AdamW beside it.

Times are those of the processor (one thread), or wall times with --device cuda; the median over rounds in which all
steps take turns, so that other work on the machine matters little. Every backbone is measured in a process of its own,
for its peak memory, which is that of the process and not of a GPU.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import molecule
from clock import Clock
from speed_cases import alkane, load_model
from torch import Tensor

from hip_ext.atomic import write_text
from hip_ext.data.record import HessianRecord
from hip_ext.data.store import HessianStore
from hip_ext.head import HeadConfig
from hip_ext.model import HessianModel, attach_head
from hip_ext.structures import Structures
from hip_ext.training.run import train
from hip_ext.training.settings import TrainingConfig

HEAD = HeadConfig(scalars=128, channels=24, hidden=160)


def batch_of_horm_sizes() -> list[Atoms]:
    """Eight molecules of H, C, N, O with 8 to 21 atoms, 14 on average, rattled."""
    names = ("C2H6", "CH3CH2OH", "C6H6", "C5H5N", "CH3CONH2", "isobutane")
    many = [molecule(name) for name in names] + [alkane(20), alkane(20)]
    for number, atoms in enumerate(many):
        atoms.rattle(0.03, seed=number)
    return many


def energy_and_forces(model: HessianModel, structures: Structures) -> tuple[Tensor, Tensor, Tensor, object]:
    """Energy, forces, the positions that they are differentiated by, and features, all with their history."""
    inputs = model.backbone.prepare(structures)
    positions = inputs["positions"].requires_grad_(True)
    energy, features = model.backbone.energy_and_features(inputs)
    (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=True)
    return energy, -gradient, positions, features


def plain(model: HessianModel, structures: Structures) -> None:
    """Energy and forces."""
    energy, forces, _, _ = energy_and_forces(model, structures)
    (energy.abs().mean() + forces.abs().mean()).backward()


def with_head(model: HessianModel, structures: Structures) -> None:
    """Energy, forces, and the Hessian of the head."""
    energy, forces, _, features = energy_and_forces(model, structures)
    hessian = model.head(features, structures).flat()
    (energy.abs().mean() + forces.abs().mean() + hessian.abs().mean()).backward()


def with_columns(model: HessianModel, structures: Structures, count: int) -> None:
    """Energy, forces, and some columns of −∂F/∂x of every molecule."""
    energy, forces, positions, _ = energy_and_forces(model, structures)
    loss = energy.abs().mean() + forces.abs().mean()
    start = structures.ptr[:-1]
    for column in range(count):
        probe = torch.zeros_like(forces)
        probe[start + column // 3, column % 3] = -1.0
        (row,) = torch.autograd.grad(forces, positions, probe, create_graph=True)
        loss = loss + row.abs().mean()
    loss.backward()


Step = Callable[[HessianModel, Structures], None]


def costs(model: HessianModel, structures: Structures, steps: dict[str, Step], rounds: int) -> dict[str, float]:
    """Median time of each step, s. They take turns, so that a busy minute of the machine hits them all."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    clock = Clock(model.device)
    for _ in range(rounds + 1):
        for name, step in steps.items():
            model.zero_grad()
            times[name].append(clock.seconds(partial(step, model, structures)))
    return {name: median(found[1:]) for name, found in times.items()}


def with_ratios(seconds: dict[str, float]) -> dict[str, dict[str, float]]:
    """Seconds, and what they are of those of energy + forces."""
    return {
        "seconds": seconds,
        "ratio": {name: value / seconds["energy + forces"] for name, value in seconds.items()},
    }


WHOLE_STEPS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "energy + forces": ("all", "muon", {"energy": 1.0, "forces": 1.0, "hessian": {"mae": 0.0, "twists": 0.0}}),
    "energy + forces + head": ("all", "muon", {"energy": 1.0, "forces": 1.0}),
    "energy + forces + head, AdamW": ("all", "adamw", {"energy": 1.0, "forces": 1.0}),
    "head on a frozen backbone": ("none", "muon", {}),
    "head on a frozen backbone, AdamW": ("none", "adamw", {}),
}
"""What is trained of the backbone, by which optimiser, and the losses."""


def labelled(atoms: Atoms, seed: int) -> HessianRecord:
    """Labels of the right shapes; what they say does not change what a step costs."""
    rng = np.random.default_rng(seed)
    record = replace(HessianRecord.from_atoms(atoms), energy=0.0, forces=rng.normal(size=(len(atoms), 3)))
    return record.with_hessian(rng.normal(size=(3 * len(atoms), 3 * len(atoms))))


def whole_steps(name: str, rounds: int, device: str) -> dict[str, float]:
    """Median time of a step of the trainer, s; two runs of each kind, in turns."""
    times: dict[str, list[float]] = {step: [] for step in WHOLE_STEPS}
    for step in 2 * list(WHOLE_STEPS):
        times[step] += whole_run(name, rounds, device, *WHOLE_STEPS[step])
    return {step: median(found) for step, found in times.items()}


def whole_run(name: str, rounds: int, device: str, trainable: str, optimiser: str, loss: dict[str, Any]) -> list[float]:
    """Times of the steps of one run, s, without the first two."""
    times: list[float] = []
    clock = Clock(torch.device(device))

    def stages(stage: str, total: int) -> Callable[[int, str], None]:
        return lambda done, note: times.append(clock.now()) if stage == "train" else None

    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder, "labels.lmdb")
        with HessianStore(store, "a") as records:
            records.append([labelled(atoms, seed) for seed, atoms in enumerate(batch_of_horm_sizes())])
        config = {
            "backbone": {"name": name, "trainable": trainable},
            "head": HEAD.model_dump(),
            "data": {"train": [str(store)], "validation": [str(store)], "batch": 8, "trust_units": True},
            "loss": loss,
            "optimiser": {"name": optimiser},
            "run": {"steps": rounds + 2, "evaluate_every": rounds + 2, "accelerator": torch.device(device).type},
        }
        backbone = load_model(name, device).backbone
        train(TrainingConfig.from_dict(config), Path(folder, "run"), backbone=backbone, stages=stages)
    return np.diff(times)[1:].tolist()


def measure(name: str, rounds: int, device: str) -> dict[str, Any]:
    """All steps of one backbone, in this process."""
    torch.set_num_threads(1)
    model = attach_head(load_model(name, device).backbone, HEAD)
    model.requires_grad_(True)
    many = batch_of_horm_sizes()
    structures = Structures.from_ase(many, dtype=model.dtype, device=model.device)
    steps: dict[str, Step] = {"energy + forces": plain, "energy + forces + head": with_head}
    columns = {f"energy + forces + {count} columns": partial(with_columns, count=count) for count in (1, 2)}
    batch = with_ratios(costs(model, structures, steps | columns, rounds))
    seconds = batch["seconds"]
    per_column = seconds["energy + forces + 2 columns"] - seconds["energy + forces + 1 columns"]
    whole = seconds["energy + forces"] + 3 * float(np.mean(structures.sizes)) * per_column
    small, full = Structures.from_ase(many[0], dtype=model.dtype, device=model.device), 3 * len(many[0])
    all_columns: dict[str, Step] = {"energy + forces + full": partial(with_columns, count=full)}
    return {
        "device": Clock(model.device).device_name,
        "atoms": structures.sizes,
        **batch,
        "full_extrapolated_ratio": whole / seconds["energy + forces"],
        "one_molecule": {
            "atoms": len(many[0]),
            "columns": full,
            **with_ratios(costs(model, small, steps | all_columns, rounds)),
        },
        "frozen_backbone_seconds": _frozen(model, structures, rounds),
        "trainer": with_ratios(whole_steps(name, rounds, device)),
        "peak_memory_MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _frozen(model: HessianModel, structures: Structures, rounds: int) -> dict[str, float]:
    """Features of a frozen backbone, and a step of the head on them."""

    def features(model: HessianModel, structures: Structures) -> None:
        with torch.no_grad():
            model.backbone.features(model.backbone.prepare(structures))

    with torch.no_grad():
        found = model.backbone.features(model.backbone.prepare(structures))

    def head(model: HessianModel, structures: Structures) -> None:
        model.head(found, structures).flat().abs().mean().backward()

    return costs(model, structures, {"features": features, "head": head}, rounds)


def main() -> None:
    """Measures the backbones and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=["mace", "so3lr"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    results = {}
    for name in arguments.backbones:
        with get_context("spawn").Pool(1) as process:
            results[name] = process.apply(measure, (name, arguments.rounds, arguments.device))
    text = json.dumps(results, indent=2)
    print(text)
    if arguments.out:
        write_text(arguments.out, text + "\n")


if __name__ == "__main__":
    main()
