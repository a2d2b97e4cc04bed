"""Thermochemistry of a molecule as an ideal gas, handed over to ASE."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.thermochemistry import IdealGasThermo

from hip_ext.errors import StructureError
from hip_ext.vibrations.modes import Vibrations


def ideal_gas_thermo(
    vibrations: Vibrations,
    atoms: Atoms,
    potentialenergy: float,
    symmetrynumber: int,
    spin: float,
    *,
    transition_state: bool = False,
) -> IdealGasThermo:
    """ASE's rigid-rotor harmonic-oscillator model, with the shape of the molecule and its modes filled in.

    Args:
        vibrations: a projected analysis of `atoms`; its masses (isotopes) also serve translation and rotation.
        atoms: the molecule.
        potentialenergy: eV.
        symmetrynumber: number of rotations that map the molecule onto itself.
        spin: total electronic spin S, 0 for a closed shell, 0.5 for a radical.
        transition_state: leave out the one imaginary mode, along which the molecule reacts.

    Returns:
        An object with `get_enthalpy(T)`, `get_entropy(T, p)` and `get_gibbs_energy(T, p)`.

    Raises:
        StructureError: the analysis is of another structure, of a periodic or partly fixed one, or not projected; or
            the number of imaginary (or zero) modes is not 0 (1 for a transition state), however small they are.
    """
    gas = vibrations.atoms.copy()
    if not np.array_equal(atoms.numbers, gas.numbers) or not np.allclose(atoms.positions, gas.positions, 0, 1e-6):
        raise StructureError("the vibrations are those of another structure: analyse this one's own Hessian")
    if vibrations.geometry is None:
        raise StructureError("an ideal gas needs a free molecule, found a periodic structure or fixed atoms")
    if len(vibrations.eigenvalues) != 3 * len(gas) - len(vibrations.residuals):
        raise StructureError("the modes still hold translations and rotations: analyse with project=True")
    real = vibrations.frequencies > 0
    other = vibrations.frequencies[~real]
    if len(other) != int(transition_state):
        kind = "transition state has 1 imaginary mode" if transition_state else "minimum has no imaginary mode"
        found = f"{len(other)}, at {np.round(other, 1).tolist()} cm⁻¹" if len(other) else "none"
        raise StructureError(f"a {kind}, found {found}: optimise the geometry further")
    # All modes given are vibrations, so ASE must not pick 3N − 6 of them by itself.
    return IdealGasThermo(
        vib_energies=vibrations.vib_energies[real].real.tolist(),
        geometry=vibrations.geometry,
        potentialenergy=potentialenergy,
        atoms=gas,
        symmetrynumber=symmetrynumber,
        spin=spin,
        vib_selection="all",
    )
