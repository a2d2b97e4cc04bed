"""The formats by name, how one is recognised, and the two ways through all of them."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from ase.units import Bohr, Hartree

from hip_ext.data.record import HessianRecord
from hip_ext.errors import ConfigError, CutShortError, DataError
from hip_ext.suggest import did_you_mean

UNITS = {"eV/Å²": 1.0, "Hartree/Bohr²": Hartree / Bohr**2}
"""Units of a Hessian and what they are in eV/Å²."""

SPELLINGS = {
    **dict.fromkeys((f"ev/{length}2" for length in ("å", "a", "ang", "angstrom", "ångström")), "eV/Å²"),
    **dict.fromkeys(
        (f"{energy}/{length}2" for energy in ("hartree", "ha", "eh") for length in ("bohr", "a0")), "Hartree/Bohr²"
    ),
    **dict.fromkeys(("au", "a.u."), "Hartree/Bohr²"),
}
"""How units are written, in small letters and without spaces or signs of a power."""


@dataclass(frozen=True)
class Format:
    """A file format.

    Attributes:
        name: as `read_records` and the command line know it.
        title: one line for people.
        suffixes: of files that are written in it; empty for a format that is only read.
        any_units: whether a Hessian in it may be in other units than eV/Å², which only its owner knows.
    """

    name: str
    title: str
    suffixes: tuple[str, ...] = ()
    any_units: bool = False

    @property
    def module(self) -> Any:
        """The module with `matches`, `read` and perhaps `write`; libraries that it needs are imported with it."""
        return import_module(f"hip_ext.data.formats.{self.name}")


FORMATS = {
    entry.name: entry
    for entry in (
        Format("store", "hip-ext's own store", (".lmdb",)),
        Format("horm", "HORM's LMDB of pickled torch-geometric Data, read without unpickling"),
        Format(
            "ase_db",
            "ASE databases, fairchem's .aselmdb files among them, or a folder of these",
            (".aselmdb", ".db"),
            True,
        ),
        Format("mace", "MACE's HDF5 files", (".h5", ".hdf5")),
        Format("pyscf", "a PySCF checkpoint file with a Hessian saved under 'hessian'"),
        Format("gaussian", "Gaussian's formatted checkpoint files (.fchk)"),
        Format("orca", "ORCA's .hess files"),
        Format("extxyz", "extended XYZ, and whatever else ASE reads", (".xyz", ".extxyz"), True),
    )
}
"""By name, in the order in which a file is tried."""


def find_format(path: str | Path) -> Format:
    """The format of a file, from what is in it.

    Raises:
        DataError: there is no such file, or it is a folder of no format.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"cannot read {path}: there is no such file")
    found = next((entry for entry in FORMATS.values() if entry.module.matches(path)), None)
    if found is None:
        raise DataError(
            f"cannot read {path}: a folder without labels in it; hip-ext data formats lists what can be read"
        )
    return found


def read_records(path: str | Path, format: str | None = None, units: str | None = None) -> Iterator[HessianRecord]:
    """Yields the records of a file, one after the other.

    Args:
        path: the file.
        format: a name in `FORMATS`; by default found from the file.
        units: of the Hessians, a name in `UNITS`, for files that do not fix them; by default eV/Å².

    Raises:
        ConfigError: unknown format or units, or units for a format that has its own.
        DataError: the file cannot be read, or a record in it; the message names it.
        MissingDependencyError: a library that the format needs is not installed.
    """
    for found in read_each(path, format, units):
        if isinstance(found, DataError):
            raise found
        yield found


def read_each(
    path: str | Path, format: str | None = None, units: str | None = None
) -> Iterator[HessianRecord | DataError]:
    """As `read_records`, but with the error in place of a damaged record; a `CutShortError` where the rest is lost."""
    path = Path(path)
    entry = named_format(format) if format else find_format(path)
    if not path.exists():
        raise DataError(f"cannot read {path}: there is no such file")
    factor = unit_factor(units)
    if units is not None and not entry.any_units:
        raise ConfigError(f"units={units!r} is for files that do not fix them: {path} ({entry.name}) has its own")
    begun = False
    try:
        for found in entry.module.read(path):
            begun = True
            yield found if isinstance(found, DataError) or factor == 1.0 else _scaled(found, factor)
    except DataError as error:
        if not begun:
            raise
        yield CutShortError(f"{error}, and nothing after it could be read")


def write_records(path: str | Path, records: Iterable[HessianRecord], format: str | None = None) -> int:
    """Writes a new file; what was there under its name is replaced when all records are written, and not before.

    Args:
        path: the file.
        records: any number of them but none; complete Hessians are written, partial ones only to a store.
        format: a name in `FORMATS`; by default from the file's extension.

    Returns:
        How many records were written.

    Raises:
        ConfigError: unknown format or extension, or a format that is only read.
        DataError: there are no records, or one that the format cannot hold.
        MissingDependencyError: a library that the format needs is not installed.
    """
    path = Path(path)
    entry = named_format(format) if format else _by_suffix(path)
    if not entry.suffixes:
        writable = ", ".join(other.name for other in FORMATS.values() if other.suffixes)
        raise ConfigError(f"format {entry.name} is only read; those that can be written are {writable}")
    iterator = iter(records)
    first = next(iterator, None)
    if first is None:
        raise DataError(f"no records to write to {path}")
    try:
        count: int = entry.module.write(path, chain((first,), iterator))
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from None
    return count


def named_format(name: str) -> Format:
    """The format of this name.

    Raises:
        ConfigError: there is none.
    """
    if name not in FORMATS:
        known = ", ".join(FORMATS)
        raise ConfigError(f"unknown format {name!r}{did_you_mean(name, FORMATS)}; known are {known}")
    return FORMATS[name]


def unit_factor(units: str | None) -> float:
    """What a unit of the Hessian is in eV/Å², one for None.

    Raises:
        ConfigError: it is not known.
    """
    if units is None:
        return 1.0
    plain = unicodedata.normalize("NFKC", units).casefold()  # ² becomes 2, the unit sign for ångström the letter
    name = SPELLINGS.get(plain.replace(" ", "").replace("^", "").replace("**", ""))
    if name is None:
        raise ConfigError(
            f"unknown units {units!r} of a Hessian, expected eV/Å² (eV/A^2, eV/Angstrom^2) or Hartree/Bohr² "
            "(Hartree/Bohr^2, Ha/Bohr^2, au)"
        )
    return UNITS[name]


def _by_suffix(path: Path) -> Format:
    for entry in FORMATS.values():
        if path.suffix in entry.suffixes:
            return entry
    known = ", ".join(suffix for entry in FORMATS.values() for suffix in entry.suffixes)
    raise ConfigError(f"{path}: no format is known by the extension {path.suffix!r}, expected one of {known}")


def _scaled(record: HessianRecord, factor: float) -> HessianRecord:
    rows = None if record.rows is None else np.asarray(record.rows, dtype=np.float64) * factor
    products = None if record.products is None else np.asarray(record.products, dtype=np.float64) * factor
    return replace(record, rows=rows, products=products)
