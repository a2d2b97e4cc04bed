"""The parts of a report on the vibrations of one structure.

found = verified_vibrations(model, atoms)
write_report("water.html", "Water", vibration_parts(found.vibrations, found.hessian, found.flags))
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from hip_ext.report.markup import number
from hip_ext.report.parts import Flags, HessianMap, Modes, Part, Table
from hip_ext.vibrations import IMAGINARY_THRESHOLD, Flag, ThermoState, Vibrations, stationary_point


def vibration_parts(
    vibrations: Vibrations,
    hessian: ArrayLike | None = None,
    flags: Sequence[Flag] = (),
    states: Sequence[ThermoState] = (),
    title: str = "Vibrations",
    threshold: float = IMAGINARY_THRESHOLD,
) -> list[Part]:
    """Checks, modes with their spectrum, what they add up to, and the map of the Hessian.

    Args:
        vibrations: of N atoms.
        hessian: eV/Å², [3N, 3N], or that of the F free atoms, [3F, 3F]; None leaves the map out.
        flags: the checks that the result was put to.
        states: thermochemistry.
        title: of the modes, where a report has those of several structures.
        threshold: cm⁻¹ beyond which a negative eigenvalue counts as an imaginary mode.
    """
    parts: list[Part] = []
    if flags:
        parts.append(Flags([flag_line(flag) for flag in flags]))
    parts.append(Modes(vibrations.atoms, vibrations.frequencies, vibrations.modes, vibrations.intensities, title))
    parts.append(summary_table(vibrations, threshold))
    if states:
        parts.append(thermo_table(states))
    if hessian is not None:
        free = len(np.asarray(hessian)) == 3 * len(vibrations.indices)
        parts.append(HessianMap(vibrations.atoms[vibrations.indices] if free else vibrations.atoms, hessian))
    return parts


def flag_line(flag: Flag) -> tuple[str, bool, str]:
    """A check of `hip_ext.vibrations` as one of a report."""
    return flag.name, flag.ok, flag.text.removeprefix(f"{flag.name}: ")


def summary_table(vibrations: Vibrations, threshold: float = IMAGINARY_THRESHOLD) -> Table:
    """What kind of point it is, by a threshold in cm⁻¹, and its zero-point energy."""
    point = stationary_point(vibrations, threshold=threshold)
    force = vibrations.force_residual
    rows = [
        ("kind of point", point.kind),
        (f"imaginary modes beyond {point.threshold:g} cm⁻¹", str(point.order)),
        ("zero-point energy", f"{number(vibrations.zero_point_energy, 4)} eV"),
        *([("largest force", f"{force:.2g} eV/Å")] if force is not None else []),
    ]
    return Table("Stationary point", ("quantity", "value"), rows)


def thermo_table(states: Sequence[ThermoState]) -> Table:
    """Energies in eV and entropies in meV/K, over temperatures and pressures."""
    header = ("T, K", "p, Pa", "ZPE, eV", "U, eV", "H, eV", "S, meV/K", "G, eV")
    rows = [
        (
            number(one.temperature, 2),
            "–" if one.pressure is None else f"{one.pressure:g}",
            *(number(value, 4) for value in (one.zero_point_energy, one.internal_energy, one.enthalpy)),
            number(1000 * one.entropy, 4),
            number(one.gibbs, 4),
        )
        for one in states
    ]
    return Table("Thermochemistry", header, rows)
