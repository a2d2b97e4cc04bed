"""What was probably meant, for errors about an unknown name or a value out of range."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the closest known name, or an empty string."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def first_problem(error: ValidationError, known: Iterable[str]) -> str:
    """The first of a model's validation errors in one line: the key, what is wrong, and the nearest known key."""
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"]))
    hint = did_you_mean(str(first["loc"][-1]), known) if first["type"] == "extra_forbidden" else ""
    return f"{key!r}: {first['msg']}{hint}"
