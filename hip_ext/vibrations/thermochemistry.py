"""Energy, enthalpy, entropy and Gibbs energy over temperatures and pressures, with `ase.thermochemistry`.

A molecule is an ideal gas of rigid rotors and harmonic oscillators (RRHO); an adsorbate, whose surface is fixed, has
vibrations alone, so that its enthalpy is its internal energy and pressure is without meaning.

    states = thermochemistry(vibrations, energy, symmetry_number=2, spin=0, temperatures=[298.15, 500])
    states[0].gibbs  # eV
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from ase import units
from ase.thermochemistry import AbstractMode, IdealGasThermo

from hip_ext.errors import ConfigError, StructureError
from hip_ext.vibrations.low_modes import CUTOFF, LowModes, thermal_modes
from hip_ext.vibrations.modes import Vibrations
from hip_ext.vibrations.symmetry import point_group
from hip_ext.vibrations.thermo import ideal_gas_thermo

ROOM, ATMOSPHERE = 298.15, 101325.0


@dataclass(frozen=True)
class ThermoState:
    """Thermochemistry at one temperature and pressure; energies in eV, entropies in eV/K, per molecule.

    Attributes:
        temperature: K.
        pressure: Pa; None for an adsorbate.
        electronic_energy: E, the minimum of the potential energy.
        zero_point_energy: ½ Σ ħω.
        internal_energy: U, with E and the zero-point energy.
        enthalpy: H.
        entropy: S, that of electrons, translation and rotation included.
        vibrational_entropy: the part of S that depends on the treatment of low modes.
        gibbs: G = H − T S.
        heat_content: H(T) − H(0).
    """

    temperature: float
    pressure: float | None
    electronic_energy: float
    zero_point_energy: float
    internal_energy: float
    enthalpy: float
    entropy: float
    vibrational_entropy: float
    gibbs: float
    heat_content: float


def thermochemistry(
    vibrations: Vibrations,
    energy: float,
    *,
    symmetry_number: int | None,
    spin: float,
    temperatures: Sequence[float] = (ROOM,),
    pressures: Sequence[float] = (ATMOSPHERE,),
    low_modes: LowModes = "harmonic",
    cutoff: float = CUTOFF,
    invert_below: float = 0.0,
    transition_state: bool = False,
) -> list[ThermoState]:
    """Thermochemistry of a molecule, or of an adsorbate.

    Args:
        vibrations: a projected analysis, scaled if the frequencies shall be; its masses also serve translation and
            rotation.
        energy: E in eV.
        symmetry_number: rotations that map the molecule onto itself (see `point_group`); None for an adsorbate.
        spin: total electronic spin S, 0 for a closed shell, 0.5 for a radical.
        temperatures: K.
        pressures: Pa; each temperature is combined with each.
        low_modes: "harmonic", "grimme" or "truhlar" (see `hip_ext.vibrations.low_modes`).
        cutoff: cm⁻¹ below which the latter two treat a mode.
        invert_below: cm⁻¹; a weaker imaginary mode is taken for a real one of the same wavenumber.
        transition_state: leave out the one imaginary mode, along which the molecule reacts.

    Raises:
        StructureError: the structure is a crystal; the number of imaginary modes is not 0 (1 for a transition state);
            the symmetry number is missing, out of place, or impossible for a linear molecule.
        ConfigError: a temperature, pressure, spin or cutoff is out of range.
    """
    _check_numbers("temperature", "K", temperatures)
    _check_numbers("pressure", "Pa", pressures)
    if spin < 0 or round(2 * spin) != 2 * spin:
        raise ConfigError(f"the spin must be 0, 0.5, 1, …, found {spin}")
    vibrations = _inverted(vibrations, invert_below)
    if len(vibrations.indices) < len(vibrations.atoms):
        if symmetry_number is not None:
            raise StructureError("an adsorbate does not rotate: it has no symmetry number")
        modes = thermal_modes(_quanta(vibrations, transition_state), low_modes, cutoff)
        return [_adsorbate(modes, energy, spin, temperature) for temperature in temperatures]
    _check_symmetry(vibrations, symmetry_number)
    gas = ideal_gas_thermo(
        vibrations, vibrations.atoms, energy, int(symmetry_number or 1), spin, transition_state=transition_state
    )
    modes = thermal_modes([float(quantum) for quantum in gas.vib_energies], low_modes, cutoff)
    return [_gas(gas, modes, *state) for state in product(temperatures, pressures)]


def _gas(gas: IdealGasThermo, modes: list[AbstractMode], temperature: float, pressure: float) -> ThermoState:
    thermal = gas.get_ideal_translational_energy(temperature)
    thermal += gas.get_ideal_rotational_energy(gas.geometry, temperature)
    outer, _ = gas.get_ideal_entropy(
        temperature,
        translation=True,
        rotation=True,
        electronic=True,
        geometry=gas.geometry,
        pressure=pressure,
        symmetrynumber=gas.sigma,
    )
    energy = float(gas.potentialenergy)
    return _state(modes, energy, temperature, pressure, thermal, units.kB * temperature, float(outer))


def _adsorbate(modes: list[AbstractMode], energy: float, spin: float, temperature: float) -> ThermoState:
    return _state(modes, energy, temperature, None, 0.0, 0.0, units.kB * float(np.log(2 * spin + 1)))


def _state(
    modes: list[AbstractMode],
    energy: float,
    temperature: float,
    pressure: float | None,
    thermal: float,
    volume_work: float,
    outer_entropy: float,
) -> ThermoState:
    """Adds the vibrations to what translation, rotation and electrons give."""
    zero_point = sum(mode.energy for mode in modes) / 2
    # exp(ħω/kT) of a stiff mode in the cold is beyond the largest float, and its reciprocal the right zero.
    with np.errstate(over="ignore"):
        vibrational = float(np.sum([mode.get_internal_energy(temperature, False) for mode in modes]))
        entropy = float(np.sum([mode.get_entropy(temperature, False) for mode in modes]))
    internal = energy + vibrational + thermal
    enthalpy = internal + volume_work
    total = entropy + outer_entropy
    return ThermoState(
        temperature=temperature,
        pressure=pressure,
        electronic_energy=energy,
        zero_point_energy=zero_point,
        internal_energy=internal,
        enthalpy=enthalpy,
        entropy=total,
        vibrational_entropy=entropy,
        gibbs=enthalpy - temperature * total,
        heat_content=enthalpy - energy - zero_point,
    )


def _inverted(vibrations: Vibrations, below: float) -> Vibrations:
    if below < 0:
        raise ConfigError(f"imaginary modes are inverted below a positive number of cm⁻¹, found {below}")
    weak = (vibrations.eigenvalues < 0) & (vibrations.frequencies > -below)
    return replace(vibrations, eigenvalues=np.where(weak, -vibrations.eigenvalues, vibrations.eigenvalues))


def _quanta(vibrations: Vibrations, transition_state: bool) -> list[float]:
    """Real quanta of a partly fixed structure, eV, after the same count as `ideal_gas_thermo` makes."""
    real = vibrations.frequencies > 0
    if int((~real).sum()) != int(transition_state):
        raise StructureError(
            f"an adsorbate {'at a transition state has 1' if transition_state else 'at a minimum has no'} imaginary "
            f"mode, found {int((~real).sum())}: optimise the geometry further"
        )
    return [float(quantum) for quantum in vibrations.vib_energies[real].real]


def _check_numbers(name: str, unit: str, values: Sequence[float]) -> None:
    for value in values:
        if not 0 < value < np.inf:
            raise ConfigError(f"the {name} must be a positive number of {unit}, found {value}")


def _check_symmetry(vibrations: Vibrations, number: int | None) -> None:
    if vibrations.geometry is None:
        raise StructureError(
            "an ideal gas needs a free molecule, found a periodic structure: use phonons for a crystal"
        )
    if number is None:
        raise StructureError("a molecule needs its symmetry number: 1 without symmetry, or that of point_group(atoms)")
    if number < 1 or int(number) != number:
        raise StructureError(f"a symmetry number is 1, 2, 3, …, found {number}")
    if vibrations.geometry != "nonlinear":
        group = point_group(vibrations.atoms)
        if number != group.symmetry_number:
            formula = vibrations.atoms.get_chemical_formula()
            raise StructureError(
                f"{formula} is {vibrations.geometry} with point group {group.name}, whose symmetry number is "
                f"{group.symmetry_number}, found {number}"
            )
