"""Writes labelled structures as the databases that fairchem trains on, and what a recipe needs to know of them.

python -m hip_ext.plugins.fairchem.database data/train    # energy_references and energy_scale for a recipe
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.db import connect

from hip_ext.data.formats.ase_db import row_of
from hip_ext.data.record import HessianRecord
from hip_ext.errors import DataError, HipExtError
from hip_ext.structures import Structures, total_charge, unpaired_electrons

NAME = "data.aselmdb"
TEMPORARY = ".writing."


def write_database(folder: str | Path, records: Iterable[HessianRecord | Atoms]) -> int:
    """Writes a folder that `HessianDataset` reads as `src`: `data.aselmdb` and the sizes in `metadata.npz`.

    Both files appear together when all structures are written, and not before. What a writer that was killed has
    left in the folder is then removed.

    Args:
        folder: new, or empty.
        records: labelled structures, with or without all rows of their Hessian; or ASE structures with energy and
            forces of a calculator and, where there is one, the Hessian as `info["hessian"]`, eV/Å².

    Returns:
        How many structures were written.

    Raises:
        DataError: the folder holds a database already, or there is nothing to write.
    """
    folder = Path(folder)
    if (folder / NAME).exists():
        raise DataError(f"{folder / NAME} exists: choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder, prefix=TEMPORARY))
    sizes = []
    try:
        with connect(str(temporary / NAME), type="aselmdb") as database:
            for record in records:
                atoms, data = _row(record)
                database.write(atoms, data=data)
                sizes.append(len(atoms))
        if not sizes:
            raise DataError(f"no structures to write to {folder}")
        np.savez(temporary / "metadata.npz", natoms=np.array(sizes))
        for name in ("metadata.npz", NAME):  # the one that readers look for comes last
            (temporary / name).replace(folder / name)
        for left in folder.glob(f"{TEMPORARY}*"):
            shutil.rmtree(left, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return len(sizes)


def scales(folder: str | Path) -> tuple[list[float], float]:
    """Energies of isolated atoms by atomic number, eV, fitted to the energies, and the forces' root mean square, eV/Å.

    Raises:
        DataError: there is no such database, or it holds no energies and forces.
    """
    path = Path(folder) / NAME
    if not path.exists():
        raise DataError(f"there is no database {path}: write it with write_database()")
    counts, energies, squares = [], [], []
    with connect(str(path), type="aselmdb", readonly=True) as database:
        for row in database.select():
            if "energy" in row and "forces" in row:
                counts.append(np.bincount(row.numbers, minlength=119))
                energies.append(row.energy)
                squares.append(np.mean(row.forces**2))
    if not energies:
        raise DataError(f"{path} holds no energies and forces")
    table = np.array(counts)
    last = int(np.flatnonzero(table.any(axis=0)).max())
    references = np.linalg.lstsq(table[:, : last + 1].astype(float), np.array(energies), rcond=None)[0]
    return references.round(6).tolist(), float(np.sqrt(np.mean(squares)))


def _row(record: HessianRecord | Atoms) -> tuple[Atoms, dict[str, object]]:
    if isinstance(record, HessianRecord):
        return row_of(record)
    data = {name: value for name, value in record.info.items() if _is_plain(value) or name == "hessian"}
    Structures.from_ase(record)  # refuses a charge or spin that no electron count allows
    return record, data | {"charge": int(total_charge(record)), "spin": int(unpaired_electrons(record)) + 1}


def _is_plain(value: object) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: python -m {__spec__.name} FOLDER")
    try:
        references, scale = scales(sys.argv[1])
    except HipExtError as error:
        sys.exit(str(error))
    print(f"energy_references: {references}\nenergy_scale: {scale:.4g}")
