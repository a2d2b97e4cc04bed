"""Normal modes: a spectrum of sticks under a broadened curve, and the list of modes; both choose what is animated."""

from __future__ import annotations

import numpy as np

from hip_ext.report.axes import Axes, drawing
from hip_ext.report.markup import Markup, number, tag, wavenumber
from hip_ext.report.parts import Array, Modes, numbers
from hip_ext.report.texts import part_of, scroller

WIDTH = 20.0
"""cm⁻¹: full width at half maximum of a line."""


def spectrum(place: str, part: Modes, scene: int, shown: int) -> Markup:
    """Spectrum and list.

    Args:
        place: prefix of the identifiers.
        part: the modes.
        scene: number of their scene in the section.
        shown: how many of the modes it has.
    """
    frequencies = numbers(part.frequencies_cm, part.title, (None,))
    strengths = None if part.intensities is None else numbers(part.intensities, part.title, frequencies.shape)
    if not len(frequencies):
        return part_of(part.title, tag("p", "There is no mode."))
    drawn = _drawing(place, part.title, frequencies, strengths, scene, shown)
    words = [_summary(frequencies, strengths)]
    if shown < len(frequencies):
        first = "first" if shown == 1 else f"first {shown}"
        words.append(f" Only the {first} of {len(frequencies)} modes can be animated.")
    listed = _list(part.title, frequencies, strengths, scene, shown)
    return part_of(part.title, drawn, tag("p", words, class_="hint"), listed, kind="modes")


def lorentzians(grid: Array, centres: Array, heights: Array, width: float) -> Array:
    """The sum of lines, each with its height at its centre."""
    half = width / 2
    return np.asarray((heights * half**2 / ((grid[:, None] - centres) ** 2 + half**2)).sum(axis=1))


def _drawing(
    place: str, title: str, frequencies: Array, strengths: Array | None, scene: int, shown: int
) -> Markup | str:
    heights = np.ones(len(frequencies)) if strengths is None else np.abs(strengths)
    good = np.isfinite(frequencies) & np.isfinite(heights)
    if not good.any():
        return tag("p", "No mode has a frequency that is a number.")
    low, high = min(0.0, float(frequencies[good].min())), max(100.0, float(frequencies[good].max()))
    room = 0.04 * (high - low)
    real = good & (frequencies >= 0)
    grid = np.unique(np.concatenate([np.linspace(max(low, 0.0), high + room, 500), frequencies[real]]))
    curve = lorentzians(grid, frequencies[real], heights[real], WIDTH)
    top = max(float(heights[good].max()), float(curve.max())) or 1.0
    axes = Axes((low - room if low < 0 else 0.0, high + room), (0.0, 1.1 * top))
    options = [
        _stick(
            f"{place}m{k}", axes, k, float(frequencies[k]), float(heights[k]), None if strengths is None else "km/mol"
        )
        for k in np.flatnonzero(good[:shown]).tolist()
    ]
    others = [
        axes.path([(x, 0.0), (x, y)], "stick")
        for x, y in zip(frequencies[shown:][good[shown:]], heights[shown:][good[shown:]], strict=True)
    ]
    label = "infrared, km/mol" if strengths is not None else ""
    upright = axes.y_axis(label) if strengths is not None else ""
    zero = axes.upright(0.0, "axis") if low < 0 else ""
    items = tag("g", options, role="presentation")
    return drawing(
        upright, axes.x_axis("wavenumber, cm⁻¹" + ("; imaginary ones below 0" if low < 0 else "")), zero,
        axes.path([(x, y) for x, y in zip(grid.tolist(), curve.tolist(), strict=True)], "curve area"), others, items,
        tag("circle", r=4, cx=-20, cy=-20, class_="dot", aria_hidden="true"),
        role="listbox", tabindex=0, class_="plot chooser", data_scene=scene,
        aria_label=f"{title}: spectrum; arrow keys go from mode to mode, Enter plays and stops",
    )  # fmt: skip


def _stick(name: str, axes: Axes, mode: int, frequency: float, height: float, unit: str | None) -> Markup:
    x, y = axes.across(frequency), axes.up(height)
    said = f"mode {mode + 1}, {wavenumber(frequency)} cm⁻¹" + (f", {number(height, 1)} {unit}" if unit else "")
    top = min(y, axes.bottom - 3)
    line = tag("line", x1=x, x2=x, y1=axes.bottom, y2=top)
    return tag(
        "g", tag("title", said), line, id=name, role="option", aria_selected="false", aria_label=said,
        class_="stick imaginary" if frequency < 0 else "stick", data_index=mode, data_x=x, data_y=top,
    )  # fmt: skip


def _summary(frequencies: Array, strengths: Array | None) -> str:
    imaginary = int((frequencies < 0).sum())
    unknown = int((~np.isfinite(frequencies)).sum())
    said = [f"{len(frequencies)} modes", f"{imaginary} imaginary" if imaginary else "none imaginary"]
    said += [f"{unknown} not a number"] if unknown else []
    kind = f"lines of {WIDTH:g} cm⁻¹ full width" + (
        "" if strengths is not None else "; all of one height, for want of intensities"
    )
    return f"{', '.join(said)}; {kind}."


def _list(title: str, frequencies: Array, strengths: Array | None, scene: int, shown: int) -> Markup:
    names = ["mode", "cm⁻¹", *(["km/mol"] if strengths is not None else [])]
    rows = []
    for k, frequency in enumerate(frequencies.tolist()):
        chosen: object = k + 1
        if k < shown:
            said = f"show mode {k + 1}, {wavenumber(frequency)} cm⁻¹"
            chosen = tag("button", k + 1, type="button", data_scene=scene, data_index=k, aria_label=said)
        cells = [chosen, wavenumber(frequency), *([number(float(strengths[k]), 1)] if strengths is not None else [])]
        rows.append(tag("tr", [tag("td", cell, class_="number") for cell in cells]))
    head = tag("tr", [tag("th", name, scope="col", class_="number") for name in names])
    made = tag("table", tag("thead", head), tag("tbody", rows), class_="list")
    return scroller(f"{title}: list of modes", made)
