"""The coordinates in which modes are refined, and the motions whose products are known without a product.

In mass-weighted coordinates q = M^½ x the matrix is A = M^(−½) H M^(−½), and a rigid motion U is a translation t or a
rotation r = a × x. Exactly, for any potential of a molecule with gradient g,

    H t = 0,    H (a × x) = a × g,

so that AU is known as soon as the forces are. Modes are looked for in what is orthogonal to U: Eckart's conditions. In
a periodic structure only the translations are rigid. Where atoms are fixed, the others move against them: modes are
looked for among the displacements of the free atoms, and the rigid motions of the whole, no modes then, still have
known products.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms

from hip_ext.errors import StructureError
from hip_ext.refinement.update import Array
from hip_ext.vibrations.eckart import checked_masses, complement, rigid_modes

INDEPENDENT = 1e-3
"""A unit vector with less than this outside of others is taken for one of theirs: its rest would be mostly rounding."""


@dataclass(frozen=True, eq=False)
class MotionSpace:
    """Mass-weighted coordinates of a structure.

    Attributes:
        root: square roots of the masses, one a coordinate, √amu, [3N].
        rigid: orthonormal rigid motions U, [3N, m].
        rigid_products: AU, eV/(Å²·amu), [3N, m].
        basis: orthonormal basis B of the motions among which modes are looked for, [3N, n].
    """

    root: Array
    rigid: Array
    rigid_products: Array
    basis: Array

    @classmethod
    def of(cls, atoms: Atoms, gradient: Array) -> MotionSpace:
        """Sets up the coordinates of a structure.

        Args:
            atoms: N atoms with their masses; those held by `FixAtoms` do not move, other constraints are not looked at.
            gradient: ∂E/∂x, eV/Å, [N, 3].

        Raises:
            StructureError: the masses are not positive, all atoms are on one spot, or all are fixed.
        """
        masses = checked_masses(atoms.get_masses())
        root = np.sqrt(np.repeat(masses, 3))
        rigid = rigid_modes(atoms.positions, masses, rotations=not atoms.pbc.any())
        # The exact forces of a structure add up to zero, so that translations stay exact whatever the rounding.
        balanced = gradient - gradient.mean(axis=0)
        images = _rigid_images(atoms.positions, rigid / root[:, None], balanced) / root[:, None]
        return cls(root, rigid, images, _searched(atoms, rigid))

    def consistent(self, motions: Array, products: Array) -> Array:
        """Exact products AV without the rounding that contradicts the known AU: since A is symmetric, UᵀAV = (AU)ᵀV."""
        return np.asarray(products - self.rigid @ (self.rigid.T @ products - self.rigid_products.T @ motions))

    def with_rigid(self, motions: Array, products: Array) -> tuple[Array, Array]:
        """Orthonormal motions and their products, joined by what the rigid motions add to them.

        Where a molecule is free that is all six; where atoms are fixed, some may be made of the given motions already.
        """
        inside = motions.T @ self.rigid
        left, strength, right = np.linalg.svd(self.rigid - motions @ inside, full_matrices=False)
        kept = strength > INDEPENDENT
        images = (self.rigid_products - products @ inside) @ right[kept].T / strength[kept]
        return np.hstack((motions, left[:, kept])), np.hstack((products, images))

    def weighted(self, hessian: Array) -> Array:
        """M^(−½) H M^(−½) of a Hessian in eV/Å², [3N, 3N]."""
        return np.asarray(hessian / np.outer(self.root, self.root))

    def cartesian(self, weighted: Array) -> Array:
        """The Hessian in eV/Å² of a mass-weighted one, [3N, 3N]."""
        return np.asarray(weighted * np.outer(self.root, self.root))


def fixed_atoms(atoms: Atoms) -> list[int]:
    """The atoms that `FixAtoms` holds, in rising order."""
    return sorted({int(i) for c in atoms.constraints if isinstance(c, FixAtoms) for i in c.get_indices()})


def _searched(atoms: Atoms, rigid: Array) -> Array:
    free = np.setdiff1d(np.arange(len(atoms)), np.array(fixed_atoms(atoms), dtype=np.int64))
    if len(free) == len(atoms):
        return complement(rigid)
    if len(free) == 0:
        raise StructureError(f"all {len(atoms)} atoms are fixed: there is no mode to refine")
    coordinates = (3 * free[:, None] + np.arange(3)).ravel()
    return np.eye(3 * len(atoms))[:, coordinates]


def _rigid_images(positions: Array, motions: Array, gradient: Array) -> Array:
    """H times rigid displacements, eV/Å² times their unit: each is t + a × x, and becomes a × g, [3N, m]."""
    n = len(positions)
    axes = np.eye(3)
    shifts = np.tile(axes, (n, 1))
    arms = positions - positions.mean(axis=0)
    turns = np.cross(axes[None], arms[:, None]).transpose(0, 2, 1).reshape(3 * n, 3)
    twists = np.cross(axes[None], gradient[:, None]).transpose(0, 2, 1).reshape(3 * n, 3)
    # The shortest solution: a rotation about the axis of a linear molecule is none, and has no part in it.
    parts = np.linalg.lstsq(np.hstack((shifts, turns)), motions, rcond=1e-9)[0]
    images: Array = twists @ parts[3:]
    return images
