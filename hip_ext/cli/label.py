"""`hip-ext label`: Hessians of many structures, from any source, into one file to train on."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from hip_ext.errors import ConfigError

NOTHING = 1
"""Exit code where every file could be read and no structure could be labelled."""


def label(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="Structure files that ASE reads, or smiles:FILE.")
    ],
    source: Annotated[
        str,
        typer.Option(
            "--with",
            help="backbone:so3lr, backbone:mace:FILE, pyscf:wb97x/6-31g*, tblite:GFN2-xTB, calculator:emt (any that "
            "ASE knows), or calculator:module:callable.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The store; one that is there is gone on with.")],
    workers: Annotated[int, typer.Option(help="Processes, with one thread each.")] = 1,
    rows: Annotated[
        int | None, typer.Option(help="Only the rows of so many atoms of each structure, drawn at random.")
    ] = None,
    probes: Annotated[int | None, typer.Option(help="Only so many products H·v of each structure.")] = None,
    probe_kind: Annotated[str, typer.Option(help="Along which v: random, low-modes or twists.")] = "random",
    distort: Annotated[
        int | None, typer.Option(help="So many random states in place of each molecule: rattled, stretched, twisted …")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of all that is drawn at random.")] = 0,
    limit: Annotated[int | None, typer.Option(help="At most so many structures.")] = None,
    step: Annotated[float, typer.Option(help="Of finite differences, Å.")] = 0.005,
    grid_level: Annotated[int, typer.Option(help="Of PySCF's integration grid, 0 to 9.")] = 3,
    grid: Annotated[
        str | None, typer.Option(help="Radial and angular points in place of a grid level, e.g. 99,590.")
    ] = None,
    float64: Annotated[bool, typer.Option("--float64", help="A backbone computes in double precision.")] = False,
    batch: Annotated[int, typer.Option(help="Structures that a backbone takes at a time.")] = 16,
    backbone_option: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE for the loader of a backbone, e.g. task=omol; several times.")
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try once more what has failed.")] = False,
    trust_code: Annotated[
        bool, typer.Option("--trust-code", help="Import the module of calculator:module:callable, and run its code.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON on stdout.")] = False,
) -> None:
    """Label structures with Hessians; may be stopped at any time and started again.

    Exits with 1 if there were structures and none could be labelled.
    """
    from functools import partial

    from hip_ext.cli.output import print_json
    from hip_ext.cli.running import reporting, stopped_by_sigterm
    from hip_ext.data.store import HessianStore
    from hip_ext.labelling.run import label_into
    from hip_ext.labelling.sources import Options, open_labeller
    from hip_ext.labelling.tasks import Tasks, Wanted

    options = Options(step, grid_level, _grid(grid), float64, trust_code, batch, _pairs(backbone_option or []))
    tasks = Tasks(files, Wanted(rows, probes, probe_kind), distort, limit, seed)
    make = partial(open_labeller, source, options)
    make()
    command = shlex.join(["hip-ext", *sys.argv[1:]])
    with HessianStore(out, "a") as store, stopped_by_sigterm(), reporting() as report:
        counts = label_into(store, tasks, make, workers, retry_failed, command, report)
        failures = store.failures()
    if as_json:
        print_json({"labelled": counts.labelled, "failed": counts.failed, "skipped": counts.skipped})
    else:
        typer.echo(f"{counts.labelled} labelled, {counts.failed} failed, {counts.skipped} skipped: {out}")
        for key, reason in list(failures.items())[:5] if counts.failed else ():
            typer.echo(f"  {key}: {reason}")
    if counts.failed and not counts.labelled and not counts.skipped:
        raise typer.Exit(NOTHING)


def _grid(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    try:
        radial, angular = map(int, text.split(","))
    except ValueError:
        raise ConfigError(f"--grid {text}: expected radial and angular points such as 99,590") from None
    return radial, angular


def _pairs(texts: list[str]) -> dict[str, Any]:
    """KEY=VALUE, the values as in YAML."""
    import yaml

    pairs = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals and value):
            raise ConfigError(f"--backbone-option {text}: expected KEY=VALUE, such as task=omol")
        try:
            pairs[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"--backbone-option {text}: the value is not YAML") from None
    return pairs
