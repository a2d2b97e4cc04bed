"""`hip-ext checkpoint inspect|verify|convert`: what a checkpoint is, whether it is whole, and the same one anew."""

from __future__ import annotations

import warnings
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hip_ext.cli.options import JsonOption, TrustOption
from hip_ext.cli.output import one_line, print_json

if TYPE_CHECKING:
    from hip_ext.checkpoint import CheckpointConfig

checkpoint = typer.Typer(no_args_is_help=True, help="Look at a checkpoint, verify it, or write it anew.")

NameArgument = Annotated[
    str, typer.Argument(help="folder, name of a checkpoint that ships, or owner/name[@revision] on the Hub")
]


class Dtype(StrEnum):
    """Precision of the weights."""

    float32 = "float32"
    float64 = "float64"


@checkpoint.command()
def inspect(name: NameArgument, as_json: JsonOption = False) -> None:
    """Say what a checkpoint is; neither its tensors nor any framework are loaded."""
    from hip_ext.checkpoint import read_config
    from hip_ext.checkpoint.finding import find_checkpoint

    folder = find_checkpoint(name)
    config = read_config(folder)
    if as_json:
        print_json({"folder": str(folder), "bytes": _bytes(folder), "config": config.model_dump()})
        return
    for title, text in _lines(folder, config).items():
        typer.echo(f"{one_line(title):<12} {one_line(text)}")


@checkpoint.command()
def verify(
    name: NameArgument,
    trust_source: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Read all of a checkpoint, strictly; with its framework installed also predict a Hessian and check its rules."""
    from dataclasses import asdict

    from hip_ext.checkpoint.finding import find_checkpoint
    from hip_ext.checkpoint.verification import verify as run

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of frameworks, about themselves
        found = run(find_checkpoint(name), trust_source)
    if as_json:
        print_json(asdict(found))
        return
    for line in found.checks:
        typer.echo(f"ok       {one_line(line)}")
    if found.skipped:
        typer.echo(f"skipped  {found.skipped}")


@checkpoint.command()
def convert(
    name: NameArgument,
    out: Annotated[Path, typer.Argument(help="folder to write; may be the same, which is then replaced as a whole")],
    dtype: Annotated[Dtype | None, typer.Option(help="precision; by default as it is")] = None,
) -> None:
    """Write a checkpoint anew in the present schema, with a new card; the weights stay the same to the last bit."""
    from hip_ext.checkpoint.conversion import convert as run
    from hip_ext.checkpoint.finding import find_checkpoint

    config = run(find_checkpoint(name), out, dtype.value if dtype else None)
    typer.echo(f"{out}: schema {config.schema_version}, {config.dtype}")


def _lines(folder: Path, config: CheckpointConfig) -> dict[str, str]:
    from ase.data import chemical_symbols

    backbone, head = config.backbone, config.head
    tuned = backbone.tuned
    lines = {
        "folder": f"{folder} ({_bytes(folder) / 1e6:.2f} MB)",
        "made with": f"hip-ext {config.hip_ext_version}, {config.dtype}, licence {config.license}",
        "backbone": f"{backbone.kind} {backbone.name!r} ({backbone.revision or backbone.source})",
        "fingerprint": backbone.fingerprint,
        "features": f"{'/'.join(map(str, backbone.features.widths))} of degree 0/1/2, {backbone.features.parity}",
        "tuned": f"{'whole' if tuned.whole else tuned.tensors} → {tuned.fingerprint}" if tuned else "",
        "head": f"{head.layers} layers of {head.scalars}+{head.channels}, reach {2 * head.cutoff:g} Å",
        "elements": ", ".join(chemical_symbols[z] for z in config.elements) or "none: untrained",
    }
    for title, values in {"options": backbone.options, "training": config.training, "metrics": config.metrics}.items():
        for key, value in values.items():
            lines[f"{title}: {key}"] = _plain(value)
    return {title: text for title, text in lines.items() if text}


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(one)}" for key, one in value.items())
    return f"{value:.4g}" if isinstance(value, float) else " ".join(str(value).split())


def _bytes(folder: Path) -> int:
    from hip_ext.checkpoint.writing import FILES

    return sum((folder / name).stat().st_size for name in FILES if (folder / name).is_file())
