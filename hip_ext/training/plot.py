"""The learning curve as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hip_ext.atomic import atomic_path
from hip_ext.errors import MissingDependencyError


def plot_learning_curve(curve: Sequence[dict[str, float]], path: Path) -> None:
    """Draws training and held-out error (eV/Å²) against the step, on logarithmic axes.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependencyError("matplotlib is not installed: pip install 'hip-ext[train]'") from None
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    steps = [entry["step"] for entry in curve]
    axes.loglog(steps, [entry["train_mae"] for entry in curve], label="training")
    axes.loglog(steps, [entry["held_out_mae"] for entry in curve], label="held-out molecules")
    axes.set_xlabel("optimiser step")
    axes.set_ylabel("Hessian MAE (eV/Å²)")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
