"""Harmonic vibrations of a structure from its Hessian: frequencies, modes, intensities, thermochemistry.

vibrations = analyse(atoms, hessian)  # hessian: [3N, 3N], eV/Å²
vibrations.frequencies                # cm⁻¹, imaginary ones negative
vibrations.zero_point_energy          # eV
stationary_point(vibrations).kind     # "minimum", "saddle point of order 1", ...
consistency(vibrations)               # checks of the result, each with its limit

With a model instead of a matrix: `hip_ext.vibrations.verified`.
"""

from hip_ext.vibrations.analysis import analyse
from hip_ext.vibrations.consistency import Flag, LowestMode, consistency, lowest_mode_check
from hip_ext.vibrations.eckart import LINEAR_TOLERANCE, mass_weighted, rigid_modes
from hip_ext.vibrations.infrared import KM_PER_MOL, infrared_intensities
from hip_ext.vibrations.isotopes import isotope_masses
from hip_ext.vibrations.modes import IMAGINARY_THRESHOLD, INVERSE_CM, QUANTUM, Geometry, Vibrations, mode_overlap
from hip_ext.vibrations.stationary import FORCE_LIMIT, StationaryPoint, stationary_point
from hip_ext.vibrations.symmetry import PointGroup, point_group
from hip_ext.vibrations.thermo import ideal_gas_thermo
from hip_ext.vibrations.thermochemistry import ThermoState, thermochemistry

__all__ = [
    "FORCE_LIMIT",
    "IMAGINARY_THRESHOLD",
    "INVERSE_CM",
    "KM_PER_MOL",
    "LINEAR_TOLERANCE",
    "QUANTUM",
    "Flag",
    "Geometry",
    "LowestMode",
    "PointGroup",
    "StationaryPoint",
    "ThermoState",
    "Vibrations",
    "analyse",
    "consistency",
    "ideal_gas_thermo",
    "infrared_intensities",
    "isotope_masses",
    "lowest_mode_check",
    "mass_weighted",
    "mode_overlap",
    "point_group",
    "rigid_modes",
    "stationary_point",
    "thermochemistry",
]
