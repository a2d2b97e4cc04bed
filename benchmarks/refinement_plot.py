"""The figure of docs/refinement.md from benchmarks/results/refinement.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

TITLES = {"random_states": "random states", "minima": "minima", "large": "larger molecules", "held": "further held-out"}


def plot(results: dict[str, Any], path: Path) -> None:
    """Errors after k products, products of each method, and estimated beside true errors."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 4.2), layout="constrained")
    for name, values in results["sets"].items():
        errors = values["curve"]["lowest eigenvalue, relative error"]
        left.semilogy(values["curve"]["products"], errors, marker="o", markersize=3, label=TITLES.get(name, name))
    left.axhline(results["relative"], color="grey", linewidth=0.8, linestyle="--")
    left.set(xlabel="exact products", ylabel="median relative error of the lowest eigenvalue", title="Refinement")
    left.legend(frameon=False)

    first = next(iter(results["sets"]))
    methods = list(results["sets"][first]["lowest pair"])
    for shift, (name, values) in enumerate(results["sets"].items()):
        places = [row + 0.8 * shift / len(results["sets"]) for row in range(len(methods))]
        means = [values["lowest pair"][method]["value"]["mean"] for method in methods]
        middle.barh(places, means, height=0.8 / len(results["sets"]), label=TITLES.get(name, name))
    middle.set_yticks([row + 0.3 for row in range(len(methods))], methods, fontsize=8)
    middle.invert_yaxis()
    middle.set(xscale="log", xlabel="mean products, lowest eigenvalue to 1e-3", title="Beside other methods")

    for name, values in results["sets"].items():
        points = values["estimate"]["2"]["points"]
        right.loglog(points["rms"], points["estimate"], ".", markersize=4, label=TITLES.get(name, name))
    ends = right.get_xlim()
    right.plot(ends, ends, color="grey", linewidth=0.8)
    right.set(xlabel="true error (rms), eV/Å²", ylabel="from two products, eV/Å²", title="Error estimate")
    figure.savefig(path, dpi=110)
    plt.close(figure)
