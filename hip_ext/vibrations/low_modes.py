"""Modes of low wavenumber, whose harmonic entropy grows without bound as ν → 0.

    harmonic    as they are
    grimme      entropies go over to those of a free rotor below the cutoff (Grimme, doi:10.1002/chem.201200497)
    truhlar     entropies of modes below the cutoff are those of the cutoff (Ribeiro et al., doi:10.1021/jp205508z)

All three leave the energy alone, zero-point energy included; so does GoodVibes, with the same cutoff and the same
moment of inertia, and gives the same numbers. ASE's own `QuasiHarmonicThermo` raises the zero-point energy too, and its
`MSRRHOThermo` has a cutoff of 35 cm⁻¹ and the inertia of the molecule in the place of Grimme's.
"""

from __future__ import annotations

from typing import Literal, get_args

from ase import units
from ase.thermochemistry import AbstractMode, HarmonicMode, RRHOMode

from hip_ext.errors import ConfigError
from hip_ext.suggest import did_you_mean

LowModes = Literal["harmonic", "grimme", "truhlar"]

CUTOFF = 100.0
"""cm⁻¹: below it a mode counts as low."""

GRIMME_INERTIA: float = 1e-44 * units.kg * units.m**2
"""amu Å²: the mean moment of inertia that a free rotor is given, 10⁻⁴⁴ kg m², as Grimme chose it."""


class RaisedMode(HarmonicMode):
    """A harmonic mode with the entropy of one at the cutoff, where it is lower.

    Args:
        energy: quantum in eV.
        floor: quantum in eV below which the entropy does not follow.
    """

    def __init__(self, energy: float, floor: float) -> None:
        super().__init__(energy)
        self._raised = HarmonicMode(max(energy, floor))

    def get_vib_entropy_contribution(self, temperature: float) -> float:
        """eV/K."""
        return float(self._raised.get_vib_entropy_contribution(temperature))


def thermal_modes(energies: list[float], low_modes: LowModes, cutoff: float) -> list[AbstractMode]:
    """ASE's modes for quanta in eV.

    Raises:
        ConfigError: there is no such treatment of low modes, or the cutoff is not a positive number of cm⁻¹.
    """
    known = get_args(LowModes)
    if low_modes not in known:
        raise ConfigError(
            f"there are no low modes {low_modes!r}{did_you_mean(str(low_modes), known)}: {', '.join(known)}"
        )
    if not 0 < cutoff < float("inf"):
        raise ConfigError(f"the cutoff of low modes must be a positive number of cm⁻¹, found {cutoff}")
    if low_modes == "grimme":
        return [RRHOMode(energy, GRIMME_INERTIA, tau=cutoff) for energy in energies]
    if low_modes == "truhlar":
        return [RaisedMode(energy, cutoff * units.invcm) for energy in energies]
    return [HarmonicMode(energy) for energy in energies]
