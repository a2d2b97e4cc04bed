"""`--report` of the commands: its option, one section a structure, and where a result comes from."""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ase import Atoms

    from hip_ext.report import Part, Provenance, Section

MOST_STRUCTURES = 50
"""Structures in one report: a page of a few megabytes."""

ReportOption = Annotated[
    Path | None,
    typer.Option("--report", metavar="FILE.html", help="Write a page to look at: 3D view, spectra, maps, tables."),
]


def check_page(path: Path | None) -> None:
    """Refuses a report that could not be written in the end, before the work begins.

    Raises:
        ConfigError: not an HTML file, or there is no such folder.
    """
    if path is not None:
        from hip_ext.report import check_report

        check_report(path)


def write_page(
    path: Path, title: str, sections: Sequence[Section], made_by: Provenance, lead: Sequence[Part] = ()
) -> None:
    """Writes a report of several structures, or of the first of very many.

    Args:
        path: where to.
        title: of the page.
        sections: one for each structure.
        made_by: at the end.
        lead: before the sections.

    Raises:
        ConfigError: the file cannot be written.
    """
    from hip_ext.report import Note, Section, write_report

    shown: list[Part | Section] = [*lead]
    if len(sections) > MOST_STRUCTURES:
        shown.append(Note(f"The first {MOST_STRUCTURES} of {len(sections)} structures are shown."))
    shown += sections[:MOST_STRUCTURES]
    if len(sections) > 1:
        made_by_section = Section("Provenance", [type(made_by)(made_by.values, title="")])
        write_report(path, title, [*shown, made_by_section])
    else:
        write_report(path, title, [*lead, Section("", [*sections[0].parts, made_by])])


def name_of(frames: Sequence[Atoms], index: int) -> str:
    """What the section of a frame is called: its formula, and its number where there are several."""
    formula = str(frames[index].get_chemical_formula())
    return formula if len(frames) == 1 else f"{index}: {formula}"


def provenance(structures: object, model: str, method: str = "direct", **more: object) -> Provenance:
    """What somebody needs to make a result again: the command, the model and the versions.

    Args:
        structures: the file that they came from, or several.
        model: as it was named.
        method: of the Hessian.
        more: names and values that belong to one command.
    """
    from importlib import metadata

    from hip_ext.report import Provenance
    from hip_ext.version import version

    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "ase", "numpy"))
    return Provenance(
        {
            "structures": structures,
            "model": model,
            "Hessian": method,
            **more,
            "command": shlex.join(["hip-ext", *sys.argv[1:]]),
            "hip-ext": version(),
            "with": f"{versions}, Python {platform.python_version()}",
            "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        }
    )
