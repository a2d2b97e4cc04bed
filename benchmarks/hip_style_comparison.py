"""Our head and a HIP-style readout on the same features, with equal data, optimiser and processor time.

    python benchmarks/hip_style_comparison.py distilled --train a.lmdb --held-out b.lmdb --large c.lmdb --seconds 600
    python benchmarks/hip_style_comparison.py ablation --train a.lmdb --held-out b.lmdb --large c.lmdb --steps 1500
    python benchmarks/hip_style_comparison.py folds --labels horm.lmdb --seconds 90
    python benchmarks/hip_style_comparison.py speed --train a.lmdb --held-out b.lmdb --large c.lmdb

Labels are `HessianStore` files. Every run is kept in the JSON file as soon as it ends, and skipped when it is there.
`docs/comparison.md` says what is compared, and what came out.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hip_style.data import Example, load_examples, measure, summary
from hip_style.heads import ABLATIONS, HEADS
from hip_style.training import Recipe, fit, train

from hip_ext.atomic import write_text
from hip_ext.backbones import load_backbone

RESULTS = Path(__file__).resolve().parent / "results"


def run(name: str, examples: Sequence[Example], tests: dict[str, list[Example]], recipe: Recipe) -> dict[str, Any]:
    """Trains a head and measures it on every test set."""
    torch.manual_seed(recipe.seed)
    head = {**ABLATIONS, **HEADS}[name](examples[0].features.widths)
    fit(head, examples)
    parameters = sum(p.numel() for p in head.parameters() if p.requires_grad)
    training = train(head, examples, recipe)
    found = {id(example): measure(head, example) for part in tests.values() for example in part}
    metrics = {test: summary([found[id(example)] for example in part]) for test, part in tests.items()}
    return {"parameters": parameters, "training": training, "metrics": metrics}


def speed(name: str, examples: Sequence[Example], tests: dict[str, list[Example]], rounds: int = 15) -> dict[str, Any]:
    """Least processor time of a training step with eight molecules, and of predictions one by one, seconds.

    The predictions are of the first four molecules of each test set; their mean number of atoms is given.
    """
    torch.manual_seed(0)
    head = HEADS[name](examples[0].features.widths)
    fit(head, examples)
    found = {"training step": min(train(head, examples[:8], Recipe(steps=1))["seconds"] for _ in range(rounds))}
    for test in ("held out", "large"):
        part = tests[test][:4]
        times = [[measure(head, example)["seconds"] for example in part] for _ in range(rounds)]
        found[test] = float(np.min(times, axis=0).mean())
    atoms = {test: float(np.mean([len(e.record.numbers) for e in tests[test][:4]])) for test in ("held out", "large")}
    parameters = sum(p.numel() for p in head.parameters())
    return {"head": name, "parameters": parameters, "seconds": found, "atoms": atoms}


def folds_by_formula(examples: Sequence[Example], count: int) -> list[list[int]]:
    """Splits examples so that all of one sum formula are in one fold, largest groups first into the smallest fold."""
    groups: dict[str, list[int]] = {}
    for index, example in enumerate(examples):
        groups.setdefault(formula(example), []).append(index)
    folds: list[list[int]] = [[] for _ in range(count)]
    for _, members in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        min(folds, key=len).extend(members)
    return folds


def formula(example: Example) -> str:
    """How many atoms of each element, as text."""
    return str(np.bincount(example.record.numbers).tolist())


def keep(path: Path, key: str, value: dict[str, Any]) -> None:
    """Adds a run to a JSON file."""
    found = read(path)
    found[key] = value
    write_text(path, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    means = {test: round(metrics["hessian_mae"], 4) for test, metrics in value.get("metrics", {}).items()}
    print(f"{time.strftime('%H:%M:%S')} {key}: {value.get('training', value.get('seconds'))} {means}", flush=True)


def read(path: Path) -> dict[str, Any]:
    """The runs of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def main() -> None:
    """Runs what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=("distilled", "ablation", "folds", "speed"))
    for option in ("--train", "--held-out", "--large", "--labels"):
        parser.add_argument(option, type=Path)
    parser.add_argument("--heads", nargs="+", help="by default all of the study")
    parser.add_argument("--rates", nargs="+", type=float, default=[3e-3], help="learning rates")
    parser.add_argument("--seconds", type=float, default=math.inf, help="processor time of a training run")
    parser.add_argument("--steps", type=float, default=math.inf)
    parser.add_argument("--folds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    out = arguments.out or RESULTS / f"hip_style_{arguments.study}.json"
    backbone = load_backbone("so3lr")
    if arguments.study == "folds":
        examples = load_examples(arguments.labels, backbone)
        split = folds_by_formula(examples, 5)
        cases = {}
        for fold in arguments.folds:
            rest = [examples[k] for k in np.setdiff1d(np.arange(len(examples)), split[fold])]
            cases[f"fold {fold}"] = rest, {"fold": [examples[k] for k in split[fold]]}
    else:
        held_out = load_examples(arguments.held_out, backbone)
        tests = {
            "held out": held_out,
            "held out, near minima": [e for e in held_out if e.record.info.get("distortion") in ("rattle", "relaxed")],
            "large": load_examples(arguments.large, backbone),
        }
        cases = {"": (load_examples(arguments.train, backbone), tests)}
    if arguments.study == "speed":
        for name in HEADS:
            keep(out, name, speed(name, *cases[""]))
        return
    limit = f"{arguments.seconds:g} s" if math.isfinite(arguments.seconds) else f"{arguments.steps:g} steps"
    for case, (examples, tests) in cases.items():
        for name in arguments.heads or (ABLATIONS if arguments.study == "ablation" else HEADS):
            for rate in arguments.rates:
                key = " | ".join(filter(None, (name, f"{rate:g}", limit, case)))
                if key not in read(out):
                    recipe = Recipe(seconds=arguments.seconds, steps=arguments.steps, learning_rate=rate)
                    found = run(name, examples, tests, recipe)
                    described = {"head": name, "learning_rate": rate, "limit": limit, "case": case}
                    machine = {"machine": platform.machine(), "torch": torch.__version__, "threads": 1}
                    keep(out, key, {**described, **machine, **found})


if __name__ == "__main__":
    main()
