"""`hip-ext phonons`: the phonon bands of a crystal from one direct Hessian of its primitive cell."""

from __future__ import annotations

import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hip_ext.cli.options import DEFAULT_MODEL, JsonOption, ModelOption, TrustOption
from hip_ext.cli.reporting import ReportOption, check_page, provenance
from hip_ext.errors import ConfigError, StructureError

if TYPE_CHECKING:
    from ase import Atoms
    from ase.dft.kpoints import BandPath

    from hip_ext.model import HessianModel

FORMATS = (".npz", ".json")
STATIONARY = 0.05
"""eV/Å: beyond this largest force a reader is told that the structure is not at rest."""


class Displacements(StrEnum):
    """What the bands can be compared with."""

    displacements = "displacements"


def phonons(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="One periodic structure, best a primitive cell at rest.")
    ],
    model: ModelOption = DEFAULT_MODEL,
    trust_source: TrustOption = False,
    path: Annotated[
        str | None, typer.Option(help="Special points such as GXWKGL, a comma for a jump; by default ASE's proposal.")
    ] = None,
    points: Annotated[int, typer.Option(min=2, max=100_000, help="Wave vectors along the path.")] = 200,
    dos: Annotated[bool, typer.Option("--dos", help="Also make the density of states.")] = False,
    compare: Annotated[
        Displacements | None, typer.Option(help="Also the bands of the backbone's forces, by phonopy.")
    ] = None,
    width: Annotated[float, typer.Option(min=1.0, max=100.0, help="Å across the supercell of --compare.")] = 10.0,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the bands: .npz or .json.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the bands: .png, .pdf or .svg.")] = None,
    report: ReportOption = None,
    as_json: JsonOption = False,
) -> None:
    """Phonon bands (cm⁻¹) of a crystal from one Hessian of its primitive cell, without a supercell.

    In JSON and in files an imaginary wavenumber is a negative number.
    """
    from hip_ext.cli.figure import check_figure
    from hip_ext.cli.inputs import load_model, named, read_frames, untaught
    from hip_ext.cli.output import check_format, print_json, print_tables, write_results

    if out is not None and out.suffix not in FORMATS:
        raise ConfigError(f"--out {out}: unknown extension {out.suffix!r}, expected one of {', '.join(FORMATS)}")
    check_format(out)
    if plot is not None:
        check_figure(plot)
    check_page(report)
    frames = read_frames(file)
    if len(frames) != 1:
        raise StructureError(f"{file}: phonons are those of one structure, found {len(frames)}")
    (atoms,) = frames
    with named(file, 0, 1):
        line = _path(atoms, path, points)
        loaded = load_model(model, trust_source)
        note = untaught(loaded, frames)
        if note:
            print(f"hip-ext: warning: {note}", file=sys.stderr)
        found = bands(loaded, atoms, line, dos, width if compare else None)
    arrays, labels = found.pop("arrays"), found.pop("labels")
    if out is not None:
        write_results(out, [atoms], [arrays | {"labels": labels, "path": line.path}])
    if plot is not None:
        from hip_ext.cli.phonon_figure import draw

        draw(plot, arrays, labels, f"{found['formula']}, {model}")
    if report is not None:
        from hip_ext.cli import phonon_report

        phonon_report.report(report, atoms, found | {"labels": labels}, arrays, provenance(file, model))
    if as_json:
        print_json(found)
    else:
        print_tables(*_tables(found, str(file)), *(f"written to {to}" for to in (out, plot, report) if to is not None))


def bands(model: HessianModel, atoms: Atoms, path: BandPath, dos: bool, width: float | None) -> dict[str, Any]:
    """What is said about the phonons of a crystal: cm⁻¹, eV/Å, seconds; and `arrays` and `labels` for files.

    Args:
        model: backbone and head.
        atoms: N atoms.
        path: Q wave vectors.
        dos: whether to make the density of states.
        width: Å of the supercell of finite displacements; None to leave them out.
    """
    import numpy as np

    from hip_ext.phonons import density_of_states, phonon_wavenumbers

    structures, masses = model.structures(atoms), atoms.get_masses()
    force = float(model.backbone.evaluate(structures).forces.norm(dim=1).max())
    model.hessian(structures)  # the first pass of a process also pays for what torch loads late
    start = time.perf_counter()
    blocks = model.hessian(structures)
    lines = phonon_wavenumbers(blocks, masses, path.kpts)
    seconds = time.perf_counter() - start
    distance, places, labels = path.get_linear_kpoint_axis()
    # In the order of the path, where a point may come again.
    named = {label: path.special_points[label] for label in labels if label in path.special_points}
    arrays = {"kpoints": path.kpts, "distance": distance, "label_distance": places, "wavenumbers": lines}
    found: dict[str, Any] = {
        "formula": atoms.get_chemical_formula(),
        "atoms": len(atoms),
        "path": path.path,
        "special_points": dict(zip(named, phonon_wavenumbers(blocks, masses, list(named.values())), strict=True)),
        "lowest": float(lines.min()),
        "highest": float(lines.max()),
        "largest_force": force,
        "seconds": seconds,
        "arrays": arrays,
        "labels": list(labels),
    }
    if dos:
        arrays["dos_wavenumbers"], arrays["dos"] = density_of_states(blocks, atoms)
    if width is not None:
        from hip_ext.displacements import displaced_phonons

        start = time.perf_counter()
        displaced = displaced_phonons(model.backbone.calculator(), atoms, path.kpts, width)
        arrays["displaced_wavenumbers"] = displaced.wavenumbers
        errors = np.abs(lines - displaced.wavenumbers)
        found |= {
            "band_mae": float(errors.mean()),
            "band_largest_error": float(errors.max()),
            "supercell": list(displaced.supercell),
            "displacements": displaced.displacements,
            "displaced_seconds": time.perf_counter() - start,
        }
    return found


def _path(atoms: Atoms, names: str | None, points: int) -> BandPath:
    """The wave vectors, before a model is loaded for them."""
    from hip_ext.phonons import band_path

    return band_path(atoms, names, points)


def _tables(found: dict[str, Any], file: str) -> list[Any]:
    from hip_ext.cli.output import table
    from hip_ext.cli.vibration_text import wavenumber

    rows = table("point", *(str(band + 1) for band in range(min(3 * found["atoms"], 12))))
    for label, lines in found["special_points"].items():
        rows.add_row(label, *(wavenumber(float(value)) for value in lines[:12]))
    said: list[Any] = [f"{file}: {found['formula']}, phonons along {found['path']}, cm⁻¹", rows]
    said.append(f"from {found['lowest']:.1f} to {found['highest']:.1f} cm⁻¹, {found['seconds']:.3f} s")
    if "band_mae" in found:
        size = "×".join(map(str, found["supercell"]))
        said.append(
            f"finite displacements ({found['displacements']} in {size} cells): MAE {found['band_mae']:.2f}, largest "
            f"error {found['band_largest_error']:.1f} cm⁻¹; {found['displaced_seconds']:.2f} s, "
            f"{found['displaced_seconds'] / found['seconds']:.0f}× as long"
        )
    if found["largest_force"] > STATIONARY:
        said.append(f"note: the largest force is {found['largest_force']:.3f} eV/Å, this is not a structure at rest")
    return said
