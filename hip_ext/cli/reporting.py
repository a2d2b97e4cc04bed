"""`--report` of the commands: its option, and where a result comes from."""

from __future__ import annotations

import platform
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hip_ext.report import Provenance

ReportOption = Annotated[
    Path | None,
    typer.Option("--report", metavar="FILE.html", help="Write a page to look at: 3D view, spectra, maps, tables."),
]


def provenance(file: Path, model: str, method: str = "direct", **more: object) -> Provenance:
    """What somebody needs to make a result again: the command, the model and the versions.

    Args:
        file: that the structures came from.
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
            "structures": file,
            "model": model,
            "Hessian": method,
            **more,
            "command": shlex.join(["hip-ext", *sys.argv[1:]]),
            "hip-ext": version(),
            "with": f"{versions}, Python {platform.python_version()}",
            "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        }
    )
