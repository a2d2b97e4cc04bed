"""What the commands write and print: result files, written atomically, JSON, and tables.

A `.npz` holds the arrays of frame k under `numbers_k`, `positions_k` and `hessian_k` (and `frequencies_k`), to be read
with `numpy.load(file)` and nothing unpickled; a `.json` one list with a mapping a frame; an `.extxyz` the structures,
with the Hessian row by row in `info["hessian"]`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from hip_ext.errors import ConfigError

if TYPE_CHECKING:
    from ase import Atoms
    from rich.table import Table

FORMATS = (".npz", ".json", ".extxyz")


def check_format(out: Path | None) -> None:
    """Refuses a file that could not be written in the end, before the work begins.

    Raises:
        ConfigError: unknown extension, or there is no such folder.
    """
    if out is None:
        return
    if out.suffix not in FORMATS:
        raise ConfigError(f"--out {out}: unknown extension {out.suffix!r}, expected one of {', '.join(FORMATS)}")
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise ConfigError(f"--out {out}: {'it is a folder' if out.is_dir() else 'its folder does not exist'}")


def write_results(out: Path, frames: Sequence[Atoms], results: Sequence[dict[str, Any]]) -> None:
    """Writes one mapping of plain values and arrays a frame, in the format that the extension names.

    Raises:
        ConfigError: the file cannot be written.
    """
    import numpy as np

    from hip_ext.atomic import atomic_path, write_text

    records = [{"numbers": a.numbers, "positions": a.positions} | r for a, r in zip(frames, results, strict=True)]
    try:
        if out.suffix == ".json":
            cells = [{"cell": a.cell.array, "pbc": a.pbc} for a in frames]
            document = [_plain(record | cell) for record, cell in zip(records, cells, strict=True)]
            write_text(out, json.dumps(document, allow_nan=False) + "\n")
            return
        with atomic_path(out) as path:
            if out.suffix == ".npz":
                arrays = {f"{name}_{k}": np.asarray(v) for k, r in enumerate(records) for name, v in r.items()}
                np.savez(path, allow_pickle=False, **arrays)
            else:
                import ase.io

                ase.io.write(path, [_annotated(a, r) for a, r in zip(frames, results, strict=True)], format="extxyz")
    except OSError as error:
        raise ConfigError(f"cannot write {out}: {error.strerror or error}") from None


def print_json(document: Any) -> None:
    """Prints a value with numpy numbers and arrays in it as JSON on stdout."""
    typer.echo(json.dumps(_plain(document), indent=2, allow_nan=False))


def print_tables(*tables: Table | str) -> None:
    """Prints tables and lines of text on stdout, as wide as they need to be where stdout is not a terminal."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=10_000)  # a width that does not fit would cut cells
    for item in tables:
        console.print(item)


def one_line(text: str) -> str:
    """Text from a file, so that it cannot pass for lines of ours: without line breaks, control and bidi characters."""
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))


def table(*columns: str) -> Table:
    """An empty table; all columns but the first are numbers, on the right."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD)
    for index, name in enumerate(columns):
        made.add_column(name, justify="right" if index else "left", no_wrap=True)
    return made


def _annotated(atoms: Atoms, result: dict[str, Any]) -> Atoms:
    import numpy as np

    copy = atoms.copy()
    copy.info.update({k: v.ravel() if isinstance(v, np.ndarray) else v for k, v in result.items() if v is not None})
    return copy


def _plain(value: Any) -> Any:
    """The value with lists in place of arrays."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value
