"""How good a Hessian head is that was trained by fairchem's own command on a small eSCN-MD, on structures it never saw.

    python benchmarks/fairchem_accuracy.py molecules CHECKPOINT runs/escn/molecules/test
    python benchmarks/fairchem_accuracy.py copper CHECKPOINT runs/escn/copper/test

Inversion: beside "direct", for which the features of structure and inverted structure are averaged, the two Hessians
averaged, and neither; for the trained head and for one with random weights, of which only the last figure means much.

Three Hessians of every structure: the label (SO3LR's exact one, or differences of EMT's forces), the head's, and the
model's own by autograd, one against the other. For a few structures the autograd one is checked against differences of
the model's forces. `benchmarks/escn_data.py` makes the structures, benchmarks/README.md has the commands of training.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.db import connect

from hip_ext import HessianCalculator, HessianModel, attach_head
from hip_ext.atomic import write_text
from hip_ext.evaluation.metrics import compare, summarise
from hip_ext.plugins.fairchem import hessian_model
from hip_ext.reference import finite_difference_hessian

CHECKED = 3
"""Structures whose autograd Hessian is compared with differences of forces."""

STEP = 1e-4
"""Å; at the usual 0.005 Å the fourth derivatives of this model still show."""

PAIRS = {
    "direct against label": ("direct", "label"),
    "own autograd against label": ("autograd", "label"),
    "direct against own autograd": ("direct", "autograd"),
}


def structures(folder: Path) -> list[tuple[Atoms, np.ndarray]]:
    """The structures of a database with their labels, eV/Å²."""
    with connect(next(folder.glob("*.aselmdb")), readonly=True) as database:
        rows = [(row.toatoms(), row.data) for row in database.select()]
    for atoms, data in rows:
        atoms.info |= {key: int(data[key]) for key in ("charge", "spin") if key in data}
        atoms.calc = None
    return [(atoms, np.asarray(data["hessian"])) for atoms, data in rows]


@torch.no_grad()
def under_inversion(model: HessianModel, sample: list[tuple[Atoms, np.ndarray]]) -> dict[str, float]:
    """Errors in eV/Å² of what can be done about inversion, and how far one copy alone is from obeying it.

    Args:
        model: on a backbone without parity, so that the model averages Hessians.
        sample: structures with labels.
    """
    averaged, plain, broken, size = [], [], [], []
    for atoms, label in sample:
        mirrored = atoms.copy()
        mirrored.positions, mirrored.cell = -atoms.positions, -atoms.cell.array
        copies = []
        for one in (atoms, mirrored):
            structures = model.structures(one)
            copies.append(model.head(model.backbone.features(model.backbone.prepare(structures)), structures).dense())
        averaged.append(float(np.abs(model.hessian(atoms).dense().numpy() - label).mean()))
        plain.append(float(np.abs(copies[0].numpy() - label).mean()))
        broken.append(float((copies[0] - copies[1]).abs().mean()))
        size.append(float(copies[0].abs().mean()))
    return {
        "mae, Hessians averaged": float(np.mean(averaged)),
        "mae, one copy": float(np.mean(plain)),
        "one copy: mean |H(x) - H(-x)| / mean |H|": float(np.sum(broken) / np.sum(size)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("system", choices=["molecules", "copper"])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, help="by default benchmarks/results/fairchem_SYSTEM.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    calculator = HessianCalculator(hessian_model(arguments.checkpoint, dtype=torch.float64))
    found: dict[str, list[Any]] = {name: [] for name in PAIRS}
    differences = []
    for number, (atoms, label) in enumerate(structures(arguments.folder)):
        matrices = {"label": label}
        matrices |= {method: calculator.get_hessian(atoms, method=method) for method in ("direct", "autograd")}
        for name, (predicted, reference) in PAIRS.items():
            found[name].append(compare(atoms, matrices[predicted], matrices[reference]))
        if number < CHECKED:
            numerical = finite_difference_hessian(calculator, atoms, STEP).hessian
            differences.append(float(np.abs(numerical - matrices["autograd"]).max()))
    record: dict[str, Any] = {name: summarise(metrics) for name, metrics in found.items()}
    record["largest difference of autograd and finite differences"] = max(differences)
    raw = hessian_model(arguments.checkpoint, dtype=torch.float64, parity="so3")
    sample = structures(arguments.folder)
    record["inversion, trained head"] = under_inversion(raw, sample)
    record["inversion, random head"] = under_inversion(attach_head(raw.backbone, raw.head.config), sample)
    out = arguments.out or Path(__file__).parent / f"results/fairchem_{arguments.system}.json"
    write_text(out, json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
