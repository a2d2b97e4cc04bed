"""`hip-ext models`: which heads and base models there are, and what is known about each."""

from __future__ import annotations

import sys
from dataclasses import asdict
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Annotated

import typer

from hip_ext.cli.options import JsonOption
from hip_ext.cli.output import one_line, print_json, print_tables, table

if TYPE_CHECKING:
    from hip_ext.catalogue.listing import Model

models = typer.Typer(invoke_without_command=True, help="List the catalogue: heads, and the base models of frameworks.")

FEW = 10
"""Elements that are written out in the list."""

COLUMNS = "model", "kind", "backbone", "elements", "level of theory", "licence", "MB", "Hessian MAE, eV/Å²", "ms"
ESSENTIAL = "model", "kind", "backbone", "Hessian MAE, eV/Å²"
"""What a terminal of 80 columns has room for; nothing is cut."""
WIDE = 150


@models.callback()
def listing(
    context: typer.Context,
    backbone: Annotated[str | None, typer.Option(help="Only those of this backbone, such as so3lr.")] = None,
    element: Annotated[list[str] | None, typer.Option(help="Only those that know it; may be given often.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only these: shipped, hub, own or base.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List heads that ship, lie on the Hub or in your own catalogue (HIP_EXT_REGISTRY), and base models."""
    if context.invoked_subcommand is not None:
        return
    from rich.markup import escape

    from hip_ext.catalogue.listing import models as find

    found = find(backbone, element or (), kind)
    if as_json:
        print_json([asdict(one) for one in found])
        return
    narrow = _narrow()
    columns = [column for column in COLUMNS if column in ESSENTIAL or not narrow]
    rows = table(*columns)
    for title, column in zip(columns, rows.columns, strict=True):
        column.justify = "right" if title in ("MB", "Hessian MAE, eV/Å²", "ms") else "left"
        column.no_wrap = title not in ("elements", "level of theory")
    for one in found:
        size = f"{one.bytes / 1e6:.1f}" if one.bytes else ""
        errors = _range([m.get("hessian_mae") for m in one.metrics.values()])
        named = one.name, one.kind, one.backbone, _elements(one, FEW), one.level, one.licence, size, errors, _time(one)
        cells = dict(zip(COLUMNS, map(one_line, named), strict=True))
        rows.add_row(*(escape(cells[column]) for column in columns))
    more = "a wider terminal and hip-ext models show NAME say" if narrow else "hip-ext models show NAME says"
    print_tables(rows, f"{len(found)} models; {more} more")


@models.command()
def show(name: Annotated[str, typer.Argument(help="as in the list")], as_json: JsonOption = False) -> None:
    """Say all that the catalogue has about one model."""
    from hip_ext.catalogue.listing import model_named

    one = model_named(name)
    if as_json:
        print_json(asdict(one))
        return
    lines = {
        "name": f"{one.name} ({one.kind})",
        "for": one.title,
        "backbone": f"{one.backbone} {one.base!r}",
        "obtain": one.obtain,
        "elements": _elements(one, 118),
        "level": one.level,
        "licence": _licence(one),
        "from": one.place or "the loader of its framework",
        "size": f"{one.bytes / 1e6:.2f} MB" if one.bytes else "",
        "cutoff": f"{one.cutoff:g} Å" if one.cutoff else "",
    }
    lines |= {f"errors: {group}": _figures(values) for group, values in one.metrics.items()}
    lines |= {f"ms: {size}": f"{value:g}" for size, value in one.milliseconds.items()}
    width = max(map(len, lines))
    for title, text in lines.items():
        if text:
            typer.echo(f"{one_line(title):<{width}}  {one_line(text)}")


def _narrow() -> bool:
    return sys.stdout.isatty() and get_terminal_size().columns < WIDE


def _elements(one: Model, most: int) -> str:
    from ase.data import chemical_symbols

    if len(one.elements) > most:
        return f"{len(one.elements)} elements"
    return " ".join(chemical_symbols[z] for z in one.elements)


def _licence(one: Model) -> str:
    from hip_ext.catalogue import licences

    known = licences().get(one.licence)
    return f"{one.licence}: {known.title}, {known.notice}, {known.url}" if known else one.licence


def _figures(values: dict[str, float]) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {value:.4g}" for key, value in values.items())


def _range(values: list[float | None]) -> str:
    known = sorted(value for value in values if value is not None)
    if not known:
        return ""
    return f"{known[0]:.2g}" if len(known) == 1 else f"{known[0]:.2g} to {known[-1]:.2g}"


def _time(one: Model) -> str:
    times = list(one.milliseconds.items())
    return f"{times[-1][1]:g} ({times[-1][0]})" if times else ""
