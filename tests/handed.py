"""A molecule that differs from its mirror image, and mirror images."""

from __future__ import annotations

from ase import Atoms
from ase.build import molecule


def handed_molecule() -> Atoms:
    """Ethanol, shaken until it has no mirror plane."""
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.1, seed=1)
    return atoms


def mirrored(atoms: Atoms) -> Atoms:
    """The structure reflected in the plane z = 0."""
    image = atoms.copy()
    image.positions = atoms.positions * [1, 1, -1]
    image.cell = atoms.cell.array * [1, 1, -1]
    return image
