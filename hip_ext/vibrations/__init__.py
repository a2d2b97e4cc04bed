"""Harmonic vibrations of a structure from its Hessian: frequencies, modes, zero-point energy, thermochemistry.

vibrations = analyse(atoms, hessian)  # hessian: [3N, 3N], eV/Å²
vibrations.frequencies                # cm⁻¹, imaginary ones negative
vibrations.zero_point_energy          # eV
"""

from hip_ext.vibrations.analysis import analyse
from hip_ext.vibrations.eckart import LINEAR_TOLERANCE, mass_weighted, rigid_modes
from hip_ext.vibrations.modes import IMAGINARY_THRESHOLD, INVERSE_CM, QUANTUM, Geometry, Vibrations, mode_overlap
from hip_ext.vibrations.thermo import ideal_gas_thermo

__all__ = [
    "IMAGINARY_THRESHOLD",
    "INVERSE_CM",
    "LINEAR_TOLERANCE",
    "QUANTUM",
    "Geometry",
    "Vibrations",
    "analyse",
    "ideal_gas_thermo",
    "mass_weighted",
    "mode_overlap",
    "rigid_modes",
]
