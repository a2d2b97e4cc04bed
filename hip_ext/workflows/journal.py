"""Outcomes on disk: one line each in `outcomes.jsonl`, written before the next is waited for.

A folder holds `settings.json`, what all its results depend on; `outcomes.jsonl`, the outcomes in the order in which
they were found, with their structures to the last bit, as ASE's JSON; and `results.csv`, the table made of them. JSON
lines keep types, are appended to without touching what is there, and lose no more than their last line to a crash;
Parquet can do neither and needs a library. CSV is for everybody's spreadsheet.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.jsonio import decode, encode
from filelock import FileLock, Timeout

from hip_ext.atomic import write_text
from hip_ext.errors import ConfigError, DataError
from hip_ext.workflows.outcome import Outcome, Value

SETTINGS, OUTCOMES, TABLE, LOCK = "settings.json", "outcomes.jsonl", "results.csv", ".lock"


class Known(NamedTuple):
    """What a journal remembers of a finished task: its status and the hash of its structures."""

    status: str
    digest: str


class Journal:
    """The outcomes of one run in a folder; see `open_journal`.

    Attributes:
        folder: where they are.
        known: finished tasks by name; the last outcome counts.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.known: dict[str, Known] = {}
        self._path = folder / OUTCOMES
        self._drop_torn_line()
        for line in _lines(self._path):
            self.known[line["name"]] = Known(line["status"], line["digest"])

    def append(self, outcome: Outcome, digest: str) -> None:
        """Writes an outcome; when this returns, it is on the disk.

        Raises:
            DataError: it cannot be written.
        """
        document = {
            "name": outcome.name,
            "status": outcome.status,
            "reason": outcome.reason,
            "digest": digest,
            "values": {name: _plain(value) for name, value in outcome.values.items()},
            "frames": encode({name: [_packed(atoms) for atoms in frames] for name, frames in outcome.frames.items()}),
        }
        line = json.dumps(document, allow_nan=False) + "\n"
        try:
            with self._path.open("ab") as file:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise DataError(f"cannot write {self._path}: {error.strerror or error}") from None
        self.known[outcome.name] = Known(outcome.status, digest)

    def _drop_torn_line(self) -> None:
        """Cuts off a last line that a crash has left unfinished."""
        if not self._path.exists():
            return
        with self._path.open("rb+") as file:
            end = file.seek(0, os.SEEK_END)
            kept = end
            while kept:
                start = max(0, kept - 65536)
                file.seek(start)
                newline = file.read(kept - start).rfind(b"\n")
                if newline >= 0:
                    kept = start + newline + 1
                    break
                kept = start
            if kept < end:
                file.truncate(kept)


@contextmanager
def open_journal(folder: str | Path, settings: Mapping[str, Any]) -> Iterator[Journal]:
    """The journal of a folder: new, or that of an earlier run with the same settings.

    Raises:
        ConfigError: the folder holds something else, results of other settings, or another run is at work in it.
        DataError: it is damaged, or cannot be written.
    """
    folder = Path(folder)
    stated = json.loads(json.dumps(dict(settings)))  # as it comes back from the file: lists in place of tuples
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        lock.acquire(blocking=False)
    except Timeout:
        raise ConfigError(f"another run is at work in {folder}: wait for its end, or use another folder") from None
    except OSError as error:
        raise ConfigError(f"{folder} cannot be used: {error.strerror or error}") from None
    try:
        _agree(folder, stated)
        yield Journal(folder)
    finally:
        lock.release()


def read_outcomes(folder: str | Path) -> Iterator[Outcome]:
    """All outcomes of a folder, in the order in which they were found; of a task that was tried again, the last one.

    Raises:
        DataError: there is none, or it is damaged.
    """
    path = Path(folder) / OUTCOMES
    if not path.is_file():
        raise DataError(f"{folder} has no {OUTCOMES}: it is not the folder of a run")
    last = {line["name"]: number for number, line in enumerate(_lines(path))}
    for number, line in enumerate(_lines(path)):
        if last[line["name"]] == number:
            frames = {name: tuple(map(_unpacked, found)) for name, found in decode(line["frames"]).items()}
            yield Outcome(line["name"], line["status"], line["reason"], line["values"], frames)


def write_table(folder: str | Path, order: Sequence[str]) -> None:
    """Writes `results.csv` atomically: a row a task, in the given order of names, and those of no name after them.

    Raises:
        DataError: it cannot be written.
    """
    rows: dict[str, dict[str, Value]] = {}
    for found in read_outcomes(folder):
        rows[found.name] = {"name": found.name, "status": found.status, "reason": found.reason, **found.values}
    columns: dict[str, None] = dict.fromkeys(name for row in rows.values() for name in row)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    known = [name for name in order if name in rows]
    writer.writerows(rows[name] for name in dict.fromkeys([*known, *rows]))
    try:
        write_text(Path(folder) / TABLE, text.getvalue())
    except OSError as error:
        raise DataError(f"cannot write {Path(folder) / TABLE}: {error.strerror or error}") from None


def _agree(folder: Path, settings: dict[str, Any]) -> None:
    path = folder / SETTINGS
    if not path.exists():
        if others := sorted(p.name for p in folder.iterdir() if not p.name.startswith(".")):
            raise ConfigError(f"{folder} holds something else ({others[0]}): use a new folder")
        write_text(path, json.dumps(settings, indent=2) + "\n")
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        names = sorted({*before, *settings})
    except (OSError, ValueError, TypeError):
        raise DataError(f"{path} is damaged: use a new folder") from None
    for name in names:
        if before.get(name) != settings.get(name):
            raise ConfigError(
                f"{folder} has results of {name} = {before.get(name)}, now it is {settings.get(name)}: "
                "go on with the same options, or use another folder"
            )


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for number, text in enumerate(file, 1):
            try:
                line = json.loads(text)
                line["name"], line["status"], line["digest"], line["frames"], line["values"], line["reason"]
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"line {number} of {path} is damaged ({type(error).__name__}): remove it") from None
            yield line


def _packed(atoms: Atoms) -> dict[str, Any]:
    """A structure, and what its calculator has found for it, which ASE's JSON leaves out."""
    results = {} if atoms.calc is None or atoms.calc.check_state(atoms) else atoms.calc.results
    return {"atoms": atoms, "results": {name: results[name] for name in ("energy", "forces") if name in results}}


def _unpacked(packed: dict[str, Any]) -> Atoms:
    atoms: Atoms = packed["atoms"]
    if packed["results"]:
        atoms.calc = SinglePointCalculator(atoms, **packed["results"])
    return atoms


def _plain(value: Any) -> Value:
    """A number of numpy as Python's own; None in place of what is not finite."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
