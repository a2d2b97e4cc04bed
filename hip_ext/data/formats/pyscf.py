"""PySCF's checkpoint files with a Hessian in Hartree/Bohr².

PySCF saves none of itself; its owner puts it beside the wave function:

    mf = dft.RKS(mol, xc="wb97x").set(chkfile="water.chk").run()
    lib.chkfile.dump(mf.chkfile, "hessian", mf.Hessian().kernel())      # [N, N, 3, 3]
    lib.chkfile.dump(mf.chkfile, "gradient", mf.Gradients().kernel())   # if wanted, Hartree/Bohr, [N, 3]
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_numbers
from ase.units import Bohr, Hartree

from hip_ext.data.formats.signatures import hdf5_has, open_hdf5
from hip_ext.data.record import HessianRecord
from hip_ext.errors import DataError


def matches(path: Path) -> bool:
    """Whether the file is HDF5 with a molecule of PySCF in it."""
    return hdf5_has(path, "mol")


def read(path: Path) -> Iterator[HessianRecord]:
    """Yields the one record.

    Raises:
        DataError: the file is damaged, there is no Hessian in it, or the Hessian does not fit the molecule.
    """
    try:
        with open_hdf5(path) as file:
            if "hessian" not in file:
                raise DataError(
                    f"{path} has no Hessian: save it with pyscf.lib.chkfile.dump(mf.chkfile, 'hessian', hessian)"
                )
            molecule = json.loads(file["mol"][()])
            hessian = np.asarray(file["hessian"])
            gradient = np.asarray(file["gradient"]) if "gradient" in file else None
            energy = float(file["scf/e_tot"][()]) if "scf/e_tot" in file else None
            yield _record(molecule, hessian, gradient, energy, path.name)
    except (OSError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise DataError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
        raise DataError(f"{path} is no checkpoint file of PySCF, or damaged: {error}") from None


def _record(
    molecule: Any, hessian: np.ndarray, gradient: np.ndarray | None, energy: float | None, origin: str
) -> HessianRecord:
    symbols = [re.match(r"[A-Za-z]+", label) for label, _ in molecule["_atom"]]  # "H1" is an H with a basis of its own
    names = [found.group().capitalize() if found else "" for found in symbols]
    strange = [label for name, (label, _) in zip(names, molecule["_atom"], strict=True) if name not in atomic_numbers]
    if strange:
        raise DataError(f"atom {strange[0]!r} is no element")
    n = len(names)
    if hessian.shape not in ((n, n, 3, 3), (3 * n, 3 * n)):
        raise DataError(f"the Hessian of {n} atoms has shape {hessian.shape}, expected {(n, n, 3, 3)}")
    if hessian.ndim == 4:
        hessian = hessian.transpose(0, 2, 1, 3)
    record = HessianRecord(
        numbers=np.array([atomic_numbers[name] for name in names]),
        positions=np.array([place for _, place in molecule["_atom"]]) * Bohr,
        charge=float(molecule["charge"]),
        unpaired=float(molecule["spin"]),
        energy=None if energy is None else energy * Hartree,
        forces=None if gradient is None else -gradient * Hartree / Bohr,
        origin=origin,
    )
    return record.with_hessian(hessian * Hartree / Bohr**2)
