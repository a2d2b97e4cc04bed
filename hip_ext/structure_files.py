"""Structures from files of any format that ASE reads; one that cannot be read is one line that says why."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from hip_ext.errors import DataError

if TYPE_CHECKING:
    from ase import Atoms


def read_structures(path: str | Path) -> list[Atoms]:
    """All structures of a file; whether they can be used is another question, of `Structures.from_ase`.

    Raises:
        DataError: there is no such file, ASE cannot read it, or there is no structure in it.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"cannot read {path}: {'it is not a file' if path.exists() else 'there is no such file'}")
    import ase.io

    try:
        # Parsers meet any content at all, and warn about what is no concern of a Hessian.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = list(ase.io.read(path, index=":", do_not_split_by_at_sign=True))
    except Exception as error:  # every reader of ASE fails in a way of its own
        raise DataError(f"cannot read {path}: {unreadable(error)}") from None
    if not found:
        raise DataError(f"cannot read {path}: there is no structure in it")
    return found


def unreadable(error: Exception) -> str:
    """What a failed reader of ASE wanted to say, in one line, to whoever has made the file."""
    from ase.io.formats import UnknownFileTypeError

    said = (str(error).strip().splitlines() or [""])[0].strip().removeprefix("ase.io.extxyz: ")
    name = str(error.args[0]) if error.args else ""
    if isinstance(error, UnknownFileTypeError):
        empty = said.startswith("Empty file")
        return (
            "it is empty" if empty else "not in a format that ASE knows, such as .xyz, .extxyz, .cif, .traj or POSCAR"
        )
    if isinstance(error, UnicodeDecodeError):
        return "it is not text, and its name says that it is"
    if isinstance(error, KeyError) and re.fullmatch("[A-Z][a-z]?", name):
        return f"there is no element {name!r}"
    if said.startswith("Expected xyz header"):
        return "its first line is no number of atoms, with which an xyz file begins"
    if not said or isinstance(error, (KeyError, IndexError, AssertionError, StopIteration)):
        return f"not in a format that ASE knows ({type(error).__name__}{': ' + said if said else ''})"
    return said
