"""The files of ORCA's `ExtOpt`: what it asks in `*.extinp.tmp`, the `.engrad` that it reads, and `.hess` beside them.

    job_EXT.xyz    # the structure
    0              # charge
    1              # multiplicity
    4              # cores
    1              # gradient asked for: 0 or 1
    charges.pc     # a file of point charges, if there are any

ORCA never asks an external program for a Hessian; it reads one at the start, from a `.hess` file:

    %geom InHess Read InHessName "start.hess" end
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.units import Bohr
from numpy.typing import NDArray

from hip_ext.errors import DataError
from hip_ext.integrations.atomic_units import AtomicUnits

COLUMNS = 5


@dataclass(frozen=True)
class Request:
    """What ORCA asks.

    Attributes:
        atoms: the structure, with charge and multiplicity in `info`.
        gradient: whether the gradient is asked for.
        engrad: the file for the answer.
    """

    atoms: Atoms
    gradient: bool
    engrad: Path


def answer(units: AtomicUnits, input_file: Path, hessian_file: Path | None = None) -> None:
    """Does what ORCA asks for in `input_file`, and writes the `.engrad` file beside it.

    Args:
        units: gives energy, gradient and Hessian.
        input_file: `job_EXT.extinp.tmp`.
        hessian_file: where to write the Hessian of this structure too, as a `.hess` file.

    Raises:
        DataError: the input cannot be read, an output not be written, or there are point charges.
        HipExtError: whatever the calculator raises for this structure.
    """
    request = read_input(input_file)
    atoms = request.atoms
    energy = units.energy(atoms)
    text = format_engrad(energy, atoms, units.gradient(atoms) if request.gradient else None)
    if hessian_file is not None:
        write_hess(hessian_file, atoms, units.hessian(atoms), energy)
    _write(request.engrad, text)


def read_input(path: Path) -> Request:
    """Reads what ORCA has written.

    Raises:
        DataError: it cannot be read, or asks for point charges.
    """
    try:
        lines = [line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
        words = [line for line in lines if line]
        charge, multiplicity, _, gradient = (int(word) for word in words[1:5])
        # ORCA names the structure relative to the folder where the input lies.
        place = path.parent / words[0]
        atoms: Any = ase.io.read(place, format="xyz")
    except Exception as error:  # a parser of ASE's meets any content at all
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"{path} is not an input that ORCA writes for ExtOpt: {reason}") from None
    if len(words) > 5:
        raise DataError(f"{path} asks for the point charges in {words[5]}, which no backbone knows: leave out QM/MM")
    atoms.info |= {"charge": charge, "multiplicity": multiplicity}
    return Request(atoms, gradient == 1, place.with_suffix(".engrad"))


def format_engrad(energy: float, atoms: Atoms, gradient: NDArray[np.float64] | None = None) -> str:
    """The text of an `.engrad` file.

    Args:
        energy: Hartree.
        atoms: N atoms.
        gradient: Hartree/Bohr, [3N].
    """
    parts: list[tuple[str, list[str]]] = [
        ("Number of atoms", [f"{len(atoms)}"]),
        ("The current total energy in Eh", [f"{energy:.12f}"]),
    ]
    if gradient is not None:
        parts.append(("The current gradient in Eh/bohr", [f"{x:.12f}" for x in gradient]))
        rows = zip(atoms.numbers, atoms.positions / Bohr, strict=True)
        coordinates = [f"{z:4d} {x:15.10f} {y:15.10f} {w:15.10f}" for z, (x, y, w) in rows]
        parts.append(("The atomic numbers and current coordinates in Bohr", coordinates))
    # Three lines of comment before each part: ORCA 5 counts them.
    return "".join(f"#\n# {title}\n#\n" + "".join(f"{line}\n" for line in lines) for title, lines in parts)


def write_hess(path: Path, atoms: Atoms, hessian: NDArray[np.float64], energy: float = 0.0) -> None:
    """Writes a `.hess` file, for `InHess Read`.

    Args:
        path: the file.
        atoms: N atoms.
        hessian: Hartree/Bohr², [3N, 3N].
        energy: Hartree.

    Raises:
        DataError: the file cannot be written.
    """
    size = len(hessian)
    lines = ["$orca_hessian_file", "", "$act_atom", "  0", "", "$act_coord", "  0", ""]
    lines += ["$act_energy", f"{energy:20.12f}", "", "$hessian", str(size)]
    for start in range(0, size, COLUMNS):
        columns = range(start, min(start + COLUMNS, size))
        lines.append(" " * 6 + "".join(f"{column:19d}" for column in columns))
        lines += [f"{row:6d}" + "".join(f"{hessian[row, column]:19.10E}" for column in columns) for row in range(size)]
    lines += ["", "$atoms", str(len(atoms))]
    for symbol, mass, (x, y, z) in zip(atoms.symbols, atoms.get_masses(), atoms.positions / Bohr, strict=True):
        lines.append(f" {symbol:2s} {mass:11.5f} {x:18.12f} {y:18.12f} {z:18.12f}")
    _write(path, "\n".join([*lines, "", "$end", ""]))


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="ascii")
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from None
