"""Phonon bands along a path, with their density of states beside them."""

from __future__ import annotations

import numpy as np

from hip_ext.report.axes import HEIGHT, WIDTH, Axes, drawing, padded
from hip_ext.report.markup import Markup, number, tag
from hip_ext.report.parts import Array, Bands, numbers
from hip_ext.report.texts import part_of

MOST_POINTS = 20_000
"""Points of all bands together; beyond, wave vectors are left out evenly."""


def bands(part: Bands) -> Markup:
    """The picture, imaginary wavenumbers below zero."""
    distance = numbers(part.distance, part.title, (None,))
    lines = numbers(part.wavenumbers_cm, part.title, (len(distance), None))
    other = None if part.compared_cm is None else numbers(part.compared_cm, part.title, lines.shape)
    good = lines[np.isfinite(lines)]
    if not len(good):
        return part_of(part.title, tag("p", "No wavenumber is a number."))
    low, high = padded(min(float(good.min()), 0.0), float(good.max()), 0.04)
    low = 0.0 if good.min() > -1e-6 * good.max() else low
    split = WIDTH - 150 if part.dos is not None else WIDTH - 14
    axes = Axes((float(distance.min()), float(distance.max()) or 1.0), (low, high), right=split)
    kept = np.unique(np.linspace(0, len(distance) - 1, min(len(distance), _most(lines))).round().astype(int))
    drawn = [axes.y_axis("wavenumber, cm⁻¹"), axes.x_axis("", marks=False), *_points(part, axes)]
    if low < 0:
        drawn.append(axes.path([(axes.x[0], 0.0), (axes.x[1], 0.0)], "axis"))
    if other is not None:
        drawn += _curves(axes, distance[kept], other[kept], "curve compared")
    drawn += _curves(axes, distance[kept], lines[kept], "curve line")
    if part.dos is not None:
        drawn.append(_states(part, Axes((0.0, 1.0), (low, high), left=split + 14)))
    span = f"from {number(float(good.min()), 1)} to {number(float(good.max()), 1)} cm⁻¹"
    said = f"{part.title}: {lines.shape[1]} bands {span}"
    legend = f"Broad lines behind: {part.compared_label}." if other is not None else ""
    picture = drawing(drawn, role="img", aria_label=said, class_="plot")
    return part_of(part.title, picture, tag("p", f"{said}. {legend}", class_="hint"))


def _most(lines: Array) -> int:
    return max(2, MOST_POINTS // max(1, lines.shape[1]))


def _curves(axes: Axes, distance: Array, lines: Array, kind: str) -> list[Markup]:
    return [axes.path(list(zip(distance.tolist(), band.tolist(), strict=True)), kind) for band in lines.T]


def _points(part: Bands, axes: Axes) -> list[Markup]:
    """The special points; names that fall on one place are written together."""
    names: dict[float, str] = {}
    for where, label in zip(numbers(part.label_distance, part.title, (None,)).tolist(), part.labels, strict=True):
        name = "Γ" if label in {"G", "Gamma", "GAMMA"} else label
        names[where] = f"{names[where]}|{name}" if where in names and names[where] != name else name
    drawn = []
    for where, name in names.items():
        drawn.append(axes.upright(where))
        drawn.append(tag("text", name, x=axes.across(where), y=HEIGHT - 30, text_anchor="middle", class_="name"))
    return drawn


def _states(part: Bands, axes: Axes) -> Markup:
    assert part.dos is not None
    grid = numbers(part.dos[0], part.title, (None,))
    states = numbers(part.dos[1], part.title, grid.shape)
    within = np.isfinite(states) & (grid >= axes.y[0]) & (grid <= axes.y[1])
    top = float(states[within].max(initial=0.0)) or 1.0
    line = axes.path(list(zip((states[within] / top).tolist(), grid[within].tolist(), strict=True)), "curve line")
    return tag("g", axes.x_axis("", marks=False), line, tag(
        "text", "states", x=(axes.left + axes.right) / 2, y=HEIGHT - 30, text_anchor="middle", class_="name"
    ))  # fmt: skip
