"""The sections of a report on the outcomes of `hip_ext.workflows`: relaxations and reactions.

write_report("run.html", "Reactions", [overview(outcomes, REACTION_COLUMNS), *map(reaction_section, outcomes)])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from hip_ext.report.markup import number, wavenumber
from hip_ext.report.parts import EnergyProfile, Flags, Modes, Note, Part, Section, Structure3D, Table
from hip_ext.workflows.outcome import Outcome, Value

RELAXATION_COLUMNS = {"formula": "formula", "steps": "steps", "energy": "energy, eV", "largest_force": "force, eV/Å"}
UNITS = {
    "energy": "eV",
    "start_energy": "eV",
    "largest_force": "eV/Å",
    "imaginary_wavenumber": "cm⁻¹",
    "lowest_frequency": "cm⁻¹",
    "temperature": "K",
}
REACTION_COLUMNS = {
    "imaginary_wavenumber": "imaginary mode, cm⁻¹",
    "forward_barrier": "ΔE‡, eV",
    "forward_gibbs": "ΔG‡, eV",
    "reactant": "from",
    "product": "to",
}


def overview(outcomes: Sequence[Outcome], columns: Mapping[str, str]) -> Table:
    """A row for each outcome.

    Args:
        outcomes: of one workflow.
        columns: their values and what these are called.
    """
    rows = [
        (one.name, one.status, *(_text(key, one.values.get(key)) for key in columns), one.reason) for one in outcomes
    ]
    return Table("All results", ("name", "status", *columns.values(), "note"), rows)


def relaxation_section(outcome: Outcome) -> Section:
    """The relaxed structure, the way to it where it was kept, whether it is a minimum, and the figures."""
    parts: list[Part] = []
    if outcome.frames.get("relaxed"):
        parts.append(Structure3D(outcome.frames["relaxed"], "Relaxed"))
    passed = outcome.frames.get("trajectory", ())
    if len(passed) > 1:
        heights = [float(frame.info["energy"]) for frame in passed]
        labels = ["start", *[""] * (len(passed) - 2), "end"]
        parts.append(EnergyProfile(labels, range(len(passed)), heights, passed, "Relaxation", "step"))
    values = outcome.values
    checks: list[tuple[str, bool | None, str]] = [("relaxed", outcome.status == "done", outcome.reason or "no remarks")]
    if "minimum" in values:
        said = f"{values['imaginary_modes']} imaginary modes by the {values['verified_by']} Hessian"
        checks.append(("minimum", bool(values["minimum"]), said))
    return Section(outcome.name, [*parts, Flags(checks), *_figures(values)])


def reaction_section(outcome: Outcome) -> Section:
    """The saddle with its modes, the path, the barriers, and whether it is what was asked for."""
    frames, values = outcome.frames, outcome.values
    parts: list[Part] = [Flags(_reaction_checks(outcome))]
    if outcome.status == "done" and outcome.reason:
        parts.append(Note(f"Note: {outcome.reason}."))
    path = frames.get("path", ())
    if len(path) > 1:
        along = [float(frame.info["path_coordinate"]) for frame in path]
        heights = [float(frame.info["energy"]) for frame in path]
        parts.append(
            EnergyProfile(_path_labels(along, values), along, heights, path, "Reaction path", "arc length, Å √amu")
        )
    for kind, title in (("saddle", "Modes of the saddle"), ("stopped", "Modes where the search stopped")):
        for atoms in frames.get(kind, ()):
            parts.append(Modes(atoms, atoms.info["frequencies"], _displacements(atoms), None, title))
    if "forward_barrier" in values and values["forward_barrier"] is not None:
        parts += _barriers(values)
    for kind in ("reactant", "product", "guess"):
        for atoms in frames.get(kind, ()):
            parts.append(Structure3D(atoms, kind.capitalize(), [_end_caption(kind, atoms)]))
    return Section(outcome.name, [*parts, *_figures(values, without=("forward_", "reverse_", "wigner"))])


def _reaction_checks(outcome: Outcome) -> list[tuple[str, bool | None, str]]:
    values = outcome.values
    found = values.get("imaginary_wavenumber")
    said = outcome.reason
    if outcome.status == "done" and isinstance(found, float):
        said = f"one imaginary mode, {wavenumber(found)} cm⁻¹, by one exact Hessian"
    checks: list[tuple[str, bool | None, str]] = [("saddle of first order", outcome.status == "done", said)]
    if outcome.status == "done":
        match = str(values.get("match") or "")
        ends = f"{values.get('reactant')} → {values.get('product')}"
        checks.append(("path down both ways", bool(values.get("product")), ends))
        told = f"{match} of the intended ends found" if match else "no ends were given"
        checks.append(("intended ends", match == "both" if match else None, told))
    return checks


def _displacements(atoms: Atoms) -> NDArray[np.float64]:
    """Of the modes that a saddle was kept with, [M, N, 3]; of the one that reacts where there are no others."""
    modes = atoms.arrays.get("modes", atoms.arrays["reacting_mode"])
    return np.asarray(modes.reshape(len(atoms), -1, 3).transpose(1, 0, 2))


def _path_labels(along: Sequence[float], values: Mapping[str, Value]) -> list[str]:
    labels = [""] * len(along)
    labels[0], labels[-1] = str(values.get("reactant") or "start"), str(values.get("product") or "end")
    labels[int(np.abs(along).argmin())] = "saddle"
    return labels


def _barriers(values: Mapping[str, Value]) -> list[Part]:
    """Levels by Gibbs energy, or with zero-point energy where there is no Gibbs energy; and all figures."""
    names = {"barrier": "energy", "barrier_zpe": "energy with zero point", "gibbs": "Gibbs energy"}
    rows, levels = [], list[EnergyProfile]()
    for key, name in names.items():
        forward, reverse = values.get(f"forward_{key}"), values.get(f"reverse_{key}")
        rows.append((name, _text(key, forward), _text(key, reverse)))
        if key != "barrier" and isinstance(forward, float) and isinstance(reverse, float):
            states = [str(values.get("reactant")), "saddle", str(values.get("product"))]
            levels.append(EnergyProfile(states, None, [0.0, forward, forward - reverse], None, name.capitalize()))
    kappa = values.get("wigner")
    for name, factor in (("rate, 1/s", 1.0), ("rate with tunnelling, 1/s", kappa)):
        rates = [values.get(f"{way}_rate") for way in ("forward", "reverse")]
        up, down = (
            f"{rate * factor:.2e}" if isinstance(rate, float) and isinstance(factor, float) else "–" for rate in rates
        )
        rows.append((name, up, down))
    title = f"Barriers in eV, and rates at {values.get('temperature')} K"
    return [*levels[-1:], Table(title, ("", "forward", "reverse"), rows)]


def _end_caption(kind: str, atoms: Atoms) -> str:
    return f"{kind.capitalize()}: {atoms.info.get('molecules') or atoms.get_chemical_formula()}"


def _figures(values: Mapping[str, Value], without: tuple[str, ...] = ()) -> list[Part]:
    rows = [
        (name.replace("_", " "), _text(name, value), UNITS.get(name, ""))
        for name, value in values.items()
        if not name.startswith(without or ("\0",)) and value not in (None, "")
    ]
    return [Table("Figures", ("quantity", "value", "unit"), rows)] if rows else [Note("There are no figures.")]


def _text(name: str, value: Value) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if name.endswith(("wavenumber", "frequency")):
            return wavenumber(value)
        if 1e-3 < abs(value) < 1e6:
            return number(value, 4).rstrip("0").rstrip(".")
        return f"{value:.3g}".replace("-", "−")
    return str(value)
