"""What distillation is worth when a head then learns from DFT Hessians.

    hip-ext data convert horm.lmdb runs/dft/horm.lmdb
    python benchmarks/dft_transfer.py --labels runs/dft/horm.lmdb --extra runs/dft/own.lmdb --out runs/dft

Five folds by sum formula. In each fold a head learns from the other four: once from new weights, once beginning with
the distilled head that ships. Beside them stand that head as it is and SO3LR's own exact Hessian. All are measured
against the DFT labels of the fold. Extra labels whose formula is not in the fold join the training. What is trained
is kept in --out, and skipped when it is there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.formula import Formula

from hip_ext import HessianModel, from_pretrained
from hip_ext.atomic import write_text
from hip_ext.data.record import HessianRecord
from hip_ext.data.store import HessianStore
from hip_ext.evaluation.metrics import HessianMetrics, compare
from hip_ext.evaluation.statistics import estimates
from hip_ext.reference import autograd_hessian
from hip_ext.training.run import train
from hip_ext.training.settings import TrainingConfig

RESULT = Path(__file__).resolve().parent / "results/dft_transfer.json"
SHIPPED = "hip-so3lr-organic"
FOLDS = 5
KEPT = ("hessian_mae", "hessian_relative", "cos1_eckart", "negative_agrees", "ts_agrees", "frequency_mae", "zpe_error")

TRAINED: dict[str, dict[str, Any]] = {
    "new weights": {
        "head": from_pretrained(SHIPPED).head.config.model_dump(),
        "optimiser": {"learning_rate": 3e-3, "warmup": 100},
        "run": {"steps": 1500},
    },
    "fine-tuned": {
        "start": SHIPPED,
        "optimiser": {"learning_rate": 1e-3, "warmup": 50},
        "run": {"steps": 600},
    },
}
"""What is trained, and how: the rates and numbers of steps were chosen on the first fold."""


def formula(record: HessianRecord) -> str:
    """Sum formula in Hill's order."""
    return Formula.from_list(record.atoms().get_chemical_symbols()).format("hill")


def folds_by_formula(records: Sequence[HessianRecord], count: int) -> list[list[int]]:
    """Places of the records, those of one formula in one fold; the largest groups go first, to the smallest fold."""
    groups: dict[str, list[int]] = {}
    for place, record in enumerate(records):
        groups.setdefault(formula(record), []).append(place)
    folds: list[list[int]] = [[] for _ in range(count)]
    for _, members in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        min(folds, key=len).extend(members)
    return folds


def store_of(path: Path, records: Sequence[HessianRecord]) -> str:
    """The records as a store, made once."""
    if not path.exists():
        with HessianStore(path, "a") as store:
            store.append(records)
    return str(path)


def measure(matrices: Sequence[np.ndarray], records: Sequence[HessianRecord]) -> list[HessianMetrics]:
    """Metrics of predictions against labels, both symmetrised."""
    labels = [(label + label.T) / 2 for label in (record.hessian() for record in records)]
    return [compare(r.atoms(), found, label) for r, found, label in zip(records, matrices, labels, strict=True)]


def predicted(model: HessianModel, records: Sequence[HessianRecord]) -> list[np.ndarray]:
    """Direct Hessians, eV/Å²."""
    return [m.double().numpy() for m in model.hessian([record.atoms() for record in records]).dense_list()]


def exact(model: HessianModel, records: Sequence[HessianRecord]) -> list[np.ndarray]:
    """The backbone's own Hessians by automatic differentiation, eV/Å²."""
    return [autograd_hessian(model.backbone, model.structures(record.atoms())).double().numpy() for record in records]


def summary(found: Sequence[HessianMetrics]) -> dict[str, Any]:
    """Mean, 95 % bootstrap interval and median of what is kept."""
    table = np.array([[getattr(metrics, name) for name in KEPT] for metrics in found], dtype=float)
    return {name: estimate.plain() for name, estimate in zip(KEPT, estimates(table), strict=True)}


def main() -> None:
    """Trains what is missing and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=Path, required=True, help="store with complete DFT Hessians")
    parser.add_argument("--extra", type=Path, help="store with more of them, to train on only")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    records = [record for record in HessianStore(arguments.labels) if record.is_complete]
    extra = [r for r in HessianStore(arguments.extra) if r.is_complete] if arguments.extra else []
    shipped = from_pretrained(SHIPPED)
    found: dict[str, list[HessianMetrics]] = {
        "SO3LR, exact": measure(exact(shipped, records), records),
        "distilled": measure(predicted(shipped, records), records),
    }
    tag = f"{len(records)}+{len(extra)}"
    for number, fold in enumerate(folds_by_formula(records, FOLDS)):
        test = [records[place] for place in fold]
        formulas = {formula(record) for record in test}
        training = [r for place, r in enumerate(records) if place not in fold]
        training += [r for r in extra if formula(r) not in formulas]
        folder = arguments.out / tag / f"fold-{number}"
        data = {
            "train": [store_of(folder / "train.lmdb", training)],
            "validation": [store_of(folder / "test.lmdb", test)],
        }
        for name, settings in TRAINED.items():
            run = {**settings["run"], "evaluate_every": settings["run"]["steps"]}
            config = TrainingConfig.from_dict({**settings, "data": data, "run": run})
            result = train(config, folder / name.replace(" ", "-"))
            found.setdefault(name, []).extend(measure(predicted(result.model, test), test))
            print(number, name, np.mean([m.hessian_mae for m in found[name]]), flush=True)
    document = {
        "labels": len(records),
        "extra labels": len(extra),
        "mean |H|, eV/Å²": float(np.mean([metrics.mean_abs for metrics in found["distilled"]])),
        "settings": {name: {k: v for k, v in s.items() if k != "head"} for name, s in TRAINED.items()},
        "against the DFT labels": {name: summary(metrics) for name, metrics in found.items()},
    }
    known = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    write_text(RESULT, json.dumps({**known, tag: document}, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
