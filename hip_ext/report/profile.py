"""Energies along a path as a curve, or of a few states as levels; a point chooses the frame of the 3D view."""

from __future__ import annotations

import numpy as np

from hip_ext.report.axes import BOTTOM, HEIGHT, WIDTH, Axes, drawing, padded
from hip_ext.report.markup import Markup, tag
from hip_ext.report.parts import Array, EnergyProfile, numbers
from hip_ext.report.scenes import KCAL, energy_text, relative
from hip_ext.report.texts import part_of

LEVEL = 0.3
"""Half the width of a level, where neighbours are 1 apart."""


def profile(place: str, part: EnergyProfile, scene: int | None) -> Markup:
    """The picture, with energies above the first point.

    Args:
        place: prefix of the identifiers.
        part: the profile.
        scene: number of its scene in the section; None where it has no frames.
    """
    energies = relative(part)
    good = np.isfinite(energies)
    if not good.any():
        return part_of(part.title, tag("p", "No point has an energy that is a number."))
    curve = part.coordinate is not None
    along = numbers(part.coordinate, part.title, energies.shape) if curve else np.arange(len(energies), dtype=float)
    low, high = padded(float(energies[good].min()), float(energies[good].max()), 0.14)
    ends = padded(float(along.min()), float(along.max()), 0.04) if curve else (-0.6, len(energies) - 0.4)
    axes = Axes(ends, (low, high), right=WIDTH - 64, bottom=HEIGHT - (BOTTOM if curve else 12))
    points = [
        _point(f"{place}e{k}", axes, part, k, float(along[k]), float(energies[k]))
        for k in np.flatnonzero(good).tolist()
    ]
    chooser: dict[str, object] = {"role": "img"}
    if scene is not None:
        chooser = {"role": "listbox", "tabindex": 0, "data_scene": scene}
    said = "; arrow keys go from point to point, Enter plays and stops" if scene is not None else _aloud(part, energies)
    drawn = drawing(
        axes.y_axis("ΔE, eV"), axes.y_axis("kcal/mol", KCAL, right=True),
        axes.x_axis(part.coordinate_label) if curve else "",
        _line(axes, along, energies, curve), points,
        aria_label=f"{part.title}{said}", class_="plot chooser" if scene is not None else "plot", **chooser,
    )  # fmt: skip
    missing = int((~good).sum())
    hint = f"Relative to the first point. {missing} of {len(energies)} energies are not known." if missing else ""
    return part_of(part.title, drawn, tag("p", hint, class_="hint") if hint else "")


def _line(axes: Axes, along: Array, energies: Array, curve: bool) -> Markup:
    if curve:
        return axes.path(list(zip(along.tolist(), energies.tolist(), strict=True)), "curve line")
    steps: list[tuple[float, float]] = []
    for x, y in zip(along.tolist(), energies.tolist(), strict=True):
        steps += [(x - LEVEL, y), (x + LEVEL, y)]
    return axes.path(steps, "curve dashed")


def _point(name: str, axes: Axes, part: EnergyProfile, k: int, along: float, energy: float) -> Markup:
    label = str(part.labels[k])
    said = f"{label or f'point {k + 1}'}, {energy_text(energy)}"
    x, y = axes.across(along), axes.up(energy)
    if part.coordinate is None:
        wide = axes.across(along + LEVEL) - x
        shape = tag("line", x1=x - wide, x2=x + wide, y1=y, y2=y, class_="level")
    else:
        shape = tag("circle", cx=x, cy=y, r=5 if label else 3.2)
    lines = [tag("title", said), shape]
    if label:
        lines.append(tag("text", label, x=_inside(x, label), y=y - 12, text_anchor="middle", class_="name"))
    return tag(
        "g", lines, id=name, role="option", aria_selected="false", aria_label=said, class_="point",
        data_index=k, data_x=x, data_y=y,
    )  # fmt: skip


def _inside(x: float, label: str) -> float:
    """A place for a label's middle where its ends stay within the drawing."""
    half = min(4.5 * len(label), WIDTH / 2)
    return min(max(x, half), WIDTH - half)


def _aloud(part: EnergyProfile, energies: Array) -> str:
    named = [f"{part.labels[k]} {energy_text(energies[k])}" for k in range(len(energies)) if part.labels[k]]
    return ": " + "; ".join(named) if named else ""
