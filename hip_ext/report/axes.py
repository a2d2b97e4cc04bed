"""Axes of a plot as SVG: where numbers lie, ticks at round numbers, and the grid behind everything.

Colours and sizes of text are left to the style sheet, so that one drawing serves light, dark, phone and paper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hip_ext.report.markup import Markup, tag

WIDTH, HEIGHT = 600, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 30, 52


@dataclass(frozen=True)
class Axes:
    """A rectangle of a drawing, in its own numbers.

    Attributes:
        x: from left to right.
        y: from the bottom to the top.
        left: edge of the rectangle in the drawing; so also `right`, `top`, `bottom`.
    """

    x: tuple[float, float]
    y: tuple[float, float]
    left: float = LEFT
    right: float = WIDTH - RIGHT
    top: float = TOP
    bottom: float = HEIGHT - BOTTOM

    def across(self, value: float) -> float:
        """Place of an x in the drawing."""
        return round(self.left + (value - self.x[0]) / (self.x[1] - self.x[0]) * (self.right - self.left), 2)

    def up(self, value: float) -> float:
        """Place of a y in the drawing."""
        return round(self.bottom - (value - self.y[0]) / (self.y[1] - self.y[0]) * (self.bottom - self.top), 2)

    def x_axis(self, label: str, marks: bool = True) -> Markup:
        """The lower axis, with its ticks and label."""
        shown = [
            tag("text", _tick(value), x=self.across(value), y=self.bottom + 19, text_anchor="middle", class_="tick")
            for value in (ticks(*self.x, 6) if marks else [])
        ]
        line = tag("line", x1=self.left, x2=self.right, y1=self.bottom, y2=self.bottom, class_="axis")
        middle = (self.left + self.right) / 2
        named = tag("text", label, x=middle, y=HEIGHT - 6, text_anchor="middle", class_="name") if label else ""
        return tag("g", line, shown, named, aria_hidden="true")

    def y_axis(self, label: str, factor: float = 1.0, right: bool = False) -> Markup:
        """An axis at the left, or at the right without a grid and in another unit, `factor` times as many."""
        low, high = (factor * value for value in self.y)
        place = self.right + 6 if right else self.left - 6
        shown = []
        for value in ticks(low, high, 6):
            y = self.up(value / factor)
            if not right:
                shown.append(tag("line", x1=self.left, x2=self.right, y1=y, y2=y, class_="grid"))
            anchor = "start" if right else "end"
            shown.append(tag("text", _tick(value), x=place, y=y, dy="0.35em", text_anchor=anchor, class_="tick"))
        side, anchor = (WIDTH - 2, "end") if right else (2, "start")
        named = tag("text", label, x=side, y=15, text_anchor=anchor, class_="name")
        return tag("g", shown, named, aria_hidden="true")

    def upright(self, value: float, kind: str = "grid") -> Markup:
        """A line from bottom to top at an x."""
        x = self.across(value)
        return tag("line", x1=x, x2=x, y1=self.bottom, y2=self.top, class_=kind)

    def path(self, points: list[tuple[float, float]], kind: str) -> Markup:
        """A line through points, broken where one is not finite."""
        drawn, pen = [], "M"
        for x, y in points:
            if math.isfinite(x) and math.isfinite(y):
                drawn.append(f"{pen}{self.across(x):g} {self.up(y):g}")
                pen = "L"
            else:
                pen = "M"
        return tag("path", d="".join(drawn), class_=kind)


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers from low to high, no more than `most` + 1 and at least two where the range allows it."""
    width = (high - low) / most
    size = 10.0 ** math.floor(math.log10(width))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= width * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) + 0.0 for k in range(first, math.floor(high / step + 1e-9) + 1)]


def padded(low: float, high: float, share: float = 0.08) -> tuple[float, float]:
    """A range with some room at both ends, and never empty."""
    room = (high - low) * share or max(abs(high), 1.0) * share
    return low - room, high + room


def drawing(*content: object, **attributes: object) -> Markup:
    """An SVG of the usual size."""
    return tag("svg", content, viewBox=f"0 0 {WIDTH} {HEIGHT}", **attributes)


def _tick(value: float) -> str:
    return f"{value:g}".replace("-", "−")
