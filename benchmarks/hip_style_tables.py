"""The tables of docs/comparison.md from the results of `hip_style_comparison.py`.

python benchmarks/hip_style_tables.py
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hip_style.heads import ABLATIONS, HEADS, OURS

RESULTS = Path(__file__).resolve().parent / "results"
Run = dict[str, Any]


def load(folder: Path, study: str) -> list[Run]:
    """The runs of a study; none if it was not done."""
    path = folder / f"hip_style_{study}.json"
    return list(json.loads(path.read_text(encoding="utf-8")).values()) if path.exists() else []


def best(runs: Sequence[Run], head: str, test: str = "held out") -> Run:
    """The run of a head at the learning rate that was best for it on the test set."""
    return min((run for run in runs if run["head"] == head), key=lambda run: run["metrics"][test]["hessian_mae"])


def transfer(run: Run, small: str) -> float:
    """MAE ÷ mean |H| of large molecules, divided by that of small ones."""
    return float(run["metrics"]["large"]["relative"] / run["metrics"][small]["relative"])


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def distilled(runs: Sequence[Run]) -> str:
    """Every head at its best learning rate, one a column."""
    heads = [head for head in HEADS if any(run["head"] == head for run in runs)]
    chosen = [best(runs, head) for head in heads]

    def of(test: str, name: str, form: str = ".3f") -> Callable[[Run], str]:
        return lambda run: format(run["metrics"][test][name], form)

    rows: list[tuple[str, Callable[[Run], str]]] = [
        ("learning rate", lambda run: f"{run['learning_rate']:g}"),
        ("steps", lambda run: f"{run['training']['steps']}"),
        ("training error at the end, eV/Å²", lambda run: f"{run['training']['training_mae']:.3f}"),
    ]
    for test in ("held out", "held out, near minima", "large"):
        rows += [
            (f"**{test}**: Hessian MAE, eV/Å²", of(test, "hessian_mae")),
            ("median", of(test, "hessian_mae_median")),
            ("MAE ÷ mean abs. entry", of(test, "relative", ".4f")),
            ("overlap of the lowest mode, mean", of(test, "overlap")),
            ("overlap, median", of(test, "overlap_median")),
            ("right number of negative modes", of(test, "negative_agrees", ".0%")),
            ("frequencies, cm⁻¹", of(test, "frequency_mae", ".0f")),
            ("violation of the sum rule, eV/Å²", of(test, "sum_rule", ".2g")),
        ]
    rows += [
        ("**size transfer**, large ÷ near minima", lambda run: f"{transfer(run, 'held out, near minima'):.2f}"),
        ("large ÷ held out", lambda run: f"{transfer(run, 'held out'):.2f}"),
    ]
    return table(["", *heads], [[title, *map(value, chosen)] for title, value in rows])


def rates(runs: Sequence[Run]) -> str:
    """Held-out MAE of every learning rate that was tried."""
    found = sorted((run["head"], run["learning_rate"], run["metrics"]["held out"]["hessian_mae"]) for run in runs)
    return table(["head", "learning rate", "held-out MAE, eV/Å²"], [[h, f"{r:g}", f"{e:.3f}"] for h, r, e in found])


def folds(runs: Sequence[Run]) -> str:
    """Means over all molecules of the folds, each head at the learning rate that is best for it on them."""
    rows = []
    for head in HEADS:
        groups: dict[float, list[Run]] = {}
        for run in runs:
            if run["head"] == head:
                groups.setdefault(run["learning_rate"], []).append(run)
        complete = {rate: group for rate, group in groups.items() if len(group) == 5}
        if not complete:
            continue
        rate, group = min(complete.items(), key=lambda item: mean(item[1], "hessian_mae"))
        single = [run["metrics"]["fold"]["hessian_mae"] for run in group]
        rows.append(
            [
                head,
                f"{rate:g}",
                f"{mean(group, 'hessian_mae'):.3f}",
                f"{min(single):.3f} to {max(single):.3f}",
                f"{mean(group, 'overlap'):.3f}",
                f"{mean(group, 'negative_agrees'):.0%}",
                f"{mean(group, 'frequency_mae'):.0f}",
                f"{mean(group, 'sum_rule'):.2g}",
                f"{np.mean([run['training']['steps'] for run in group]):.0f}",
            ]
        )
    titles = ["head", "learning rate", "Hessian MAE, eV/Å²", "of single folds", "overlap of the lowest mode"]
    return table([*titles, "negative modes right", "frequencies, cm⁻¹", "sum rule, eV/Å²", "steps"], rows)


def mean(group: Sequence[Run], name: str) -> float:
    """Over the molecules of all folds."""
    weights = [run["metrics"]["fold"]["molecules"] for run in group]
    return float(np.average([run["metrics"]["fold"][name] for run in group], weights=weights))


def ablation(runs: Sequence[Run]) -> str:
    """One change each, against ours."""
    known = {run["head"]: run for run in runs}
    rows = []
    for head in ABLATIONS:
        if head not in known:
            continue
        run = known[head]
        small, large = (run["metrics"][test] for test in ("held out", "large"))
        worse = small["hessian_mae"] / known[OURS]["metrics"]["held out"]["hessian_mae"] - 1
        worse_large = large["hessian_mae"] / known[OURS]["metrics"]["large"]["hessian_mae"] - 1
        rows.append(
            [
                head,
                f"{small['hessian_mae']:.3f}",
                f"{worse:+.0%}",
                f"{large['hessian_mae']:.3f}",
                f"{worse_large:+.0%}",
                f"{transfer(run, 'held out, near minima'):.2f}",
                f"{small['overlap']:.3f}",
                f"{small['frequency_mae']:.0f}",
                f"{1e3 * run['training']['seconds'] / run['training']['steps']:.0f}",
            ]
        )
    titles = ["change", "held-out MAE, eV/Å²", "", "large, eV/Å²", "", "size transfer", "overlap of the lowest mode"]
    return table([*titles, "frequencies, cm⁻¹", "ms a step"], rows)


def speed(runs: Sequence[Run]) -> str:
    """Milliseconds of processor time."""
    rows = [
        [run["head"], f"{run['parameters']:,}", *(f"{1e3 * seconds:.0f}" for seconds in run["seconds"].values())]
        for run in runs
    ]
    atoms = [f"{count:.0f}" for count in runs[0]["atoms"].values()]
    titles = ["head", "parameters", "training step, ms", *(f"prediction, {count} atoms, ms" for count in atoms)]
    return table(titles, rows)


def main() -> None:
    """Prints every table for which there are results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    folder = parser.parse_args().results
    for study, makers in {
        "distilled": (distilled, rates),
        "folds": (folds,),
        "speed": (speed,),
        "ablation": (ablation,),
    }.items():
        runs = load(folder, study)
        if runs:
            print(f"## {study}\n", *(make(runs) for make in makers), sep="\n")


if __name__ == "__main__":
    main()
