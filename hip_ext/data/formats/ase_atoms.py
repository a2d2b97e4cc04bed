"""Between a record and an ASE structure that carries its Hessian, as files of ASE hold it.

The Hessian is 9N² numbers in any shape under "hessian" or "REF_hessian", of the structure (`info`) or of its atoms
(`arrays`); energy and forces are those of the calculator, else "REF_energy" and "REF_forces", as MACE names them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from ase import Atoms

from hip_ext.data.record import HessianRecord
from hip_ext.errors import DataError

HESSIAN_KEYS = ("hessian", "REF_hessian")


def record_of(atoms: Atoms, origin: str = "") -> HessianRecord:
    """The record of a structure; without a Hessian where it carries none.

    Raises:
        DataError: the Hessian or the forces are no numbers, or do not fit the structure.
        StructureError: the structure cannot be used.
    """
    atoms = atoms.copy() if atoms.calc is None else _with_calculator(atoms)
    carried = {key: _take(atoms, key) for key in (*HESSIAN_KEYS, "REF_energy", "REF_forces")}
    method = str(atoms.info.pop("method", ""))
    origin = str(atoms.info.pop("origin", origin))
    record = HessianRecord.from_atoms(atoms, method=method, origin=origin)
    if record.energy is None and carried["REF_energy"] is not None:
        record = replace(record, energy=float(_numbers(carried["REF_energy"], "REF_energy").reshape(-1)[0]))
    if record.forces is None and carried["REF_forces"] is not None:
        record = replace(record, forces=_numbers(carried["REF_forces"], "REF_forces"))
    for key in HESSIAN_KEYS:
        if carried[key] is not None:
            return record.with_hessian(_numbers(carried[key], key))
    return record


def atoms_of(record: HessianRecord) -> Atoms:
    """The structure of a record, with energy and forces on its calculator and a complete Hessian, flat, in `info`."""
    atoms = record.atoms()
    for name in ("method", "origin"):
        if getattr(record, name):
            atoms.info[name] = getattr(record, name)
    if record.is_complete:
        atoms.info["hessian"] = record.hessian().ravel()
    return atoms


def _with_calculator(atoms: Atoms) -> Atoms:
    copy = atoms.copy()
    copy.calc = atoms.calc
    return copy


def _take(atoms: Atoms, key: str) -> Any:
    """What is under a key, removed from the structure."""
    found = atoms.info.pop(key, None)
    return atoms.arrays.pop(key, None) if found is None else found


def _numbers(value: Any, name: str) -> np.ndarray:
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{name} is no array of numbers but {str(value)[:40]!r}") from None
