"""Mass-weighted coordinates q = M^½ x, and the rigid motions in them that Eckart's conditions set apart.

A translation along axis a is √m_i e_a and a rotation about axis a through the centre of mass c is √m_i e_a × (x_i − c).
About the principal axes of inertia all six are orthogonal, and the squared norm of a rotation is its moment of inertia;
a rotation without a moment is no motion at all.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hip_ext.errors import DataError, HipExtError, StructureError

Array = NDArray[np.float64]

LINEAR_TOLERANCE = 1e-5
"""A rotation exists if its principal moment exceeds this fraction of the largest; CO2 bent by 0.7° is the border."""

SYMMETRY_TOLERANCE = 1e-6
"""Largest |H − Hᵀ| that counts as rounding, as a fraction of the largest |H|."""


def mass_weighted(hessian: ArrayLike, masses: ArrayLike) -> Array:
    """M^(−½) H M^(−½), whose eigenvalues are squared angular frequencies.

    Args:
        hessian: symmetric, eV/Å², [3N, 3N].
        masses: amu, [N].

    Returns:
        [3N, 3N] in eV/Å²/amu, exactly symmetric.

    Raises:
        DataError: the Hessian has another shape, is not finite, or is not symmetric.
        StructureError: the masses are not positive numbers.
    """
    weights = checked_masses(masses)
    scale = 1 / np.sqrt(np.repeat(weights, 3))
    return checked_hessian(hessian, len(weights)) * np.outer(scale, scale)


def rigid_modes(positions: ArrayLike, masses: ArrayLike, *, rotations: bool = True) -> Array:
    """Orthonormal translations and rotations in mass-weighted coordinates.

    Args:
        positions: Å, [N, 3].
        masses: amu, [N].
        rotations: whether the structure is free to turn; False for a periodic one.

    Returns:
        [3N, m]: three translations, then the rotations in order of rising moment of inertia. m is 6 in general, 5 for a
        linear molecule (see `LINEAR_TOLERANCE`), 3 for a single atom or without rotations.

    Raises:
        StructureError: positions and masses do not fit together or are not finite, or all atoms are on one spot.
    """
    weights = checked_masses(masses)
    n = len(weights)
    points = as_numbers(positions, "positions", StructureError)
    if points.shape != (n, 3) or not np.isfinite(points).all():
        raise StructureError(f"positions must be {n} × 3 finite numbers to fit {n} masses, found shape {points.shape}")
    root = np.sqrt(weights)[:, None, None]
    columns = (root * np.eye(3)).reshape(3 * n, 3)
    if rotations and n > 1:
        arms = points - weights @ points / weights.sum()
        spread = np.einsum("i,ix,iy->xy", weights, arms, arms)
        inertia = np.trace(spread) * np.eye(3) - spread
        moments, axes = np.linalg.eigh(inertia)
        if np.linalg.norm(arms, axis=1).max() < 1e-6:
            raise StructureError(f"all {n} atoms are on one spot: a rotation of the structure has no meaning")
        turns = root * np.cross(axes.T[None], arms[:, None]).transpose(0, 2, 1)
        columns = np.hstack((columns, turns.reshape(3 * n, 3)[:, moments > LINEAR_TOLERANCE * moments[-1]]))
    # The columns are orthogonal already: the factorisation norms them and removes the last rounding errors.
    basis, upper = np.linalg.qr(columns)
    return basis * np.sign(np.diag(upper))


def complement(basis: Array) -> Array:
    """An orthonormal basis of everything orthogonal to the columns of `basis`: [n, m] → [n, n − m]."""
    return np.linalg.qr(basis, mode="complete")[0][:, basis.shape[1] :]


def checked_hessian(hessian: ArrayLike, atoms: int) -> Array:
    """The symmetric float64 Hessian [3N, 3N] of N atoms, or a DataError that says what is wrong with it."""
    matrix = as_numbers(hessian, "Hessian", DataError)
    if matrix.shape != (3 * atoms, 3 * atoms):
        raise DataError(
            f"the Hessian of {atoms} atoms must have shape {(3 * atoms, 3 * atoms)}, found {matrix.shape}: "
            "give the square matrix in eV/Å², atom by atom"
        )
    if not np.isfinite(matrix).all():
        row, column = np.argwhere(~np.isfinite(matrix))[0]
        raise DataError(f"the Hessian is not finite: element ({row}, {column}) is {matrix[row, column]}")
    gap, size = float(np.abs(matrix - matrix.T).max()), float(np.abs(matrix).max())
    if gap > SYMMETRY_TOLERANCE * size:
        raise DataError(
            f"the Hessian is not symmetric: |H − Hᵀ| reaches {gap:.2g} of {size:.2g} eV/Å²; "
            "if that is only noise, give (H + H.T) / 2"
        )
    return (matrix + matrix.T) / 2


def checked_masses(masses: ArrayLike) -> Array:
    """The masses as float64 [N] in amu, or a StructureError that says what is wrong with them."""
    weights = as_numbers(masses, "masses", StructureError)
    if weights.ndim != 1 or len(weights) == 0:
        raise StructureError(f"one mass in amu for each atom expected, found an array of shape {weights.shape}")
    bad = np.flatnonzero(~(np.isfinite(weights) & (weights > 0)))
    if len(bad):
        raise StructureError(f"every mass must be a positive number of amu: atom {bad[0]} has {weights[bad[0]]}")
    return weights


def as_numbers(values: ArrayLike, name: str, error: type[HipExtError]) -> Array:
    """The values as float64, or the given error when they are not numbers."""
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as cause:
        raise error(f"{name}: an array of numbers expected: {' '.join(str(cause).split())}") from None
