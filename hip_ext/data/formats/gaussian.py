"""Gaussian's formatted checkpoint files (`formchk job.chk job.fchk` after `freq`), and those of Q-Chem.

After two lines of title, method and basis come sections: a name of 40 characters, a type, and a value or, after "N=",
how many values follow. The force constants are the lower triangle, Hartree/Bohr², in the frame of the coordinates.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ase.units import Bohr, Hartree

from hip_ext.data.record import HessianRecord
from hip_ext.errors import DataError

_HEAD = re.compile(r"^(?P<name>\S.{39})\s+(?P<type>[IRCHL])\s+(?:N=\s*(?P<count>\d+)|(?P<value>\S+))\s*$")
_NEEDED = ("Atomic numbers", "Current cartesian coordinates", "Cartesian Force Constants", "Charge", "Multiplicity")


def matches(path: Path) -> bool:
    """Whether the file is called .fchk, .fch or .fck."""
    return path.suffix.lower() in (".fchk", ".fch", ".fck")


def read(path: Path) -> Iterator[HessianRecord]:
    """Yields the one record.

    Raises:
        DataError: the file is damaged or has no force constants.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        values = _numbers(lines)
        yield _record(values, "/".join(lines[1].split()[1:3]), path.name)
    except (OSError, ValueError, IndexError) as error:
        raise DataError(f"{path} is no formatted checkpoint file with a Hessian, or damaged: {error}") from None


def _record(values: dict[str, np.ndarray], method: str, origin: str) -> HessianRecord:
    missing = [name for name in _NEEDED if name not in values]
    if missing:
        raise ValueError(f"it has no {missing[0]}; force constants need a frequency job")
    numbers = values["Atomic numbers"].astype(int)
    size = 3 * len(numbers)
    triangle = values["Cartesian Force Constants"]
    if len(triangle) != size * (size + 1) // 2:
        raise ValueError(f"{len(triangle)} force constants for {len(numbers)} atoms")
    hessian = np.zeros((size, size))
    hessian[np.tril_indices(size)] = triangle
    hessian.T[np.tril_indices(size)] = triangle
    energy = values.get("Total Energy", values.get("SCF Energy"))
    gradient = values.get("Cartesian Gradient")
    record = HessianRecord(
        numbers=numbers,
        positions=values["Current cartesian coordinates"].reshape(-1, 3) * Bohr,
        charge=float(values["Charge"][0]),
        unpaired=float(values["Multiplicity"][0]) - 1.0,
        energy=None if energy is None else float(energy[0]) * Hartree,
        forces=None if gradient is None else -gradient.reshape(-1, 3) * Hartree / Bohr,
        method=method,
        origin=origin,
    )
    return record.with_hessian(hessian * Hartree / Bohr**2)


def _numbers(lines: list[str]) -> dict[str, np.ndarray]:
    """The values of every section of numbers."""
    found: dict[str, np.ndarray] = {}
    for place, line in enumerate(lines):
        head = _HEAD.match(line)
        if head is None or head["type"] not in "IR":
            continue
        name = head["name"].strip()
        if head["value"] is not None:
            found[name] = np.array([float(head["value"])])
            continue
        count = int(head["count"])
        rows = -(-count // (6 if head["type"] == "I" else 5))
        words = " ".join(lines[place + 1 : place + 1 + rows]).split()
        if len(words) != count:
            raise ValueError(f"{len(words)} of {count} numbers of {name!r} are there")
        found[name] = np.array([float(word) for word in words])
    return found
