"""Infrared intensities in the double-harmonic approximation.

With μ the dipole moment and Q a normal coordinate, a mode absorbs A = N_A / (12 ε0 c²) · |∂μ/∂Q|², where
∂μ/∂Q = Σ_i ∂μ/∂x_i · x_i and x_i are the displacements of the mode in amu^(−½).
"""

from __future__ import annotations

import numpy as np
from ase import units
from numpy.typing import ArrayLike

from hip_ext.errors import DataError
from hip_ext.vibrations.eckart import Array, as_numbers

KM_PER_MOL: float = units._Nav * units._e**2 / units._amu / (12 * units._eps0 * units._c**2) / 1000
"""km/mol for |∂μ/∂Q|² of 1 e²/amu; 42.2561 km/mol for 1 (D/Å)²/amu."""


def infrared_intensities(modes: Array, derivatives: ArrayLike) -> Array:
    """Integrated absorption of each mode.

    Args:
        modes: displacements in amu^(−½), [M, N, 3], as `Vibrations.modes`.
        derivatives: ∂μ/∂x in e, [3, N, 3].

    Returns:
        km/mol, [M].

    Raises:
        DataError: the derivatives have another shape or are not finite.
    """
    slopes = as_numbers(derivatives, "dipole derivatives", DataError)
    if slopes.shape != (3, *modes.shape[1:]) or not np.isfinite(slopes).all():
        raise DataError(
            f"the dipole derivatives must be 3 × {modes.shape[1]} × 3 finite numbers in e, found shape {slopes.shape}"
        )
    along = np.einsum("dix,kix->kd", slopes, modes)
    return np.asarray(KM_PER_MOL * (along**2).sum(axis=1))
