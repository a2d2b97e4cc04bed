"""What was probably meant, for errors about an unknown name or a value out of range."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError


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


MOST_PROBLEMS = 10
"""So many problems of one config are said; whoever has more begins anew anyway."""

_BOUNDS = {
    "greater_than": ("more than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
    "literal_error": ("one of", "expected"),
    "multiple_of": ("a multiple of", "multiple_of"),
}
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
    "tuple": "a list",
    "dict": "keys with values",
    "model": "keys with values",
    "finite": "a finite number",
}
"""What a value should be, by the first word of a validation error's type."""


def all_problems(error: ValidationError, model: type[BaseModel]) -> str:
    """All of a model's validation errors in one line: the key, what was found, and what is expected of it."""
    expected: dict[tuple[str, str], list[str]] = {}
    for one in error.errors(include_url=False):
        key, section = _place(one["loc"], model)
        start = f"{key!r}" if key else ""
        if one["type"] == "extra_forbidden":
            said, more = f"there is no key {start}", _nearest(str(one["loc"][-1]), section, model)
        elif one["type"] == "missing":
            said, more = f"{start} is missing", ""
        elif one["type"] == "value_error":
            said, more = f"{start}{': ' if start else ''}{one['ctx']['error']}", ""
        else:
            said, more = f"{start} is {repr(one['input'])[:60]}", _wanted(one)
        expected.setdefault((said, "" if one["type"] == "extra_forbidden" else ", expected "), []).append(more)
    found = [said + (joint + " or ".join(parts) if any(parts) else "") for (said, joint), parts in expected.items()]
    rest = [f"and {len(found) - MOST_PROBLEMS} more"] if len(found) > MOST_PROBLEMS else []
    return "; ".join([*found[:MOST_PROBLEMS], *rest]).replace("'?; ", "'? ")


def _wanted(one: Mapping[str, Any]) -> str:
    """What a value should have been, for an error of pydantic's own."""
    if one["type"] in _BOUNDS:
        words, name = _BOUNDS[one["type"]]
        return f"{words} {one['ctx'][name]}"
    if one["type"] == "too_short":
        return f"{one['ctx']['min_length']} or more entries"
    kind = one["type"].split("_")[0]
    return _KINDS.get(kind, one["msg"][0].lower() + one["msg"][1:])


def _place(loc: Sequence[int | str], model: type[BaseModel]) -> tuple[str, type[BaseModel] | None]:
    """The dotted key of an error, without pydantic's names for the members of a union, and the section it is in."""
    names: list[str] = []
    section: type[BaseModel] | None = model
    inside: type[BaseModel] | None = model
    for part in loc:
        section = inside
        if section is None and isinstance(part, str):
            continue
        names.append(str(part))
        found = section.model_fields.get(str(part)) if section is not None else None
        inside = _section_of(found.annotation) if found is not None else None
    return ".".join(names), section


def _section_of(annotation: Any) -> type[BaseModel] | None:
    from pydantic import BaseModel

    for part in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part
    return None


def _nearest(name: str, section: type[BaseModel] | None, model: type[BaseModel]) -> str:
    """The nearest key of the section, else of the whole model with its section; else what the section has."""
    own = list(section.model_fields) if section is not None else []
    hint = did_you_mean(name, own)
    if hint:
        return hint
    elsewhere = _dotted(model)
    close = get_close_matches(name, elsewhere, n=1, cutoff=0.75)
    return f"; did you mean {elsewhere[close[0]]!r}?" if close else f"; known are {', '.join(own)}"


def _dotted(model: type[BaseModel], prefix: str = "") -> dict[str, str]:
    """All keys of a model and of its sections, each with the whole of its name."""
    found: dict[str, str] = {}
    for name, field in model.model_fields.items():
        section = _section_of(field.annotation)
        if section is not None:
            found = _dotted(section, f"{prefix}{name}.") | found
        found[name] = f"{prefix}{name}"
    return found
