"""Phonons by finite displacements in a supercell, with phonopy: what those of a direct Hessian are held against.

found = displaced_phonons(backbone.calculator(), atoms, points)
found.wavenumbers  # cm⁻¹, [Q, 3N], as phonon_wavenumbers(blocks, masses, points)
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator
from numpy.typing import ArrayLike, NDArray

from hip_ext.errors import ConfigError, MissingDependencyError, StructureError

TERAHERTZ = 1e12 / 2.99792458e10
"""In cm⁻¹."""


@dataclass(frozen=True)
class DisplacedPhonons:
    """What phonopy found.

    Attributes:
        wavenumbers: cm⁻¹, [Q, 3N], ascending; an imaginary one is given as −|ν|.
        supercell: repeats of the cell along each lattice vector.
        displacements: supercells whose forces were computed.
    """

    wavenumbers: NDArray[np.float64]
    supercell: tuple[int, int, int]
    displacements: int


def displaced_phonons(
    calculator: BaseCalculator, atoms: Atoms, points: ArrayLike, width: float = 10.0, step: float = 0.01
) -> DisplacedPhonons:
    """Displaces the atoms of a supercell one by one, as far as symmetry asks for, and makes bands of the forces.

    Args:
        calculator: gives the forces.
        atoms: a primitive cell at rest, with three lattice vectors.
        points: wave vectors in units of the reciprocal lattice vectors, [Q, 3].
        width: the supercell is at least so wide between opposite faces, Å. Forces reach half of that.
        step: displacement, Å.

    Raises:
        MissingDependencyError: phonopy is not installed.
        StructureError: the structure is not periodic in three directions, or phonopy cannot use it.
        ConfigError: width or step is not a positive number.
    """
    try:
        from phonopy import Phonopy
        from phonopy.structure.atoms import PhonopyAtoms
    except ImportError:
        raise MissingDependencyError("finite displacements need phonopy: pip install 'hip-ext[phonons]'") from None
    if not (0 < width < np.inf and 0 < step < np.inf):
        raise ConfigError(f"width and step are positive lengths in Å, found {width} and {step}")
    if not atoms.pbc.all():
        raise StructureError("finite displacements need three periodic directions: phonopy knows crystals alone")
    repeats = np.ceil(width * np.linalg.norm(atoms.cell.reciprocal(), axis=1) - 1e-9).astype(int)
    cell = PhonopyAtoms(
        numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell.array, masses=atoms.get_masses()
    )
    # phonopy reports drifts of the force constants on standard output.
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            phonopy: Any = Phonopy(cell, supercell_matrix=np.diag(repeats), primitive_matrix="P")
            phonopy.generate_displacements(distance=step)
        except RuntimeError as error:
            raise StructureError(f"phonopy cannot use this structure: {error}") from None
        supercells = phonopy.supercells_with_displacements
        phonopy.forces = np.stack([_forces(calculator, one) for one in supercells])
        phonopy.produce_force_constants()
        phonopy.symmetrize_force_constants()
        phonopy.run_qpoints(np.asarray(points, dtype=np.float64))
    found = TERAHERTZ * np.sort(phonopy.qpoints.frequencies, axis=1)
    first, second, third = repeats.tolist()
    return DisplacedPhonons(found, (first, second, third), len(supercells))


def _forces(calculator: BaseCalculator, supercell: Any) -> NDArray[np.float64]:
    """eV/Å, of one of phonopy's supercells."""
    read = Atoms(supercell.symbols, supercell.positions, cell=supercell.cell, pbc=True)
    read.calc = calculator
    forces: NDArray[np.float64] = np.asarray(read.get_forces(), dtype=np.float64)
    return forces
