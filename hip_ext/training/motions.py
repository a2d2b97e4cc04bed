"""Motions along which a Hessian matters most: smooth twists of a molecule, and the lowest modes of a labelled one."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from hip_ext.vibrations import mass_weighted, rigid_modes
from hip_ext.vibrations.eckart import complement


def twists(positions: NDArray[np.floating], rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Smooth motions in which one half of a structure turns against the other, [count, n, 3], at most 1 long.

    u(x) = f(n·(x − c)/1 Å) a × (x − c), with c the middle of a random pair of neighbours and n its direction. The axis
    a is n (a torsion) or random (a bend), the profile f is tanh, or 1 for a rotation of the whole.
    """
    fields = []
    for _ in range(count):
        first = int(rng.integers(len(positions)))
        distance = np.linalg.norm(positions - positions[first], axis=1)
        distance[first] = np.inf
        second = int(rng.choice(np.flatnonzero(distance < 1.25 * distance.min() + 0.3)))
        centre = (positions[first] + positions[second]) / 2
        direction = (positions[second] - positions[first]) / distance[second]
        axis = direction if rng.random() < 0.5 else rng.normal(size=3)
        arm = positions - centre
        profile = 1.0 if rng.random() < 0.25 else np.tanh(arm @ direction)[:, None]
        field = profile * np.cross(axis, arm)
        fields.append(field / max(np.linalg.norm(field, axis=1).max(), 1e-6))
    return np.array(fields)


def lowest_modes(
    atoms: Atoms, hessian: NDArray[np.floating], count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The lowest eigenpairs of M^(−½) H M^(−½) on what is orthogonal to the rigid motions.

    Args:
        atoms: n atoms; a periodic structure is free to shift, but not to turn.
        hessian: eV/Å², [3n, 3n], symmetric.
        count: how many; fewer where there are not so many.

    Returns:
        The modes as displacements v = M^(−½) q, amu^(−½), [k, n, 3], for which v·H·v′ = λ δ; and λ in eV/Å²/amu, [k].
    """
    masses = atoms.get_masses()
    basis = complement(rigid_modes(atoms.positions, masses, rotations=not atoms.pbc.any()))
    values, vectors = np.linalg.eigh(basis.T @ mass_weighted(hessian, masses) @ basis)
    root = np.sqrt(np.repeat(masses, 3))[:, None]
    modes = (basis @ vectors[:, :count]) / root
    return modes.T.reshape(-1, len(atoms), 3), values[:count]
