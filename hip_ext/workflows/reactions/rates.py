"""Rates of transition state theory.

    k(T) = κ(T) · (k_B T / h) · e^(−ΔG‡ / k_B T),    κ(T) = 1 + (hν / k_B T)² / 24

Eyring's equation for a reaction of first order, with Wigner's correction for tunnelling through the top of a barrier
with imaginary wavenumber iν. The correction is the first of a series: beyond κ ≈ 2 to 3 it says that tunnelling matters
and little else.
"""

from __future__ import annotations

import math

from ase import units

from hip_ext.errors import ConfigError

PLANCK_EV_S: float = units._hplanck / units._e
"""h, eV·s."""


def eyring_rate(gibbs_barrier: float, temperature: float) -> float:
    """The rate constant of first order without tunnelling, 1/s.

    Args:
        gibbs_barrier: ΔG‡ in eV.
        temperature: K.

    Raises:
        ConfigError: the temperature is not positive.
    """
    thermal = _thermal(temperature)
    exponent = -gibbs_barrier / thermal
    if exponent > 700:
        return math.inf
    return thermal / PLANCK_EV_S * math.exp(exponent)


def wigner_factor(wavenumber: float, temperature: float) -> float:
    """κ for an imaginary mode, at least 1.

    Args:
        wavenumber: of the imaginary mode, cm⁻¹, of either sign.
        temperature: K.

    Raises:
        ConfigError: the temperature is not positive.
    """
    return 1 + (wavenumber * units.invcm / _thermal(temperature)) ** 2 / 24


def _thermal(temperature: float) -> float:
    if not temperature > 0:
        raise ConfigError(f"the temperature is {temperature} K, expected a positive one")
    return temperature * float(units.kB)
