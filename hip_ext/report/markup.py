"""HTML and SVG as text: whatever comes from elsewhere goes through `text` or an attribute, so that it stays text."""

from __future__ import annotations

import re
from html import escape

BARRED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069\ufffe\uffff]")
"""Control characters, halves of surrogate pairs, and what turns the direction of text around."""


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def text(value: object) -> Markup:
    """Any value as text of a page."""
    return value if isinstance(value, Markup) else Markup(escape(BARRED.sub("\ufffd", str(value)), quote=True))


def tag(name: str, /, *content: object, **attributes: object) -> Markup:
    """An element.

    Args:
        name: of the element.
        content: what it holds; everything but `Markup` is escaped.
        attributes: with `_` for `-`, and one at the end where Python keeps the name for itself; None leaves one out,
            True gives it no value.
    """
    given = "".join(
        f" {key.removesuffix('_').replace('_', '-')}" + ("" if value is True else f'="{text(value)}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in {"br", "hr", "img", "input", "link", "meta"}:
        return Markup(f"<{name}{given}>")
    return Markup(f"<{name}{given}>{join(content)}</{name}>")


def join(content: object) -> Markup:
    """Several pieces, one after another."""
    pieces = content if isinstance(content, (list, tuple)) else [content]
    return Markup("".join(join(piece) if isinstance(piece, (list, tuple)) else text(piece) for piece in pieces))


def number(value: float, digits: int = 3) -> str:
    """A number with so many decimals, a true minus sign, and "not a number" where it is none."""
    if value != value:  # only NaN differs from itself
        return "not a number"
    if abs(value) == float("inf"):
        return "∞" if value > 0 else "−∞"
    shown = f"{value:.{digits}f}"
    return ("0" + shown[2:] if float(shown) == 0 and shown.startswith("-") else shown).replace("-", "−")


def wavenumber(value: float) -> str:
    """A wavenumber as text: 1234.5, or 123.4i for an imaginary one, which is given as a negative number."""
    return f"{number(-value, 1)}i" if value < 0 else number(value, 1)
