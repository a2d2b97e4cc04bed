"""Extended XYZ, and every other file of structures that ASE reads; see `ase_atoms` for where the Hessian is.

What is written can go to MACE's trainer as it is: energy and forces stand there under their own names and under those
that MACE reads, and the Hessian, flat, as `REF_hessian`. Coordinates and forces have eight decimals.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import ase.io
from ase import Atoms

from hip_ext.atomic import atomic_path
from hip_ext.data.formats.ase_atoms import atoms_of, record_of
from hip_ext.data.record import HessianRecord
from hip_ext.errors import DataError, HipExtError
from hip_ext.structure_files import unreadable


def matches(path: Path) -> bool:
    """Any file: whether ASE can read it turns out when it does."""
    return path.is_file()


def read(path: Path) -> Iterator[HessianRecord | DataError]:
    """Yields the records; one without a Hessian where a structure carries none.

    Raises:
        DataError: ASE cannot read the file, or not from some place on.
    """
    place = -1
    try:
        # Parsers meet any content at all, and warn about what is no concern of a Hessian.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for place, atoms in enumerate(ase.io.iread(path, index=":", do_not_split_by_at_sign=True)):
                yield _record(atoms, path, place)
    except Exception as error:  # whatever a parser meets
        after = f" after {place + 1} structures" if place >= 0 else ""
        raise DataError(f"cannot read {path}{after}: {unreadable(error)}") from None
    if place < 0:
        raise DataError(f"cannot read {path}: there is no structure in it")


def write(path: Path, records: Iterable[HessianRecord]) -> int:
    """Writes an extended XYZ file."""
    count = 0
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for record in records:
            atoms = atoms_of(record)
            if record.is_complete:
                atoms.info["REF_hessian"] = atoms.info.pop("hessian")
            if record.energy is not None:
                atoms.info["REF_energy"] = record.energy
            if record.forces is not None:
                atoms.arrays["REF_forces"] = record.forces
            ase.io.write(file, atoms, format="extxyz")
            count += 1
    return count


def _record(atoms: Atoms, path: Path, place: int) -> HessianRecord | DataError:
    try:
        return record_of(atoms, f"{path.name}:{place}")
    except HipExtError as error:
        return DataError(f"{path}, structure {place}: {error}")
