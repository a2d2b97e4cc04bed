"""The two spectra of a Hessian, which are never mixed.

raw:    eigenvalues and eigenvectors of H itself, 3N of them, eV/Å²; about six belong to rigid motions.
Eckart: those of M^(−½) H M^(−½) with the rigid motions projected out, 3N − 6 in general, eV/(Å²·amu).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms, units
from numpy.typing import ArrayLike, NDArray

from hip_ext.errors import DataError
from hip_ext.vibrations import INVERSE_CM, Vibrations, analyse

Array = NDArray[np.float64]

NEGATIVE = -1e-6
"""An Eckart eigenvalue below this, eV/(Å²·amu), counts as negative; it is an imaginary mode of 0.5 cm⁻¹."""

TEMPERATURE = 298.15
"""K, of the vibrational free energy."""

LOWEST_WAVENUMBER = 100.0
"""cm⁻¹ to which real modes below it are raised in the free energy (Ribeiro et al., J. Phys. Chem. B 115, 14556)."""


@dataclass(frozen=True, eq=False)
class Spectrum:
    """What is compared of a structure's Hessian.

    Attributes:
        hessian: as it was given, perhaps not symmetric, eV/Å², [3N, 3N].
        raw_values: eigenvalues of (H + Hᵀ)/2, rising, eV/Å², [3N].
        raw_vectors: its eigenvectors in columns, [3N, 3N].
        vibrations: the projected analysis, M modes.
    """

    hessian: Array
    raw_values: Array
    raw_vectors: Array
    vibrations: Vibrations

    @classmethod
    def of(cls, atoms: Atoms, hessian: ArrayLike) -> Spectrum:
        """Diagonalises a Hessian.

        Args:
            atoms: N atoms; constraints are not looked at.
            hessian: eV/Å², [3N, 3N].

        Raises:
            DataError: the Hessian has another shape or is not finite.
            StructureError: the structure cannot be used.
        """
        matrix, size = np.asarray(hessian, dtype=np.float64), 3 * len(atoms)
        if matrix.shape != (size, size) or not np.isfinite(matrix).all():
            broken = np.count_nonzero(~np.isfinite(matrix))
            raise DataError(
                f"a finite Hessian of {size} × {size} numbers expected, found {matrix.shape}, {broken} not finite"
            )
        symmetric = (matrix + matrix.T) / 2
        values, vectors = np.linalg.eigh(symmetric)
        free = np.arange(len(atoms))
        return cls(matrix, values, vectors, analyse(atoms, symmetric, indices=free))

    @property
    def values(self) -> Array:
        """Eckart eigenvalues, rising, eV/(Å²·amu), [M]."""
        return self.vibrations.eigenvalues

    @property
    def vectors(self) -> Array:
        """Orthonormal Eckart modes in mass-weighted coordinates, in columns, [3N, M]."""
        modes = self.vibrations.modes * np.sqrt(self.vibrations.masses)[:, None]
        return modes.reshape(len(modes), -1).T

    @property
    def negative_count(self) -> int:
        """Eckart eigenvalues below `NEGATIVE`."""
        return int((self.values < NEGATIVE).sum())

    @property
    def free_energy(self) -> float:
        """Helmholtz energy of the real modes, eV: see `vibrational_free_energy`."""
        return vibrational_free_energy(self.vibrations.frequencies)


def vibrational_free_energy(
    wavenumbers: ArrayLike, temperature: float = TEMPERATURE, lowest: float = LOWEST_WAVENUMBER
) -> float:
    """F = Σ ½hcν̃ + kT ln(1 − exp(−hcν̃/kT)) over the real modes, eV.

    Imaginary modes, given as negative wavenumbers, are left out. Real ones below `lowest` are raised to it, since the
    harmonic entropy has no bound as ν̃ goes to zero.

    Args:
        wavenumbers: cm⁻¹.
        temperature: K.
        lowest: cm⁻¹; 0 for the bare harmonic model.
    """
    given = np.asarray(wavenumbers, dtype=np.float64)
    quanta = np.maximum(given[given > 0], lowest) * units.invcm
    thermal = units.kB * temperature
    return float((quanta / 2 + thermal * np.log(-np.expm1(-quanta / thermal))).sum())


def wavenumbers(eigenvalues: ArrayLike) -> Array:
    """cm⁻¹ of Eckart eigenvalues in eV/(Å²·amu); imaginary ones are negative."""
    values = np.asarray(eigenvalues, dtype=np.float64)
    return np.asarray(INVERSE_CM * np.sign(values) * np.sqrt(np.abs(values)))
