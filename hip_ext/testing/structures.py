"""Structures that most organic potentials know: two molecules and a crystal of H, C, N and O, none of them relaxed."""

from __future__ import annotations

from ase import Atoms
from ase.build import molecule


def organic_structures() -> tuple[Atoms, Atoms, Atoms]:
    """Ethanol, nitromethane and `methanol_crystal()`, each atom moved by some 0.05 Å."""
    ethanol, nitromethane = molecule("CH3CH2OH"), molecule("CH3NO2")
    ethanol.rattle(0.05, seed=1)
    nitromethane.rattle(0.05, seed=2)
    return ethanol, nitromethane, methanol_crystal()


def methanol_crystal() -> Atoms:
    """One methanol in a triclinic cell so small that its images are its neighbours, with atoms outside the cell."""
    atoms = molecule("CH3OH")
    atoms.set_cell([[4.6, 0.0, 0.0], [1.1, 4.9, 0.0], [-0.7, 0.9, 5.2]])
    atoms.pbc = True
    atoms.rattle(0.05, seed=3)
    return atoms
