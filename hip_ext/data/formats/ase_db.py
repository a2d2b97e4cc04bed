"""ASE databases, fairchem's `.aselmdb` among them: the Hessian is in a row's data under "hessian".

`HessianDataset` of the fairchem plugin reads what is written here; `write_database` there makes a whole folder.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.db import connect

from hip_ext.atomic import atomic_path
from hip_ext.data.formats.ase_atoms import atoms_of, record_of
from hip_ext.data.record import HessianRecord
from hip_ext.errors import DataError, MissingDependencyError


def matches(path: Path) -> bool:
    """Whether the file's extension is that of an ASE database, or the folder holds such files."""
    return path.suffix in (".db", ".aselmdb") or (path.is_dir() and any(path.glob("*.aselmdb")))


def read(path: Path) -> Iterator[HessianRecord | DataError]:
    """Yields the records of a file, or of all `.aselmdb` files of a folder.

    Raises:
        DataError: a file is damaged, or there is nothing in it.
        MissingDependencyError: an `.aselmdb` file is to be read without fairchem's database backend.
    """
    for file in sorted(path.glob("*.aselmdb")) if path.is_dir() else [path]:
        place = -1
        if file.stat().st_size == 0:  # SQLite would take it for a new database, and write into it
            raise DataError(f"cannot read {file}: it is empty")
        try:
            with database(file, readonly=True) as opened:
                for place, row in enumerate(_rows(opened)):
                    yield _record(row, file, place)
        except MissingDependencyError:
            raise
        except Exception as error:  # each backend has its own
            raise DataError(f"cannot read {file} after {place + 1} rows: {_reason(error)}") from None
        if place < 0:
            raise DataError(f"cannot read {file}: there is no row in it")


def write(path: Path, records: Iterable[HessianRecord]) -> int:
    """Writes a new database: SQLite for `.db`, LMDB for `.aselmdb`."""
    count = 0
    with atomic_path(path) as temporary:
        temporary.unlink()  # a database makes its file itself
        try:
            with database(temporary) as opened:
                for record in records:
                    atoms, data = row_of(record)
                    opened.write(atoms, data=data)
                    count += 1
        finally:
            Path(f"{temporary}-lock").unlink(missing_ok=True)
    return count


def row_of(record: HessianRecord) -> tuple[Atoms, dict[str, Any]]:
    """A structure and the data of its row: Hessian, charge, spin (2S + 1, as fairchem names it) and `info`."""
    atoms = atoms_of(record)
    data = dict(atoms.info)
    data.pop("multiplicity", None)
    return atoms, data | {"charge": round(record.charge), "spin": round(record.unpaired) + 1}


@contextmanager
def database(path: Path, readonly: bool = False) -> Iterator[Any]:
    """An open ASE database.

    Raises:
        MissingDependencyError: the backend of `.aselmdb` files is not installed.
    """
    if path.suffix == ".aselmdb":
        try:
            opened = connect(str(path), type="aselmdb", readonly=readonly)
        except ImportError:
            raise MissingDependencyError(
                "ASE's LMDB backend is not installed: pip install 'hip-ext[fairchem]', or ase-db-backends alone"
            ) from None
        with opened:
            yield opened
    elif readonly:
        yield connect(str(path), type="db", use_lock_file=False)
    else:
        with connect(str(path), type="db") as opened:
            yield opened


def _rows(opened: Any) -> Iterator[Any]:
    """The rows, or in place of one that ASE cannot decode its exception."""
    place = 0
    while True:
        try:
            for row in opened.select(offset=place):
                yield row
                place += 1
        except Exception as error:
            # an error of SQLite is one of the file; other backends decode what they skip, and would stop there again
            if isinstance(error, sqlite3.Error) or opened.type != "db":
                raise
            yield error
            place += 1
        else:
            return


def _record(row: Any, file: Path, place: int) -> HessianRecord | DataError:
    if isinstance(row, Exception):
        return DataError(f"{file}, row {place}: {_reason(row)}")
    try:
        return record_of(_atoms(row), f"{file.name}:{place}")
    except Exception as error:  # what a row holds is decoded when it is asked for
        return DataError(f"{file}, row {place}: {_reason(error)}")


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0] or type(error).__name__


def _atoms(row: Any) -> Atoms:
    atoms = row.toatoms()
    atoms.info.update(row.key_value_pairs)
    atoms.info.update(row.data)
    return atoms
