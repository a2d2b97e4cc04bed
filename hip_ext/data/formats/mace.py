"""MACE's HDF5 files: a group a structure, in groups "config_batch_0", …; the Hessian is the property "hessian", flat.

Energies are in eV, forces in eV/Å; the properties "total_charge" and "total_spin" (2S + 1) are charge and spin.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hip_ext.atomic import atomic_path
from hip_ext.data.formats.signatures import hdf5_has, open_hdf5
from hip_ext.data.record import HessianRecord
from hip_ext.errors import DataError

LABELS = ("energy", "forces", "hessian")

_DAMAGE = (OSError, AttributeError, KeyError, RuntimeError, TypeError, ValueError)
"""What h5py raises on files that are damaged, or not as expected; our own errors are ValueErrors."""


def matches(path: Path) -> bool:
    """Whether the file is HDF5 with MACE's groups."""
    return hdf5_has(path, "config_batch_0")


def read(path: Path) -> Iterator[HessianRecord | DataError]:
    """Yields the records in the order in which MACE reads them.

    Raises:
        DataError: the file is damaged, or lacks a batch.
    """
    place = -1
    try:
        with open_hdf5(path) as file:
            for batch in range(len(file)):
                group = file[f"config_batch_{batch}"]
                for inner in range(len(group)):
                    place += 1
                    try:
                        found: HessianRecord | DataError = _record(group[f"config_{inner}"], f"{path.name}:{place}")
                    except _DAMAGE as error:
                        found = DataError(f"{path}, structure {place}: {_reason(error)}")
                    yield found
    except _DAMAGE as error:
        after = f" after {place + 1} structures" if place >= 0 else ""
        raise DataError(f"cannot read {path}{after}: {_reason(error)}") from None


def write(path: Path, records: Iterable[HessianRecord]) -> int:
    """Writes a new file, with weight 1 for every label that a structure has and 0 for every other."""
    count = 0
    with atomic_path(path) as temporary, open_hdf5(temporary, "w") as file:
        batch = file.create_group("config_batch_0")
        for record in records:
            _write(batch.create_group(f"config_{count}"), record)
            count += 1
    return count


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0] or type(error).__name__


def _record(group: Any, origin: str) -> HessianRecord:
    found = {name: group["properties"][name][()] for name in group["properties"]}
    known = {name: value for name, value in found.items() if not isinstance(value, bytes)}  # b"None" is none
    cell, pbc = (group[name][()] for name in ("cell", "pbc"))
    record = HessianRecord(
        numbers=group["atomic_numbers"][()],
        positions=group["positions"][()],
        cell=np.zeros((3, 3)) if isinstance(cell, bytes) else cell,
        pbc=np.zeros(3, dtype=bool) if isinstance(pbc, bytes) else np.asarray(pbc, dtype=bool),
        charge=float(known.get("total_charge", 0.0)),
        unpaired=max(float(known.get("total_spin", 1.0)) - 1.0, 0.0),
        energy=float(known["energy"]) if "energy" in known else None,
        forces=known.get("forces"),
        origin=origin,
    )
    return record.with_hessian(known["hessian"]) if "hessian" in known else record


def _write(group: Any, record: HessianRecord) -> None:
    labels = {
        "energy": record.energy,
        "forces": record.forces,
        "hessian": record.hessian().ravel() if record.is_complete else None,
    }
    group["atomic_numbers"], group["positions"] = record.numbers, record.positions
    group["cell"], group["pbc"] = record.cell, record.pbc
    group["weight"], group["config_type"] = 1.0, "Default"
    properties, weights = group.create_group("properties"), group.create_group("property_weights")
    for name in LABELS:
        weights[name] = float(labels[name] is not None)
        if labels[name] is not None:
            properties[name] = labels[name]
    # MACE takes these for granted where they are not stated
    if record.charge:
        properties["total_charge"] = record.charge
    if record.unpaired:
        properties["total_spin"] = record.unpaired + 1.0
