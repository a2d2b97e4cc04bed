"""JSON from strangers: what is unusual in it is refused, so that nothing behind it has to expect it."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

DEEPEST = 16
"""Levels of nesting; a config has five."""

_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def parse(data: bytes) -> Any:
    """The value of a JSON document in UTF-8.

    Raises:
        ValueError: it is not JSON, or has a name twice in one object, NaN or an infinity, an integer beyond 64 bits,
            more than `DEEPEST` levels, a control character or half a surrogate pair; one line says which.
    """
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_integer,
        )
    except RecursionError:
        raise ValueError(f"more than {DEEPEST} levels of nesting") from None
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    check_values(value)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name[:40]!a} appears twice")
        found[name] = value
    return found


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is beyond all floating-point numbers")
    return value


def _integer(text: str) -> int:
    if len(text) > 20 or not -(1 << 63) <= int(text) < 1 << 63:
        raise ValueError(f"the integer {text[:20]}… has more than 64 bits")
    return int(text)


def check_values(value: Any) -> None:
    """Refuses deep nesting and texts that cannot be printed; goes through the levels from the top, without recursion.

    Raises:
        ValueError: one line says which.
    """
    level = [value]
    for _ in range(DEEPEST):
        if not level:
            return
        below: list[Any] = []
        for one in level:
            if isinstance(one, str) and _UNPRINTABLE.search(one):
                raise ValueError(f"the text {one[:40]!a} has characters that cannot be printed")
            if isinstance(one, dict):
                below += [*one.keys(), *one.values()]
            elif isinstance(one, list):
                below += one
        level = below
    if level:
        raise ValueError(f"more than {DEEPEST} levels of nesting")
