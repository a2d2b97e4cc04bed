"""The figure of `hip-ext demo --plot`: predicted against exact frequencies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hip_ext.errors import ConfigError, MissingDependencyError

FORMATS = (".png", ".pdf", ".svg")


def check_figure(path: Path) -> None:
    """Refuses a figure that could not be drawn in the end.

    Raises:
        ConfigError: unknown extension, or there is no such folder.
        MissingDependencyError: matplotlib is not installed.
    """
    if path.suffix not in FORMATS:
        raise ConfigError(f"--plot {path}: unknown extension {path.suffix!r}, expected one of {', '.join(FORMATS)}")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise ConfigError(f"--plot {path}: {'it is a folder' if path.is_dir() else 'its folder does not exist'}")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise MissingDependencyError("--plot needs matplotlib: pip install 'hip-ext[train]'") from None


def draw(path: Path, found: list[dict[str, Any]], model: str) -> None:
    """Draws every frequency of every molecule (imaginary ones as negative numbers, cm⁻¹), and their differences.

    Args:
        path: where to; the extension decides the format.
        found: mappings with `name`, `frequencies` and `exact_frequencies`.
        model: for the title.

    Raises:
        ConfigError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    from hip_ext.atomic import atomic_path

    figure = Figure(figsize=(6, 7), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for one in found:
        exact, predicted = one["exact_frequencies"], one["frequencies"]
        above.plot(exact, predicted, "o", markersize=4, alpha=0.6, label=f"{one['name']} ({one['atoms']} atoms)")
        below.plot(exact, predicted - exact, "o", markersize=4, alpha=0.6)
    above.axline((0, 0), slope=1, color="grey", linewidth=0.8, zorder=0)
    below.axhline(0, color="grey", linewidth=0.8, zorder=0)
    above.set(ylabel="predicted, cm⁻¹", title=f"{model}: harmonic frequencies")
    below.set(xlabel="exact (autograd), cm⁻¹; imaginary ones negative", ylabel="error, cm⁻¹")
    above.legend(frameon=False)
    try:
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=200)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from None
