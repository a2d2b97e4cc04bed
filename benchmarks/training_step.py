"""What a Hessian adds to a training step: predicted by a head, or differentiated from the energy.

    python benchmarks/training_step.py --out benchmarks/results/training_step.json

One step of a batch of 8 molecules of 8 to 21 atoms, the sizes of HORM, with every parameter trained, forward and
backward without the optimiser:

    energy + forces             L = |ΔE| + |ΔF|
    energy + forces + head      the same, with the mean |ΔH| of a predicted Hessian
    energy + forces + k columns the same, with k columns of −∂F/∂x a molecule in place of the head (HORM takes 1 or 2)
    energy + forces + full      the same with all 3N columns of one small molecule, beside a step of that molecule alone

Times are those of the processor (one thread), median over repetitions, so that other work on the machine matters
little.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from ase import Atoms
from ase.build import molecule
from speed_cases import alkane, load_model
from torch import Tensor

from hip_ext.atomic import write_text
from hip_ext.head import HeadConfig
from hip_ext.model import HessianModel, attach_head
from hip_ext.structures import Structures

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


def cost(model: HessianModel, structures: Structures, step: object, repetitions: int, *args: int) -> float:
    """Median processor time of a step, s."""
    times = []
    for _ in range(repetitions + 1):
        model.zero_grad()
        before = time.process_time()
        step(model, structures, *args)
        times.append(time.process_time() - before)
    return median(times[1:])


def measure(name: str, repetitions: int) -> dict[str, object]:
    """All steps of one backbone."""
    model = attach_head(load_model(name, "cpu").backbone, HEAD)
    model.requires_grad_(True)
    many = batch_of_horm_sizes()
    structures = Structures.from_ase(many, dtype=model.dtype)
    seconds = {
        "energy + forces": cost(model, structures, plain, repetitions),
        "energy + forces + head": cost(model, structures, with_head, repetitions),
    }
    for count in (1, 2):
        seconds[f"energy + forces + {count} columns"] = cost(model, structures, with_columns, repetitions, count)
    small = Structures.from_ase(many[0], dtype=model.dtype)
    full = 3 * len(many[0])
    alone = cost(model, small, plain, repetitions)
    seconds_small = {
        "energy + forces": alone,
        "energy + forces + head": cost(model, small, with_head, repetitions),
        "energy + forces + full": cost(model, small, with_columns, 1, full),
    }
    base = seconds["energy + forces"]
    per_column = seconds["energy + forces + 2 columns"] - seconds["energy + forces + 1 columns"]
    columns = 3 * float(np.mean(structures.sizes))
    frozen = _frozen(model, structures, repetitions)
    return {
        "atoms": structures.sizes,
        "seconds": seconds,
        "ratio": {step: value / base for step, value in seconds.items()},
        "full_extrapolated_ratio": (base + columns * per_column) / base,
        "one_molecule": {"atoms": len(many[0]), "columns": full, "seconds": seconds_small},
        "one_molecule_ratio": {step: value / alone for step, value in seconds_small.items()},
        "frozen_backbone_seconds": frozen,
        "peak_memory_MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _frozen(model: HessianModel, structures: Structures, repetitions: int) -> dict[str, float]:
    """Features of a frozen backbone, and a step of the head on them."""

    def features(model: HessianModel, structures: Structures) -> None:
        with torch.no_grad():
            model.backbone.features(model.backbone.prepare(structures))

    with torch.no_grad():
        found = model.backbone.features(model.backbone.prepare(structures))

    def head(model: HessianModel, structures: Structures) -> None:
        model.head(found, structures).flat().abs().mean().backward()

    return {
        "features": cost(model, structures, features, repetitions),
        "head": cost(model, structures, head, repetitions),
    }


def main() -> None:
    """Measures the backbones and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=["mace", "so3lr"])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = {name: measure(name, arguments.repetitions) for name in arguments.backbones}
    text = json.dumps(results, indent=2)
    print(text)
    if arguments.out:
        write_text(arguments.out, text + "\n")


if __name__ == "__main__":
    main()
