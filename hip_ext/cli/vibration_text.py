"""Vibrations as tables and lines of text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from hip_ext.cli.output import table

if TYPE_CHECKING:
    from rich.table import Table


def wavenumber(value: float) -> str:
    """A frequency as text: 1234.5, or 123.4i for an imaginary one, which is given as a negative number."""
    return f"{-value:.1f}i" if value < 0 else f"{value:.1f}"


def frequency_rows(one: dict[str, Any], modes: Iterable[int]) -> Table:
    """A table of the modes with these indices: predicted, and exact and error, and intensities, where there are any."""
    compared, infrared = "exact_frequencies" in one, one.get("intensities") is not None
    names = ["predicted", "exact", "error"] if compared else ["cm⁻¹"]
    rows = table("mode", *names, *(["km/mol"] if infrared else []))
    for mode in modes:
        value = float(one["frequencies"][mode])
        cells = [str(mode + 1), wavenumber(value)]
        if compared:
            exact = float(one["exact_frequencies"][mode])
            cells += [wavenumber(exact), f"{value - exact:+.1f}"]
        rows.add_row(*cells, *([f"{one['intensities'][mode]:.1f}"] if infrared else []))
    return rows


def energies(one: dict[str, Any]) -> str:
    """Zero-point energy, imaginary modes, time, and the same of the exact Hessian, as a line or two of text."""
    lines = [_line("", one)]
    if "exact_frequencies" in one:
        exact = {name.removeprefix("exact_"): value for name, value in one.items() if name.startswith("exact_")}
        lines[0] = _line("predicted: ", one)
        lines += [_line("exact:     ", exact)]
        lines += [
            f"MAE of the Hessian {one['hessian_mae']:.4f} eV/Å², of the frequencies {one['frequency_mae']:.1f} cm⁻¹; "
            f"speed-up {one['speed_up']:.1f}×"
        ]
    return "\n".join(lines)


def frame_tables(one: dict[str, Any], place: str) -> list[Table | str]:
    """All that is printed of a frame of `hip-ext frequencies`."""
    title = f"{place}: {one['formula']}, {one['atoms']} atoms; frequencies, cm⁻¹"
    lines: list[Table | str] = [title, frequency_rows(one, range(len(one["frequencies"]))), energies(one)]
    if one["kind"] == "not stationary":
        lines.append(
            f"note: the largest force is {one['largest_force']:.3f} eV/Å, this is not a stationary point "
            f"(limit {one['force_limit']:g})"
        )
    else:
        known = "" if one.get("largest_force") is not None else "; forces not known"
        lines.append(f"{one['kind']} (threshold {one['threshold']:g} cm⁻¹{known})")
    lines += _checks(one)
    if one.get("thermochemistry_refused"):
        lines.append(f"no thermochemistry: {one['thermochemistry_refused']}")
    elif one.get("thermochemistry"):
        lines += [_conditions(one), _thermo_rows(one)]
    return lines


def _line(name: str, one: dict[str, Any]) -> str:
    products = f", exact products {one['products']}" if "products" in one else ""
    seconds = f", {one['seconds']:.3f} s" if "seconds" in one else ""
    return f"{name}ZPE {one['zero_point_energy']:.4f} eV, imaginary modes {one['imaginary_modes']}{products}{seconds}"


def _checks(one: dict[str, Any]) -> list[Table | str]:
    """What failed; the residual force has a line of its own."""
    failed = [flag["text"] for flag in one["flags"] if not flag["ok"] and flag["name"] != "residual force"]
    lines: list[Table | str] = [
        f"replaced by the exact Hessian, as the prediction failed: {text}" for text in one.get("replaced", [])
    ]
    lines += [f"check failed: {text}" for text in failed]
    if not failed:
        lines.append(f"checks passed: {', '.join(flag['name'] for flag in one['flags'] if flag['ok']) or 'none made'}")
    return lines


def _conditions(one: dict[str, Any]) -> str:
    group = f"point group {one['point_group']}, " if one["point_group"] else ""
    number = "" if one["symmetry_number"] is None else f"symmetry number {one['symmetry_number']}, "
    left = ", without the imaginary mode" if one["transition_state"] else ""
    return (
        f"thermochemistry: {group}{number}multiplicity {one['multiplicity']}, low modes {one['low_modes']}, "
        f"frequencies × {one['scale']:g}{left}"
    )


def _thermo_rows(one: dict[str, Any]) -> Table:
    rows = table("T, K", "p, Pa", "E, eV", "E + ZPE, eV", "U, eV", "H, eV", "S, meV/K", "G, eV")
    for state in one["thermochemistry"]:
        energies = [state["electronic_energy"], state["electronic_energy"] + state["zero_point_energy"]]
        energies += [state["internal_energy"], state["enthalpy"]]
        rows.add_row(
            f"{state['temperature']:.2f}",
            "–" if state["pressure"] is None else f"{state['pressure']:.6g}",
            *(f"{energy:.5f}" for energy in energies),
            f"{1000 * state['entropy']:.5f}",
            f"{state['gibbs']:.5f}",
        )
    return rows
