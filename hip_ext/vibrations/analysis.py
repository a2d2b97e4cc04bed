"""From a Hessian to vibrations.

With D the orthonormal rigid motions [3N, m] and B any orthonormal basis of what is orthogonal to them [3N, 3N − m], the
modes are the eigenvectors of Bᵀ M^(−½) H M^(−½) B. Exactly 3N − m come out, whatever H does to rigid motions, and none
has to be recognised by a small eigenvalue.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from numpy.typing import ArrayLike, NDArray

from hip_ext.errors import DataError, StructureError
from hip_ext.vibrations.eckart import (
    Array,
    as_numbers,
    checked_hessian,
    checked_masses,
    complement,
    mass_weighted,
    rigid_modes,
)
from hip_ext.vibrations.infrared import infrared_intensities
from hip_ext.vibrations.modes import Geometry, Vibrations


def analyse(
    atoms: Atoms,
    hessian: ArrayLike,
    *,
    masses: ArrayLike | None = None,
    project: bool = True,
    indices: Sequence[int] | NDArray[np.int64] | None = None,
    forces: ArrayLike | None = None,
    dipole_derivatives: ArrayLike | None = None,
) -> Vibrations:
    """Harmonic frequencies and modes.

    Rigid motions are projected out of a molecule, translations out of a periodic structure. If any atom is fixed, the
    free ones vibrate against it: there are no rigid motions, and all 3F modes of the F free atoms are given.

    Args:
        atoms: N atoms; fixed ones are those of its `FixAtoms` constraints, unless `indices` is given.
        hessian: symmetric, eV/Å², [3N, 3N]; with fixed atoms also the part of the free ones, [3F, 3F].
        masses: amu, [N], for isotopes; by default those of `atoms`.
        project: False keeps the rigid motions among the modes.
        indices: the free atoms in rising order; constraints are then not looked at.
        forces: eV/Å, [N, 3], from which `force_residual` and `defects` are taken; nothing else depends on them.
        dipole_derivatives: ∂μ/∂x in e, [3, N, 3], from which `intensities` are taken (see `hip_ext.dipoles`).

    Returns:
        3N − m modes with projection, else 3F.

    Raises:
        DataError: the Hessian, the forces or the dipole derivatives have the wrong shape or are not finite, or the
            Hessian is not symmetric.
        StructureError: the structure is empty or not finite, the masses or indices do not fit it, or a constraint
            other than `FixAtoms` is set.
    """
    n = len(atoms)
    if n == 0 or not np.isfinite(atoms.positions).all():
        raise StructureError(f"a structure with finite positions is needed, found {n} atoms at {_extent(atoms)}")
    weights = checked_masses(atoms.get_masses() if masses is None else masses)
    if len(weights) != n:
        raise StructureError(f"one mass in amu for each of the {n} atoms expected, found {len(weights)}")
    free = _free_atoms(atoms) if indices is None else _checked_indices(indices, n)
    matrix = _free_block(hessian, free, n)
    weighted = mass_weighted(matrix, weights[free])

    rigid = np.zeros((3 * n, 0))
    geometry: Geometry | None = None
    if len(free) == n:
        rigid = rigid_modes(atoms.positions, weights, rotations=not atoms.pbc.any())
        geometry = None if atoms.pbc.any() else _geometry(n, rigid.shape[1])
    root = np.sqrt(np.repeat(weights[free], 3))[:, None]
    motions = rigid / root if len(free) == n else np.zeros((3 * len(free), 0))
    motions = motions / np.linalg.norm(motions, axis=0)
    images = matrix @ motions

    if project and rigid.shape[1]:
        basis = complement(rigid)
        eigenvalues, vectors = np.linalg.eigh(basis.T @ weighted @ basis)
        vectors = basis @ vectors
    else:
        eigenvalues, vectors = np.linalg.eigh(weighted)
    modes = np.zeros((len(eigenvalues), n, 3))
    modes[:, free] = (vectors / root).T.reshape(len(eigenvalues), len(free), 3)

    used = atoms.copy()
    used.set_masses(weights)
    pulls = None if forces is None else _checked_forces(forces, n)
    return Vibrations(
        used,
        free,
        eigenvalues,
        modes,
        np.linalg.norm(images, axis=0),
        geometry,
        force_residual=None if pulls is None else float(np.linalg.norm(pulls[free], axis=1).max()),
        defects=None if pulls is None else np.linalg.norm(images - _explained(motions, used, pulls), axis=0),
        intensities=None if dipole_derivatives is None else infrared_intensities(modes, dipole_derivatives),
    )


def _free_atoms(atoms: Atoms) -> NDArray[np.int64]:
    other = [type(c).__name__ for c in atoms.constraints if not isinstance(c, FixAtoms)]
    if other:
        raise StructureError(
            f"constraint {other[0]} cannot be kept by a partial Hessian: use FixAtoms, or name the free atoms "
            "with indices"
        )
    fixed = [int(i) for c in atoms.constraints for i in c.get_indices()]
    free = np.setdiff1d(np.arange(len(atoms)), np.asarray(fixed, dtype=np.int64))
    if len(free) == 0:
        raise StructureError(f"all {len(atoms)} atoms are fixed: nothing can vibrate")
    return free.astype(np.int64)


def _checked_indices(indices: Sequence[int] | NDArray[np.int64], n: int) -> NDArray[np.int64]:
    given = np.asarray(indices)
    good = given.ndim == 1 and len(given) > 0 and np.issubdtype(given.dtype, np.integer)
    if not good or given[0] < 0 or given[-1] >= n or (np.diff(given) <= 0).any():
        raise StructureError(
            f"indices must be the free atoms in rising order, between 0 and {n - 1}, found {indices!r:.80}"
        )
    return given.astype(np.int64)


def _free_block(hessian: ArrayLike, free: NDArray[np.int64], n: int) -> Array:
    """The Hessian of the free atoms, from that of all atoms or as it is."""
    matrix = as_numbers(hessian, "Hessian", DataError)
    if matrix.shape[:1] == (3 * len(free),):
        return checked_hessian(matrix, len(free))
    coordinates = (3 * free[:, None] + np.arange(3)).ravel()
    block: Array = checked_hessian(matrix, n)[np.ix_(coordinates, coordinates)]
    return block


def _geometry(n: int, rigid: int) -> Geometry:
    if n == 1:
        return "monatomic"
    return "linear" if rigid == 5 else "nonlinear"


def _checked_forces(forces: ArrayLike, n: int) -> Array:
    vectors = as_numbers(forces, "forces", DataError)
    if vectors.shape != (n, 3) or not np.isfinite(vectors).all():
        raise DataError(f"the forces must be {n} × 3 finite numbers in eV/Å, found shape {vectors.shape}")
    return vectors


def _explained(motions: Array, atoms: Atoms, forces: Array) -> Array:
    """What an exact Hessian makes of rigid motions [3N, m]: the gradient turns along, H (w × r) = w × g."""
    images = np.zeros_like(motions)
    arms = atoms.positions - atoms.get_center_of_mass()
    turns = np.cross(np.eye(3)[None], arms[:, None]).transpose(0, 2, 1).reshape(-1, 3)
    for k in range(3, motions.shape[1]):
        axis = np.linalg.lstsq(turns, motions[:, k], rcond=1e-6)[0]
        images[:, k] = np.cross(axis, -forces).ravel()
    return images


def _extent(atoms: Atoms) -> str:
    return "no position" if len(atoms) == 0 else f"{atoms.positions.min()} to {atoms.positions.max()} Å"
