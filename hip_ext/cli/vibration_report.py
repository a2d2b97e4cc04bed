"""The report of `hip-ext frequencies`: a section for each frame."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hip_ext.cli.reporting import name_of, write_page

if TYPE_CHECKING:
    from hip_ext.cli.vibrating import Frame
    from hip_ext.report import Part, Provenance, Table


def report(path: Path, file: Path, frames: Sequence[Frame], made_by: Provenance) -> None:
    """Writes the page.

    Args:
        path: where to.
        file: that the frames came from.
        frames: what was found, in the order of the file.
        made_by: where it comes from.
    """
    from hip_ext.report import Section

    atoms = [frame.vibrations.atoms for frame in frames]
    sections = [Section(name_of(atoms, index), _parts(frame)) for index, frame in enumerate(frames)]
    title = f"Vibrations of {atoms[0].get_chemical_formula() if len(frames) == 1 else file.name}"
    write_page(path, title, sections, made_by)


def _parts(frame: Frame) -> list[Part]:
    from hip_ext.report import Note
    from hip_ext.report.vibrations import vibration_parts
    from hip_ext.vibrations import Flag, ThermoState

    one = frame.values
    flags = [Flag(**flag) for flag in one["flags"]]
    states = [ThermoState(**state) for state in one.get("thermochemistry", [])]
    parts = vibration_parts(frame.vibrations, frame.hessian, flags, states, threshold=one["threshold"])
    said = [f"The exact Hessian is shown, for the prediction failed: {text}." for text in one.get("replaced", [])]
    if "products" in one:
        said.append(f"Exact products that refined the prediction: {one['products']}.")
    if one.get("thermochemistry_refused"):
        said.append(f"No thermochemistry: {one['thermochemistry_refused']}.")
    if one.get("scale", 1.0) != 1.0:
        said.append(f"Frequencies are scaled by {one['scale']:g}.")
    notes: list[Part] = [Note(text) for text in said]
    return [*notes, *parts, *([_comparison(one)] if "exact_frequencies" in one else [])]


def _comparison(one: dict[str, Any]) -> Table:
    from hip_ext.report import Table
    from hip_ext.report.markup import number, wavenumber

    pairs = zip(one["frequencies"].tolist(), one["exact_frequencies"].tolist(), strict=True)
    rows = [(k + 1, wavenumber(a), wavenumber(b), number(a - b, 1)) for k, (a, b) in enumerate(pairs)]
    return Table("Predicted and exact, cm⁻¹", ("mode", "predicted", "exact", "difference"), rows)
