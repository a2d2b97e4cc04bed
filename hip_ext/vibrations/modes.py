"""The result of a vibrational analysis.

A mode with eigenvalue λ of the mass-weighted Hessian has angular frequency ω = √λ. In ASE's units (eV, Å, amu) time is
counted in Å √(amu/eV), so that ħω = QUANTUM √λ in eV with QUANTUM = ħ (J·s → eV·ASE time), and
ν̃ = ω / 2πc = QUANTUM √λ / (energy of 1 cm⁻¹) = INVERSE_CM √λ.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from ase import Atoms, units
from ase.vibrations import VibrationsData
from numpy.typing import NDArray

from hip_ext.errors import ConfigError, StructureError

Array = NDArray[np.float64]
Geometry = Literal["monatomic", "linear", "nonlinear"]

QUANTUM: float = units._hbar * units.J * units.second
"""ħω in eV of a mode with eigenvalue 1 eV/Å²/amu."""

INVERSE_CM: float = QUANTUM / units.invcm
"""Wavenumber in cm⁻¹ of a mode with eigenvalue 1 eV/Å²/amu."""

IMAGINARY_THRESHOLD = 10.0
"""A mode counts as imaginary above this wavenumber, cm⁻¹: below it, the sign is at the mercy of the relaxation."""


@dataclass(frozen=True, eq=False)
class Vibrations:
    """The M harmonic modes of a structure of N atoms, F of which are free, by rising eigenvalue.

    Attributes:
        atoms: the structure, with the masses used; a copy.
        indices: the free atoms, rising, [F].
        eigenvalues: of the mass-weighted Hessian, eV/Å²/amu, [M].
        modes: Cartesian displacements in amu^(−½), zero on fixed atoms, with Σ_i m_i x_i·x_i = 1 and different modes
            orthogonal in the same sense, [M, N, 3].
        residuals: |H·u| in eV/Å² before projection, for each rigid motion u of unit Cartesian length: three
            translations, then the rotations by rising moment of inertia, [m]. Translations always give zero for an
            exact Hessian, rotations where the forces vanish. Empty if an atom is fixed.
        geometry: shape of a free molecule, which decides how it turns; None for a periodic structure or fixed atoms.
        force_residual: largest force on a free atom in eV/Å, None if no forces were given.
        defects: |H·u − W·g| in eV/Å² for the same motions, [m], with g the gradient and W the motion's rotation per
            length: what an exact Hessian leaves at any geometry is zero. None if no forces were given.
        intensities: infrared absorption in km/mol, [M], None if no dipole derivatives were given.
    """

    atoms: Atoms
    indices: NDArray[np.int64]
    eigenvalues: Array
    modes: Array
    residuals: Array
    geometry: Geometry | None
    force_residual: float | None = None
    defects: Array | None = None
    intensities: Array | None = None

    @property
    def masses(self) -> Array:
        """amu, [N]."""
        return np.asarray(self.atoms.get_masses(), dtype=np.float64)

    @property
    def frequencies(self) -> Array:
        """Wavenumbers in cm⁻¹, [M]; an imaginary one, of a negative eigenvalue, is given as −|ν|."""
        return INVERSE_CM * np.sign(self.eigenvalues) * np.sqrt(np.abs(self.eigenvalues))

    @property
    def complex_frequencies(self) -> NDArray[np.complex128]:
        """Wavenumbers in cm⁻¹ as they are, [M]: real or positive imaginary."""
        return INVERSE_CM * self._roots

    @property
    def vib_energies(self) -> NDArray[np.complex128]:
        """Quanta ħω in eV, [M], real or positive imaginary: what the classes of `ase.thermochemistry` take."""
        return QUANTUM * self._roots

    @property
    def zero_point_energy(self) -> float:
        """½ Σ ħω over the real modes, eV."""
        return float(self.vib_energies.real.sum() / 2)

    @property
    def num_imaginary(self) -> int:
        """Imaginary modes beyond `IMAGINARY_THRESHOLD`; `(frequencies < 0).sum()` counts every negative eigenvalue."""
        return int((self.frequencies < -IMAGINARY_THRESHOLD).sum())

    @property
    def reduced_masses(self) -> Array:
        """1 / Σ_i x_i·x_i for each mode, amu, [M]: the masses for which each mode scaled to unit length is a spring."""
        return np.asarray(1 / np.einsum("kix,kix->k", self.modes, self.modes))

    @property
    def lowest_mode(self) -> Array:
        """The mode with the lowest eigenvalue, normalised as all `modes`, [N, 3].

        Raises:
            StructureError: a single free atom has no mode.
        """
        if len(self.modes) == 0:
            raise StructureError("a single atom has no vibration, so there is no lowest mode: give at least two atoms")
        lowest: Array = self.modes[0]
        return lowest

    def scaled(self, factor: float) -> Vibrations:
        """The same modes with all wavenumbers times `factor`; modes, residuals and intensities stay.

        Raises:
            ConfigError: the factor is not a positive number.
        """
        if not 0 < factor < np.inf:
            raise ConfigError(f"a scaling factor of frequencies must be a positive number, found {factor}")
        return replace(self, eigenvalues=self.eigenvalues * factor**2)

    def to_vibrations_data(self) -> VibrationsData:
        """The same modes as an ASE object, which animates them, writes them and makes densities of states.

        Its Hessian is rebuilt as M (Σ_k λ_k x_k x_kᵀ) M: that of the free atoms, with the rigid motions taken out
        if they were projected. ASE lists all 3F modes, so these come back with zero energy.
        """
        free = len(self.indices)
        weighted = (self.modes * self.masses[:, None])[:, self.indices].reshape(-1, 3 * free)
        hessian = weighted.T @ (self.eigenvalues[:, None] * weighted)
        return VibrationsData(self.atoms, hessian.reshape(free, 3, free, 3), indices=self.indices)

    @property
    def _roots(self) -> NDArray[np.complex128]:
        return np.asarray(np.emath.sqrt(self.eigenvalues), dtype=np.complex128)


def mode_overlap(a: Vibrations, b: Vibrations) -> float:
    """|cos| of the angle between the lowest modes of two analyses, in mass-weighted coordinates.

    1 means the same direction of motion, whichever its sign. Both should be projected analyses of one geometry (nothing
    is aligned), and the number says little where the two lowest modes have nearly one frequency.

    Raises:
        StructureError: the analyses differ in their atoms or masses, or have no mode.
    """
    if not np.array_equal(a.atoms.numbers, b.atoms.numbers) or not np.allclose(a.masses, b.masses, rtol=1e-9):
        raise StructureError(
            f"modes of different structures: {a.atoms.get_chemical_formula()} and {b.atoms.get_chemical_formula()} "
            "must have the same elements and masses in the same order"
        )
    overlap = np.einsum("i,ix,ix->", a.masses, a.lowest_mode, b.lowest_mode)
    return float(min(abs(overlap), 1.0))
