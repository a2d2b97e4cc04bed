"""The figure of `hip-ext phonons --plot`: bands along the path, and the density of states beside them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hip_ext.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def draw(path: Path, found: dict[str, NDArray[np.float64]], labels: list[str], title: str) -> None:
    """Draws the bands, imaginary wavenumbers as negative numbers.

    Args:
        path: where to; the extension decides the format.
        found: `distance` [Q] and `wavenumbers` [Q, 3N] in cm⁻¹; `label_distance`; perhaps `displaced_wavenumbers`
            [Q, 3N], and `dos_wavenumbers` and `dos`.
        labels: names of the special points at `label_distance`.
        title: of the figure.

    Raises:
        ConfigError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    from hip_ext.atomic import atomic_path

    figure = Figure(figsize=(8, 5), layout="constrained")
    beside = "dos" in found
    axes: Any = figure.subplots(1, 1 + beside, sharey=True, squeeze=False, width_ratios=(3, 1)[: 1 + beside])[0]
    bands = axes[0]
    if "displaced_wavenumbers" in found:
        lines = bands.plot(found["distance"], found["displaced_wavenumbers"], color="C1", linewidth=2.5, alpha=0.6)
        lines[0].set_label("finite displacements")
    lines = bands.plot(found["distance"], found["wavenumbers"], color="C0", linewidth=1.0)
    lines[0].set_label("direct Hessian")
    if "displaced_wavenumbers" in found:
        bands.legend(frameon=False)
    bands.axhline(0, color="grey", linewidth=0.8, zorder=0)
    for place in found["label_distance"]:
        bands.axvline(place, color="grey", linewidth=0.5, zorder=0)
    bands.set_xticks(found["label_distance"], ["Γ" if label == "G" else label for label in labels])
    bands.set(ylabel="wavenumber, cm⁻¹; imaginary ones negative", title=title)
    bands.set_xlim(found["distance"][0], found["distance"][-1])
    if beside:
        axes[1].plot(found["dos"], found["dos_wavenumbers"], color="C0", linewidth=1.0)
        axes[1].set(xlabel="states per cm⁻¹", xlim=(0, None))
    try:
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=200)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from None
