"""ORCA's .hess files: blocks that begin with "$name"; of these `$hessian` (Hartree/Bohr²) and `$atoms` (Bohr) are read.

    $hessian
    9
                  0          1          2          3          4
      0    0.6123 ...
    $atoms
    3
     O   15.99900   0.000000000000   0.000000000000   0.221665204115

Charge, spin and gradient are not in these files: the record is neutral and has no unpaired electrons. The energy is
there in some releases only, and zero in others.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers
from ase.units import Bohr, Hartree

from hip_ext.data.record import HessianRecord
from hip_ext.errors import DataError


def matches(path: Path) -> bool:
    """Whether the file begins as ORCA's do."""
    if path.suffix != ".hess" or not path.is_file():
        return False
    with path.open(encoding="utf-8", errors="replace") as file:
        return "$orca_hessian_file" in file.read(1000)


def read(path: Path) -> Iterator[HessianRecord]:
    """Yields the one record.

    Raises:
        DataError: the file is damaged or incomplete.
    """
    try:
        blocks = _blocks(path.read_text(encoding="utf-8", errors="replace"))
        hessian = _matrix(blocks["hessian"])
        atoms = [line.split() for line in blocks["atoms"][1:]]
        if len(atoms) != int(blocks["atoms"][0]):
            raise DataError(f"{len(atoms)} of {blocks['atoms'][0].strip()} atoms are there")
        energy = float(blocks["act_energy"][0]) if "act_energy" in blocks else 0.0
        record = HessianRecord(
            numbers=np.array([atomic_numbers[words[0].capitalize()] for words in atoms]),
            positions=np.array([[float(x) for x in words[2:5]] for words in atoms]) * Bohr,
            energy=energy * Hartree or None,
            origin=path.name,
        ).with_hessian(hessian * Hartree / Bohr**2)
    except (OSError, KeyError, ValueError, IndexError) as error:
        raise DataError(f"{path} is no .hess file of ORCA, or incomplete: {error}") from None
    yield record


def _blocks(text: str) -> dict[str, list[str]]:
    """The lines of every block, without empty ones and comments."""
    blocks: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("$"):
            lines = blocks[line[1:].strip()] = []
        elif line.strip() and not line.startswith("#"):
            lines.append(line)
    return blocks


def _matrix(lines: list[str]) -> np.ndarray:
    """A square matrix in groups of columns: a line of column numbers, then a line a row that begins with its number."""
    size = int(lines[0])
    matrix = np.full((size, size), np.nan)
    columns: list[int] = []
    for line in lines[1:]:
        words = line.split()
        if all(word.isdigit() for word in words):
            columns = [int(word) for word in words]
        else:
            matrix[int(words[0]), columns] = [float(word) for word in words[1:]]
    if np.isnan(matrix).any():
        raise ValueError(f"{int(np.isnan(matrix).sum())} of {matrix.size} entries of the Hessian are missing")
    return matrix
