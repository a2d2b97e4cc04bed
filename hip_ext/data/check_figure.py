"""The figure of `hip-ext data check`: sizes, elements, blocks against distance, and what is left of the rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hip_ext.atomic import atomic_path
from hip_ext.data.check import Check
from hip_ext.errors import MissingDependencyError


def draw(check: Check, path: Path) -> None:
    """Draws four panels.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependencyError("the figure needs matplotlib: pip install 'hip-ext[train]'") from None
    figure = Figure(figsize=(10, 7), layout="constrained")
    FigureCanvasAgg(figure)
    (sizes, elements), (blocks, rules) = figure.subplots(2, 2)

    if check.sizes:
        edges = np.arange(min(check.sizes), max(check.sizes) + 2) - 0.5
        sizes.hist(check.sizes, bins=edges if len(edges) < 80 else 60)
    sizes.set(xlabel="atoms", ylabel="records", title="Sizes")

    names = [name for name, _ in check.elements.most_common(30)]
    elements.bar(names, [check.elements[name] for name in names])
    elements.set(ylabel="atoms", title="Elements", yscale="log" if names else "linear")

    if check.blocks:
        distances, norms = np.concatenate(check.blocks, axis=1)
        some = np.random.default_rng(0).permutation(len(distances))[:20_000]
        blocks.plot(distances[some], norms[some], ".", markersize=2, alpha=0.3, rasterized=True)
        blocks.set_yscale("log")
    blocks.set(xlabel="distance / Å", ylabel="‖H$_{ij}$‖ / eV/Å²", title="Pair blocks")

    _draw_rules(rules, check)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")


def _draw_rules(axes: Any, check: Check) -> None:
    rules = {"symmetry": check.asymmetry, "translation": check.translation, "rotation": check.rotation}
    for name, violations in rules.items():
        values = np.array([value for value in violations.values() if value > 0])
        if len(values):
            axes.hist(np.log10(values), bins=40, histtype="step", label=name)
    if axes.has_data():
        axes.legend()
    axes.set(xlabel="log$_{10}$ of the worst entry / eV/Å²", ylabel="records", title="Violations of exact rules")
