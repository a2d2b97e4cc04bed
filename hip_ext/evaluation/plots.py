"""Pictures of one model against one reference, as SVG text."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hip_ext.errors import MissingDependencyError
from hip_ext.evaluation.lines import Line
from hip_ext.evaluation.metrics import ECKART, RAW
from hip_ext.evaluation.spectra import wavenumbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MANY = 2000
"""Points beyond which a cloud is stored as pixels."""

INK, POINT = "#1f2933", "#0b6e99"


def plots(lines: Sequence[Line], result: dict[str, Any]) -> list[tuple[str, str]]:
    """Title and SVG of every picture.

    Args:
        lines: results of one model against one reference, without failures.
        result: their summary.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    predicted = np.concatenate([line["eigenvalues"][0] for line in lines])
    exact = np.concatenate([line["eigenvalues"][1] for line in lines])
    atoms = [line["atoms"] for line in lines]
    errors = [line["metrics"]["hessian_mae"] for line in lines]
    cos = [line["metrics"]["cos1_eckart"] for line in lines]
    return [
        ("Frequencies", _drawn(lambda axes: _parity(axes, wavenumbers(exact), wavenumbers(predicted), "cm⁻¹"))),
        ("Eckart eigenvalues", _drawn(lambda axes: _parity(axes, exact, predicted, ECKART))),
        ("Hessian error and size", _drawn(lambda axes: _sizes(axes, atoms, errors))),
        ("Hessian error and distance", _drawn(lambda axes: _distances(axes, result["by_distance"]), True)),
        ("Lowest mode, Eckart", _drawn(lambda axes: _cosines(axes, cos))),
    ]


def _parity(axes: Axes, exact: np.ndarray, predicted: np.ndarray, unit: str) -> None:
    ends = [min(exact.min(), predicted.min()), max(exact.max(), predicted.max())]
    axes.plot(ends, ends, color=INK, linewidth=0.8)
    axes.scatter(exact, predicted, s=6, alpha=0.4, color=POINT, linewidths=0, rasterized=len(exact) > MANY)
    axes.set(xlabel=f"reference ({unit})", ylabel=f"predicted ({unit})")


def _sizes(axes: Axes, atoms: Sequence[int], errors: Sequence[float]) -> None:
    axes.scatter(atoms, errors, s=12, alpha=0.5, color=POINT, linewidths=0, rasterized=len(atoms) > MANY)
    axes.set(xlabel="atoms", ylabel=f"Hessian MAE ({RAW})")
    axes.set_ylim(bottom=0)
    axes.locator_params("x", integer=True)


def _distances(axes: Axes, classes: dict[str, Any]) -> None:
    names = list(classes)
    error = [classes[name]["hessian_mae"] for name in names]
    mean, low, high = (np.array([one[key] for one in error], dtype=float) for key in ("mean", "low", "high"))
    spread = np.maximum(np.stack((mean - low, high - mean)), 0)
    axes.bar(range(len(names)), mean, color=POINT, alpha=0.8)
    axes.errorbar(range(len(names)), mean, yerr=spread, fmt="none", ecolor=INK, elinewidth=0.8, capsize=2)
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=8)
    axes.set_ylabel(f"Hessian MAE ({RAW})")


def _cosines(axes: Axes, cos: Sequence[float]) -> None:
    axes.hist(cos, bins=[k / 20 for k in range(21)], color=POINT, alpha=0.8)
    axes.set(xlabel="|cos v1|", ylabel="structures", xlim=(0, 1))
    axes.locator_params("y", integer=True)


def _drawn(draw: Callable[[Axes], None], tall_labels: bool = False) -> str:
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependencyError("matplotlib is not installed: pip install 'hip-ext[train]'") from None
    style: Any = {"svg.hashsalt": "hip-ext", "svg.fonttype": "path", "font.size": 9}
    with mpl.rc_context(style):
        figure = Figure(figsize=(4.2, 3.4), dpi=150)
        axes = figure.add_axes((0.18, 0.3, 0.79, 0.67) if tall_labels else (0.18, 0.15, 0.79, 0.82))
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()
