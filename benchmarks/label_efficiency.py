"""How many labels a head needs: its error on unseen molecules against the number of labelled structures.

    python benchmarks/label_efficiency.py --name so3lr --train train.lmdb --validation held_out.lmdb \
      --sizes 100 300 1000 3000 10000 --steps 1500 --out runs/efficiency/so3lr

Every size is a random part of the same store and is trained for the same number of steps, with the same settings.
Stores given as --same-cost are used whole: they hold other kinds of labels, such as one product H·v of many more
structures. What is trained is kept in --out, and skipped when it is there.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hip_ext import from_pretrained
from hip_ext.atomic import write_text
from hip_ext.data.store import HessianStore
from hip_ext.training.run import train
from hip_ext.training.settings import TrainingConfig

RESULT = Path(__file__).resolve().parent / "results/label_efficiency.json"
HEAD = "hip-so3lr-organic"
KEPT = ("hessian_mae", "hessian_mae_median", "mode_overlap_median", "negative_agreement", "frequency_mae")

ROWS: dict[str, float] = {"mae": 1.0, "twists": 0.2}
PRODUCTS: dict[str, float] = {"mae": 0.0, "twists": 0.0, "products": 1.0}
"""Weights of the losses where rows, and where nothing but products are labelled."""


def part_of(source: Path, size: int, path: Path) -> Path:
    """A random part of a store as a store of its own, made once; the smaller parts are within the larger ones."""
    if not path.exists():
        records = HessianStore(source)
        chosen = np.random.default_rng(0).permutation(len(records))[:size]
        with HessianStore(path, "a") as store:
            store.append([records[int(index)] for index in chosen])
    return path


def cost_of(path: Path) -> dict[str, int]:
    """What the labels of a store took: energies with forces, and products of the Hessian with a vector."""
    records = HessianStore(path)
    products = 3 * int(records.labelled_counts.sum())
    if products == 0:
        products = sum(0 if record.products is None else len(record.products) for record in records)
    return {"structures": len(records), "products": products}


def main() -> None:
    """Trains what is missing and adds the figures to the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="of this curve in the result")
    parser.add_argument("--backbone", default="so3lr")
    parser.add_argument("--source", help="which model of that kind")
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--validation", type=Path, required=True, help="store with complete Hessians")
    parser.add_argument("--sizes", type=int, nargs="*", default=[100, 300, 1000, 3000, 10000])
    parser.add_argument("--same-cost", type=Path, nargs="*", default=[], help="stores with other kinds of labels")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    stores = {str(n): part_of(arguments.train, n, arguments.out / f"part-{n}.lmdb") for n in arguments.sizes}
    stores |= {path.stem: path for path in arguments.same_cost}
    for name, store in stores.items():
        entry = {**cost_of(store), **_trained(store, arguments, arguments.out / f"{name}-{arguments.steps}")}
        known = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
        known.setdefault(f"{arguments.name}, {arguments.steps} steps", {})[name] = entry
        write_text(RESULT, json.dumps(known, indent=2, ensure_ascii=False) + "\n")
        print(name, entry, flush=True)


def _trained(store: Path, arguments: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Errors on the validation data after training on one store."""
    values: dict[str, Any] = {
        "backbone": {"name": arguments.backbone, "source": arguments.source},
        "head": from_pretrained(HEAD).head.config.model_dump(),
        # Labels by a backbone have its units, however strange the molecule: see distillation.
        "data": {"train": [str(store)], "validation": [str(arguments.validation)], "trust_units": True},
        "loss": {"hessian": ROWS if HessianStore(store).labelled_counts.any() else PRODUCTS},
        "run": {"steps": arguments.steps, "evaluate_every": arguments.steps},
    }
    result = train(TrainingConfig.from_dict(values), folder)
    return {name: result.metrics["all"][name] for name in KEPT}


if __name__ == "__main__":
    main()
