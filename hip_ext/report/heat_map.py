"""A Hessian as a map: every entry up to a size, beyond it the norms of blocks, beyond that of groups of atoms.

Colour tells the sign and opacity the size, so that zero is the paper, be it white or black. Sizes go over four decades.
"""

from __future__ import annotations

import base64

import numpy as np
from numpy.typing import NDArray

from hip_ext.report.markup import Markup, number, tag
from hip_ext.report.parts import Array, HessianMap, numbers
from hip_ext.report.png import png
from hip_ext.report.scenes import atom_names
from hip_ext.report.texts import part_of

MOST_ENTRIES = 64
"""Atoms up to which every entry is drawn, and blocks can be read."""

MOST_BLOCKS = 400
"""Atoms up to which each has a row of its own."""

DECADES = 4.0
POSITIVE, NEGATIVE, UNKNOWN = (196, 62, 28), (33, 102, 185), (128, 128, 128)
SIDE, EDGE = 600, 40
"""Size of the drawing, and its part at the left and at the top for the names."""


def heat_map(place: str, part: HessianMap) -> Markup:
    """The map, its scale, and what it says about itself."""
    n = len(part.atoms)
    matrix = numbers(part.matrix, part.title, (3 * n, 3 * n))
    unknown = int((~np.isfinite(matrix)).sum())
    norms = np.sqrt((matrix.reshape(n, 3, n, 3) ** 2).sum(axis=(1, 3)))
    groups = np.array_split(np.arange(n), min(n, MOST_BLOCKS))
    shown = matrix if n <= MOST_ENTRIES else _pooled(norms, groups)
    top = float(np.abs(shown[np.isfinite(shown)]).max(initial=0.0)) or 1.0
    size = (SIDE - EDGE) / len(groups)
    image = base64.b64encode(png(_coloured(shown, top))).decode()
    picture = tag(
        "image", href=f"data:image/png;base64,{image}", x=EDGE, y=EDGE, width=SIDE - EDGE, height=SIDE - EDGE,
        preserveAspectRatio="none", class_="pixels",
    )  # fmt: skip
    names = _names(part, groups)
    cross = tag(
        "rect", x=-SIDE, y=-SIDE, width=round(size, 3), height=round(size, 3), class_="cross", aria_hidden="true"
    )
    lines = _grid(len(groups), size) if len(groups) <= MOST_ENTRIES else []
    said = f"{part.title}: {n} atoms; arrow keys go from block to block"
    drawn = tag(
        "svg", picture, lines, _labels(names, size), cross, viewBox=f"0 0 {SIDE} {SIDE}", role="application",
        tabindex=0, class_="map", aria_label=said, data_size=round(size, 6), data_edge=EDGE,
        data_names=" ".join(names), **_numbers(part, matrix, norms),
    )  # fmt: skip
    readout = tag("output", "Point at a block to read it.", class_="readout", aria_live="polite")
    return part_of(part.title, tag("div", drawn, readout, id=place), _legend(top, unknown, matrix.size, n), kind="heat")


def _pooled(norms: Array, groups: list[NDArray[np.int64]]) -> Array:
    """The mean norm of the blocks between each two groups of atoms."""
    starts = [group[0] for group in groups]
    sums = np.add.reduceat(np.add.reduceat(norms, starts, axis=0), starts, axis=1)
    sizes = np.array([len(group) for group in groups])
    return np.asarray(sums / np.outer(sizes, sizes))


def _coloured(values: Array, top: float) -> NDArray[np.uint8]:
    known = np.isfinite(values)
    sizes = np.where(known, np.abs(values), 0.0) / top
    opacity = np.clip(1 + np.log10(np.maximum(sizes, 10.0 ** (-DECADES))) / DECADES, 0.0, 1.0)
    pixels = np.zeros((*values.shape, 4), np.uint8)
    pixels[..., :3] = np.where((values < 0)[..., None], NEGATIVE, POSITIVE)
    pixels[..., 3] = np.round(255 * opacity)
    pixels[~known] = (*UNKNOWN, 160)
    return pixels


def _names(part: HessianMap, groups: list[NDArray[np.int64]]) -> list[str]:
    names = atom_names(part.atoms)
    return [names[g[0]] if len(g) == 1 else f"{names[g[0]]}…{names[g[-1]]}" for g in groups]


def _labels(names: list[str], size: float) -> list[Markup]:
    """Names along both edges, as many as there is room for."""
    every = max(1, int(np.ceil(24 / size)))
    shown = []
    for k in range(0, len(names), every):
        middle = round(EDGE + size * (k + 0.5), 2)
        shown.append(tag("text", names[k], x=EDGE - 5, y=middle, dy="0.35em", text_anchor="end", class_="tick"))
        turned = f"rotate(-60 {middle} {EDGE - 6})"
        shown.append(tag("text", names[k], x=middle, y=EDGE - 6, dy="0.2em", transform=turned, class_="tick"))
    return shown


def _grid(count: int, size: float) -> list[Markup]:
    lines = []
    for k in range(count + 1):
        at = round(EDGE + k * size, 2)
        lines.append(tag("path", d=f"M{at} {EDGE}V{SIDE}M{EDGE} {at}H{SIDE}", class_="grid"))
    return lines


def _numbers(part: HessianMap, matrix: Array, norms: Array) -> dict[str, str]:
    """What can be read from the map: all entries of a small one, the norms of a larger one; as float32."""
    n = len(norms)
    if n > MOST_BLOCKS:
        return {}
    positions = np.asarray(part.atoms.positions, dtype="<f4")
    told = {"data_positions": base64.b64encode(positions.tobytes()).decode()} if not part.atoms.pbc.any() else {}
    if n <= MOST_ENTRIES:
        return told | {"data_entries": base64.b64encode(matrix.astype("<f4").tobytes()).decode()}
    return told | {"data_norms": base64.b64encode(norms.astype("<f4").tobytes()).decode()}


def _legend(top: float, unknown: int, entries: int, n: int) -> Markup:
    kind = "entries" if n <= MOST_ENTRIES else "norms of the 3 × 3 blocks"
    if n > MOST_BLOCKS:
        kind = f"mean {kind} over groups of atoms"
    steps = [
        tag("li", tag("span", class_="key", data_shade=power), f"{number(top * 10.0**-power, power + 1)}")
        for power in ((0, 1, 2, 3))
    ]
    words = [f"Map of the {kind}, eV/Å²; red is positive, blue negative, opacity is the size on a logarithmic scale."]
    if unknown:
        words.append(f" {unknown} of {entries} entries are not finite and drawn grey.")
    return tag("div", tag("ul", steps, class_="scale", aria_label="scale"), tag("p", words, class_="hint"))
