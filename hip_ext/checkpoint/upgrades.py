"""From older schemas of config.json to the present one, a step at a time.

A step takes the dictionary of one schema and gives that of the next. What is in it has not been validated yet, so a
step leaves alone what is not as it should be: the validation that follows says what is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from packaging.version import Version

from hip_ext.checkpoint.schema import SCHEMA
from hip_ext.errors import CheckpointError
from hip_ext.version import version

Values = dict[str, Any]

IN_MEMORY = ("in-memory", "calculator")
"""Names of backbones that were handed over as objects."""


def upgraded(values: Values) -> Values:
    """The same config in the present schema.

    Raises:
        CheckpointError: the schema is newer than this code, or no schema at all.
    """
    found = values.get("schema_version")
    if type(found) is not int or found < 1:
        raise CheckpointError(f"'schema_version' is {repr(found)[:40]}, expected a number from 1 to {SCHEMA}")
    if found > SCHEMA:
        raise CheckpointError(
            f"schema {found} is newer than hip-ext {version()}, which reads up to {SCHEMA}: "
            f"pip install {_needed(values.get('hip_ext_version'))}"
        )
    for schema in range(found, SCHEMA):
        values = STEPS[schema](values) | {"schema_version": schema + 1}
    return values


def name_means(name: str) -> str:
    """Whether a backbone's name is that of a "release", a "file", or of an object in "memory".

    A released name is a word, with a colon between family and model; whatever looks like a path is one.
    """
    if name in IN_MEMORY:
        return "memory"
    released = re.fullmatch(r"[A-Za-z0-9_.:-]{1,200}", name) and not Path(name).is_file()
    return "release" if released else "file"


def _needed(written_by: Any) -> str:
    """What to install to read a file that a newer hip-ext has written."""
    try:
        return f"'hip-ext>={Version(written_by[:40])}'"
    except (ValueError, TypeError):
        return "--upgrade hip-ext"


def _from_1(values: Values) -> Values:
    """Schema 2 has what the adapter took in a record of its own, and says what the backbone's name stands for."""
    backbone = values.get("backbone")
    if not isinstance(backbone, dict):
        return values
    backbone = dict(backbone)
    backbone["features"] = {name: backbone.pop(name) for name in ("widths", "parity") if name in backbone}
    backbone["source"] = name_means(str(backbone.get("name")))
    return values | {"backbone": backbone}


STEPS: dict[int, Callable[[Values], Values]] = {1: _from_1}
