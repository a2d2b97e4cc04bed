"""The two files of Gaussian's `External` keyword: the structure that it writes, and the answer that it reads.

    first line      number of atoms, derivatives asked for (0, 1 or 2), charge, multiplicity     4I10
    each atom       atomic number, x, y, z in Bohr, charge of molecular mechanics, type          I10,4F20.12

    answer          energy, dipole moment                                                        4D20.12
    for 1 and 2     gradient, an atom a line                                                     3D20.12
    for 2           polarizability (6), dipole derivatives (9N), lower triangle of the           3D20.12
                    force constants, 3N(3N + 1)/2 numbers row by row

All in Hartree, Bohr and e. Polarizability and dipole derivatives have their places, filled with zeros: frequencies are
right, intensities mean nothing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike, NDArray

from hip_ext.errors import DataError
from hip_ext.integrations.atomic_units import AtomicUnits, structure


def answer(units: AtomicUnits, input_file: Path, output_file: Path) -> None:
    """Does what Gaussian asks for in `input_file`, and writes `output_file` once all of it is there.

    Raises:
        DataError: the input cannot be read, or the output not be written.
        HipExtError: whatever the calculator raises for this structure.
    """
    try:
        atoms, derivatives = read_input(input_file.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError) as error:
        raise DataError(f"{input_file} is not an input that Gaussian writes for External: {error}") from None
    text = format_answer(
        units.energy(atoms),
        units.dipole(atoms),
        units.gradient(atoms) if derivatives > 0 else None,
        units.hessian(atoms) if derivatives > 1 else None,
    )
    try:
        output_file.write_text(text, encoding="ascii")
    except OSError as error:
        raise DataError(f"cannot write {output_file}: {error.strerror}") from None


def read_input(text: str) -> tuple[Atoms, int]:
    """The structure, and how many derivatives of the energy are asked for.

    Raises:
        ValueError: the text is something else.
    """
    lines = text.splitlines()
    words = lines[0].split() if lines else []
    if len(words) < 4:
        raise ValueError("the first line has four whole numbers: atoms, derivatives, charge and multiplicity")
    count, derivatives, charge, multiplicity = map(int, words[:4])
    rows = [line.split() for line in lines[1 : 1 + count]]
    if len(rows) != count or any(len(row) < 4 for row in rows):
        raise ValueError(f"it ends before the last of {count} atoms")
    if derivatives not in (0, 1, 2):
        raise ValueError(f"derivatives of order 0, 1 or 2 can be asked for, found {derivatives}")
    numbers = [int(row[0]) for row in rows]
    if any(z < 1 for z in numbers):
        raise ValueError("it has a dummy or ghost atom")
    positions = [[float(x.replace("D", "E")) for x in row[1:4]] for row in rows]
    return structure(numbers, positions, charge, multiplicity), derivatives


def format_answer(
    energy: float,
    dipole: ArrayLike,
    gradient: NDArray[np.float64] | None = None,
    hessian: NDArray[np.float64] | None = None,
) -> str:
    """The text that Gaussian reads.

    Args:
        energy: Hartree.
        dipole: e·Bohr, [3].
        gradient: Hartree/Bohr, [3N].
        hessian: Hartree/Bohr², [3N, 3N]; needs the gradient.
    """
    lines = _lines([energy, *np.asarray(dipole)], 4)
    if gradient is not None:
        lines += _lines(gradient, 3)
        if hessian is not None:
            lines += _lines(np.zeros(6 + 3 * len(gradient)), 3)
            lines += _lines(hessian[np.tril_indices(len(hessian))], 3)
    return "\n".join([*lines, ""])


def _lines(values: ArrayLike, columns: int) -> list[str]:
    """Fortran's D20.12, so many in a line."""
    numbers = np.asarray(values, dtype=np.float64)
    # An exponent of three digits would push the D out of Fortran's field.
    numbers = np.where(np.abs(numbers) < 1e-90, 0.0, numbers)
    fields = [f"{x:20.12E}".replace("E", "D") for x in numbers]
    return ["".join(fields[k : k + columns]) for k in range(0, len(fields), columns)]
