"""Vibrations and thermochemistry in the layout of a Gaussian frequency job, for programs that read those.

GoodVibes, cclib and ASE take the text for a log file of Gaussian, and viewers show its modes; the first line says what
it is. Only what these programs read is printed, modes with more digits than Gaussian gives.
"""

from __future__ import annotations

import numpy as np
from ase import units

from hip_ext.errors import StructureError
from hip_ext.vibrations.eckart import Array
from hip_ext.vibrations.modes import Vibrations
from hip_ext.vibrations.symmetry import PointGroup
from hip_ext.vibrations.thermochemistry import ThermoState

ROTATIONAL_KELVIN: float = units._hbar**2 / (2 * units._amu * 1e-20 * units._k)
"""Rotational temperature in K of a moment of inertia of 1 amu Å²."""

GIGAHERTZ_PER_KELVIN: float = units._k / units._hplanck / 1e9
LINEAR = {"Cinfv": "C*V", "Dinfh": "D*H"}


def gaussian_log(
    vibrations: Vibrations,
    *,
    energy: float = 0.0,
    charge: int = 0,
    multiplicity: int = 1,
    group: PointGroup | None = None,
    state: ThermoState | None = None,
) -> str:
    """The text of the log file.

    Args:
        vibrations: N atoms and M modes; imaginary wavenumbers are printed as negative ones, as Gaussian does.
        energy: electronic energy, eV.
        charge: total charge, e.
        multiplicity: 2S + 1.
        group: point group and symmetry number; C1 by default.
        state: thermochemistry of a molecule, without which that section is left out.

    Raises:
        StructureError: thermochemistry is that of an adsorbate.
    """
    group = group or PointGroup("C1", 1)
    lines = [
        " hip-ext: frequencies in the layout of a Gaussian log file; this is no output of Gaussian, Inc.",
        "",
        f" Charge = {charge:2d} Multiplicity = {multiplicity}",
        f" Full point group                 {LINEAR.get(group.name, group.name.upper())}",
        " Largest Abelian subgroup         C1",
        *_orientation(vibrations),
        f" SCF Done:  E(hip-ext) = {energy / units.Hartree:18.10f}     A.U. after    1 cycles",
        "",
        *_frequencies(vibrations),
        "",
        *([] if state is None else _thermochemistry(vibrations, group, state)),
        " Normal termination of Gaussian-style output by hip-ext.",
    ]
    return "\n".join(lines) + "\n"


def _orientation(vibrations: Vibrations) -> list[str]:
    rule = " " + "-" * 69
    lines = [
        " " * 25 + "Standard orientation:",
        rule,
        " Center     Atomic      Atomic             Coordinates (Angstroms)",
        " Number     Number       Type             X           Y           Z",
        rule,
    ]
    for i, (z, (x, y, w)) in enumerate(zip(vibrations.atoms.numbers, vibrations.atoms.positions, strict=True), 1):
        lines.append(f"{i:7d}{z:11d}{0:12d}    {x:14.8f}{y:14.8f}{w:14.8f}")
    return [*lines, rule]


def _frequencies(vibrations: Vibrations) -> list[str]:
    """Blocks of three modes, each mode scaled to unit length."""
    lines = [
        " Harmonic frequencies (cm**-1), IR intensities (KM/Mole), reduced masses (AMU),",
        " force constants (mDyne/A), and normal coordinates:",
    ]
    masses = vibrations.reduced_masses
    # 1 N/m is 0.01 mDyne/Å.
    constants = masses * vibrations.eigenvalues * (units.m**2 / units.J) / 100
    unit = vibrations.modes * np.sqrt(masses)[:, None, None]
    rows = [("Frequencies --", vibrations.frequencies), ("Red. masses --", masses), ("Frc consts  --", constants)]
    if vibrations.intensities is not None:
        rows.append(("IR Inten    --", vibrations.intensities))
    for first in range(0, len(masses), 3):
        modes = range(first, min(first + 3, len(masses)))
        lines.append(" " * 12 + "".join(f"{k + 1:11d}{'':12s}" for k in modes).rstrip())
        lines.append(" " * 12 + "".join(f"{'A':>11s}{'':12s}" for _ in modes).rstrip())
        lines += [f" {name} " + "".join(f"{values[k]:10.4f}{'':13s}" for k in modes).rstrip() for name, values in rows]
        lines.append("  Atom  AN" + "      X          Y          Z    " * len(modes))
        for i, z in enumerate(vibrations.atoms.numbers):
            numbers = "".join(f"{x:11.6f}" for k in modes for x in unit[k, i])
            lines.append(f"{i + 1:6d}{z:4d}{numbers}")
    return lines


def _thermochemistry(vibrations: Vibrations, group: PointGroup, state: ThermoState) -> list[str]:
    if state.pressure is None:
        raise StructureError("the thermochemistry of a log file is that of a free molecule, found that of an adsorbate")
    rule, atoms = " -------------------", vibrations.atoms
    lines = [
        rule,
        " - Thermochemistry -",
        rule,
        f" Temperature {state.temperature:9.3f} Kelvin.  Pressure {state.pressure / 101325:9.5f} Atm.",
    ]
    for i, (z, mass) in enumerate(zip(atoms.numbers, vibrations.masses, strict=True), 1):
        lines.append(f" Atom {i:5d} has atomic number {z:2d} and mass {mass:12.8f}")
    lines.append(f" Molecular mass: {vibrations.masses.sum():12.5f} amu.")
    lines.append(f" Rotational symmetry number {group.symmetry_number:2d}.")
    lines += _rotor(vibrations)

    def hartree(value: float) -> str:
        return f"{value / units.Hartree:18.10f}"

    energy = state.electronic_energy
    sums = {
        "zero-point Energies": energy + state.zero_point_energy,
        "thermal Energies": state.internal_energy,
        "thermal Enthalpies": state.enthalpy,
        "thermal Free Energies": state.gibbs,
    }
    return [
        *lines,
        f" Zero-point correction=                   {hartree(state.zero_point_energy)} (Hartree/Particle)",
        f" Thermal correction to Energy=            {hartree(state.internal_energy - energy)}",
        f" Thermal correction to Enthalpy=          {hartree(state.enthalpy - energy)}",
        f" Thermal correction to Gibbs Free Energy= {hartree(state.gibbs - energy)}",
        *(f" Sum of electronic and {name}= {hartree(value)}" for name, value in sums.items()),
        "",
    ]


def _rotor(vibrations: Vibrations) -> list[str]:
    if vibrations.geometry == "monatomic":
        return []
    moments = np.sort(vibrations.atoms.get_moments_of_inertia())
    if vibrations.geometry == "linear":
        kelvin = ROTATIONAL_KELVIN / moments[-1]
        return [f" Rotational temperature (Kelvin) {kelvin:14.6f}"]
    temperatures = ROTATIONAL_KELVIN / moments
    return [
        f" Rotational temperatures (Kelvin){_columns(temperatures)}",
        f" Rotational constants (GHZ):     {_columns(GIGAHERTZ_PER_KELVIN * temperatures)}",
    ]


def _columns(values: Array) -> str:
    return "".join(f"{value:16.6f}" for value in values)
