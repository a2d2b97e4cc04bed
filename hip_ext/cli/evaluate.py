"""`hip-ext evaluate`: models against labels, and against their own backbones."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from hip_ext.cli.making import progress
from hip_ext.cli.options import JsonOption, TrustOption
from hip_ext.cli.output import print_json, print_tables, table
from hip_ext.errors import ConfigError

NOTHING = 1
"""Exit code where everything could be read and no Hessian could be compared."""


class Against(StrEnum):
    """Which Hessians count as exact."""

    data = "data"
    autograd = "autograd"
    both = "both"


def evaluate(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL... DATA",
            help="Checkpoints (folders, names of those that ship, owner/name on the Hub) or NAME:autograd, the exact "
            "Hessian of a checkpoint's backbone or of a backbone like so3lr; then the data, labels or structures.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the results; the same folder goes on with it.")],
    reference: Annotated[
        Against,
        typer.Option(help="data: labels of the data. autograd: each head's own backbone, −∂F/∂x. Different questions."),
    ] = Against.both,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many structures.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Structures of one pass.")] = 8,
    group_by: Annotated[str, typer.Option(help="Key of the records by which results are broken down.")] = "distortion",
    pair_by: Annotated[
        str, typer.Option(help="Key that is equal for structures whose ΔZPE counts; else those of one formula.")
    ] = "pair",
    units: Annotated[
        str | None, typer.Option(help="Of Hessians in files that leave it open (extxyz): eV/A^2 or Hartree/Bohr^2.")
    ] = None,
    trust_units: Annotated[bool, typer.Option("--trust-units", help="Evaluate even if units look wrong.")] = False,
    trust_source: TrustOption = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; by default where the models are.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how good Hessians are: errors, spectra, modes, ZPE, free energy; tables and a page with plots.

    Exits with 1 if nothing could be compared.
    """
    if len(inputs) < 2:
        raise ConfigError(f"at least one model and the data expected, found only {inputs[0]!r}")
    from hip_ext.evaluation.inputs import check_names, check_units, load_contestant, read_data
    from hip_ext.evaluation.lines import Reference
    from hip_ext.evaluation.run import Settings
    from hip_ext.evaluation.run import evaluate as run

    *names, path = inputs
    check_names(names)
    data = read_data(path, limit, units)
    if not trust_units:
        check_units(data, limit)
    references = tuple(r for r in get_args(Reference) if reference.value in (r, "both"))
    settings = Settings(references, group_by, pair_by, limit, batch)
    contestants = [load_contestant(name, trust_source, device) for name in names]
    total = len(data.records) if limit is None else min(limit, len(data.records))
    with progress(total, "Evaluation") as advance:
        summary = run(contestants, data, out, settings, advance)
    compared = any(result["evaluated"] for result in summary["results"])
    if as_json:
        print_json(summary)
    else:
        written = f"written to {out}: summary.md, summary.json, report.html"
        print_tables(*([_overview(summary)] if compared else []), *_problems(summary), written)
    if not compared:
        raise typer.Exit(NOTHING)


def _overview(summary: dict[str, Any]) -> Any:
    from hip_ext.evaluation.tables import sections

    title, header, rows = next(iter(sections(summary)))
    made = table(*header)
    made.title = title
    for row in rows:
        made.add_row(*(cell.replace("[", r"\[") for cell in row))
    return made


def _problems(summary: dict[str, Any]) -> list[str]:
    from hip_ext.evaluation.tables import heading

    return [
        f"{heading(result)}: {count} {what}: {reason}"
        for result in summary["results"]
        for what in ("skipped", "failures")
        for reason, count in result[what].items()
    ]
