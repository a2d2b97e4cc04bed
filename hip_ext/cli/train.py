"""`hip-ext train`: teach a head, and a backbone if asked for, from labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

COLUMNS = ("structures", "hessian_mae", "frequency_mae")

SMOKE = {"steps": 20, "evaluate_every": 10, "save_every": None}
"""What a smoke run changes in `run`."""


def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="Data, backbone, head, losses, run.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder of the run; the same folder goes on with it. Default: runs/CONFIG."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use the first so many records only.")] = None,
    smoke: Annotated[bool, typer.Option("--smoke", help="20 steps on 64 records, in a folder of its own.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")] = False,
) -> None:
    """Teach a head from stored labels; may be stopped, or killed, and started again."""
    from hip_ext.cli.progress import progress_bars, stages_in
    from hip_ext.training.run import Stopped, is_first_process, silent
    from hip_ext.training.run import train as run
    from hip_ext.training.settings import TrainingConfig

    settings = TrainingConfig.from_yaml(config)
    if smoke:
        settings = settings.changed({"run": SMOKE, "data": {"limit": limit or 64}})
    elif limit is not None:
        settings = settings.changed({"data": {"limit": limit}})
    folder = out or Path("runs") / (config.stem + ("-smoke" if smoke else ""))
    try:
        if not is_first_process():
            run(settings, folder, stages=silent)
            return
        with progress_bars() as bars:
            result = run(settings, folder, stages=stages_in(bars))
    except Stopped as stop:
        if is_first_process():
            typer.echo(f"hip-ext: stopped; the same command goes on with {folder}", err=True)
        raise typer.Exit(int(stop.code or 0)) from None
    for number, reason in list(result.skipped.items())[:5]:
        typer.echo(f"hip-ext: warning: record {number} was left out: {reason}", err=True)
    if len(result.skipped) > 5:
        typer.echo(f"hip-ext: warning: {len(result.skipped)} records were left out in all", err=True)
    if as_json:
        typer.echo(json.dumps({"checkpoint": str(result.checkpoint), "held_out": result.metrics}))
        return
    _print(result.metrics, result.curve[-1])
    typer.echo(f"checkpoint: {result.checkpoint}")


def _print(metrics: dict[str, Any], last: dict[str, float]) -> None:
    from hip_ext.cli.output import print_tables, table

    shown = table("validation data", "structures", "Hessian MAE eV/Å²", "frequencies cm⁻¹")
    for group, values in metrics.items():
        if all(name in values for name in COLUMNS):
            shown.add_row(group, *(f"{values[name]:.4g}" for name in COLUMNS))
    lines = [f"{name.replace('_', ' ')}: {value:.4g}" for name, value in last.items() if name.startswith("held_out")]
    print_tables(*([shown] if shown.rows else []), *lines)
