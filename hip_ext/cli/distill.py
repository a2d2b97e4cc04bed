"""`hip-ext distill`: teach a head the Hessian of the backbone that it sits on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

COLUMNS = {
    "structures": "structures",
    "hessian_mae": "MAE eV/Å²",
    "mae_over_mean_abs": "MAE / mean |H|",
    "mode_overlap_median": "lowest mode (median)",
    "negative_agreement": "negative modes right",
    "frequency_mae": "frequencies cm⁻¹",
    "zpe_error_median": "ZPE (median)",
}


def distill(
    structures: Annotated[
        list[str], typer.Option(help="a file that ASE reads, or smiles:FILE; may be given several times")
    ],
    out: Annotated[Path, typer.Option(help="folder of the run; the same folder goes on with it")],
    recipe: Annotated[Path | None, typer.Option(help="YAML with backbone, labels, head and train settings")] = None,
    held_out: Annotated[
        list[str] | None, typer.Option(help="structures to evaluate on; by default some scaffolds are set aside")
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="registry name, e.g. so3lr; overrides the recipe")] = None,
    source: Annotated[str | None, typer.Option(help="which model of that kind; overrides the recipe")] = None,
    steps: Annotated[int | None, typer.Option(help="optimiser steps; overrides the recipe")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="learn from the first so many structures only")] = None,
    labels_only: Annotated[bool, typer.Option("--labels-only", help="stop before training")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the metrics as JSON")] = False,
) -> None:
    """Teach a head from the backbone's own exact derivatives; may be stopped and started again."""
    from hip_ext.cli.progress import progress_bars, stages_in
    from hip_ext.training.config import DistillConfig
    from hip_ext.training.distill import distill as run
    from hip_ext.training.distill import label_structures
    from hip_ext.training.sources import read_sources

    config = DistillConfig.from_yaml(recipe) if recipe else DistillConfig()
    changes: dict[str, Any] = {"backbone": backbone, "source": source}
    config = config.model_copy(update={name: value for name, value in changes.items() if value is not None})
    if steps is not None:
        config = config.model_copy(update={"train": config.train.model_copy(update={"steps": steps})})
    train, test = read_sources(structures)[:limit], read_sources(held_out) if held_out else None
    with progress_bars() as bars:
        if labels_only:
            stores = label_structures(config, train, out, test, progress=stages_in(bars))
        else:
            result = run(config, train, out, test, progress=stages_in(bars))
    if labels_only:
        counts = {str(store.path): len(store) for store in stores}
        typer.echo(json.dumps(counts) if as_json else "\n".join(f"{n} records: {path}" for path, n in counts.items()))
        return
    if as_json:
        typer.echo(json.dumps({"checkpoint": str(result.checkpoint), "held_out": result.metrics}))
        return
    table = Table(title="Held-out molecules, against the backbone's exact Hessian")
    table.add_column("made by")
    for title in COLUMNS.values():
        table.add_column(title, justify="right")
    for group, values in result.metrics.items():
        table.add_row(group, *(f"{values[name]:.4g}" for name in COLUMNS))
    Console().print(table)
    Console().print(f"checkpoint: {result.checkpoint}")
