"""The learning curve as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hip_ext.atomic import atomic_path
from hip_ext.errors import MissingDependencyError

LINES = {
    "train_mae": "Hessian, training (eV/Å²)",
    "held_out_mae": "Hessian, held-out molecules (eV/Å²)",
    "held_out_products": "products H·v, held-out molecules (eV/Å)",
    "held_out_energy": "energy per atom, held-out molecules (eV)",
    "held_out_forces": "forces, held-out molecules (eV/Å)",
}
"""Names in the curve, and how they are called in the picture."""


def plot_learning_curve(curve: Sequence[dict[str, float]], path: Path) -> None:
    """Draws whatever errors were measured against the step, on logarithmic axes.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependencyError("matplotlib is not installed: pip install 'hip-ext[train]'") from None
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for name, title in LINES.items():
        points = [(entry["step"], entry[name]) for entry in curve if entry.get(name, 0.0) > 0.0]
        if points:
            axes.loglog(*zip(*points, strict=True), label=title)
    axes.set_xlabel("optimiser step")
    axes.set_ylabel("mean absolute error")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
