"""The reference of the training guide, from the config itself: `python tests/config_reference.py` prints it."""

from typing import Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from hip_ext.training.settings import TrainingConfig

BAR = "\\|"
"""A bar within a cell of a table."""


def rows(section, prefix=""):
    """Key, default and meaning of everything in a section, sections in it included."""
    for name, field in section.model_fields.items():
        kind, key = field.annotation, f"{prefix}{name}"
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from rows(kind, f"{key}.")
            continue
        default = "required" if field.default is PydanticUndefined and not field.default_factory else default_of(field)
        yield key, default, "; ".join(part for part in (field.description, choices(kind)) if part)


def default_of(field):
    value = field.default_factory() if field.default_factory else field.default
    return "none" if value is None else f"`{value}`" if value not in ([], {}) else "empty"


def choices(kind):
    """The words that a key may have, where there are few."""
    kinds = [kind, *get_args(kind)]
    words = [str(word) for part in kinds if get_origin(part) is Literal for word in get_args(part)]
    return " or ".join(f"`{word}`" for word in words) if get_origin(kind) is Literal else ""


def reference():
    """All keys as a table in Markdown."""
    lines = ["| key | default | meaning |", "|---|---|---|"]
    lines += [
        f"| `{key}` | {default} | {meaning.replace('|', BAR)} |" for key, default, meaning in rows(TrainingConfig)
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(reference())
