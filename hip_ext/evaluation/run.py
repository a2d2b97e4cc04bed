"""An evaluation: every model on every structure, each result written down before the next is made.

The folder of a run holds

    run.json          what is evaluated on what; a folder of something else is refused
    results.jsonl     one line a structure, model and reference
    structures.csv    the same as a table             } written at the end,
    summary.json, summary.md, report.html             } from the lines alone

so that a run that was killed goes on where it stopped, and ends with the same files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from packaging.requirements import Requirement

from hip_ext.atomic import write_text
from hip_ext.backbones.frameworks import installed_version
from hip_ext.errors import ConfigError, DataError
from hip_ext.evaluation.inputs import Contestant, Data, check_names
from hip_ext.evaluation.lines import Line, Reference, lines_of
from hip_ext.evaluation.summary import FORMAT, summary
from hip_ext.evaluation.tables import write_tables

RUN, RESULTS = "run.json", "results.jsonl"


@dataclass(frozen=True)
class Settings:
    """What is asked of an evaluation.

    Attributes:
        references: "data" compares with the Hessians of the data, "autograd" each head with its own backbone.
        group_by: key of the records' `info` by which the results are also broken down.
        pair_by: key of the records' `info` that is equal for structures whose ZPEs are subtracted; where no record
            has it, successive structures of one formula and charge are paired.
        limit: only the first so many records.
        batch: structures of one pass.
    """

    references: tuple[Reference, ...] = ("data", "autograd")
    group_by: str = "distortion"
    pair_by: str = "pair"
    limit: int | None = None
    batch: int = 8


def evaluate(
    contestants: Sequence[Contestant],
    data: Data,
    folder: str | Path,
    settings: Settings | None = None,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Runs, or goes on with, an evaluation and writes its tables and its page.

    Args:
        contestants: the models.
        data: the structures.
        folder: of this run; see the module.
        settings: by default all of `Settings`.
        advance: called after each structure.

    Returns:
        The contents of summary.json.

    Raises:
        ConfigError: the folder belongs to another run, or a model is named twice.
        DataError: there is nothing to evaluate, or the results in the folder are damaged.
    """
    settings, folder = settings or Settings(), Path(folder)
    check_names([c.name for c in contestants])
    count = len(data.records) if settings.limit is None else min(settings.limit, len(data.records))
    jobs = [(c, r) for c in contestants for r in settings.references if r == "data" or c.model is not None]
    if not count:
        raise DataError(f"{data.path} holds no records: nothing to evaluate")
    if not jobs:
        raise ConfigError("an autograd Hessian is its own reference: name a checkpoint, or compare with the data")
    described = _claim(folder, contestants, data, settings)
    lines = read_results(folder / RESULTS)
    finished = {_place(line) for line in lines if "failure" not in line}
    with (folder / RESULTS).open("a", encoding="utf-8") as file:
        for start in range(0, count, settings.batch):
            part = range(start, min(start + settings.batch, count))
            open_jobs = {i: [(c, r) for c, r in jobs if (i, c.name, r) not in finished] for i in part}
            asked = {i: todo for i, todo in open_jobs.items() if todo}
            new = lines_of(asked, data, settings.group_by, settings.pair_by)
            _append(file, new)
            lines += new
            for _ in part:
                advance()
    latest = {_place(line): line for line in lines if line["index"] < count}
    ordered = [latest[i, c.name, r] for c, r in jobs for i in range(count)]
    # From here on the numbers are those of the file, whether they were made now or before.
    plain: list[Line] = json.loads(json.dumps(_plain(ordered)))
    result = summary(plain, described, count)
    result["versions"] |= _frameworks(contestants)
    write_tables(folder, plain, result)
    return result


def read_results(path: Path) -> list[Line]:
    """The lines of a run; half a line that a kill has left at the end is cut off.

    Raises:
        DataError: a line before the last is damaged.
    """
    if not path.exists():
        return []
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if whole != text:
        with path.open("r+b") as file:
            file.truncate(len(whole))
    lines: list[Line] = []
    for number, row in enumerate(whole.splitlines(), start=1):
        try:
            line = json.loads(row)
            _place(line)
        except (ValueError, TypeError, KeyError):
            raise DataError(f"{path}, line {number} is damaged: delete the line, and it is computed again") from None
        lines.append(line)
    return lines


def _append(file: IO[str], lines: Sequence[Line]) -> None:
    """Writes results down for good."""
    try:
        file.write("".join(json.dumps(_plain(line), allow_nan=False) + "\n" for line in lines))
        file.flush()
        os.fsync(file.fileno())
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"cannot write {file.name}: {reason}; what was there is kept, run the same again") from None


def _claim(folder: Path, contestants: Sequence[Contestant], data: Data, settings: Settings) -> dict[str, Any]:
    """Writes run.json into an empty folder, or checks that it is the one there."""
    described = {
        "format": FORMAT,
        "data": {"path": str(data.path), "sha256": data.sha256, "units": data.units},
        "models": {c.name: {"fingerprint": c.fingerprint, **_backbone(c)} for c in contestants},
        "references": list(settings.references),
        "group_by": settings.group_by,
        "pair_by": settings.pair_by,
    }
    path = folder / RUN
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            raise ConfigError(f"{path} is damaged: use another folder") from None
        for key in described:
            ours, theirs = described[key], found.get(key) if isinstance(found, dict) else None
            if key == "data" and isinstance(theirs, dict):  # a file may have moved
                ours, theirs = {**ours, "path": ""}, {**theirs, "path": ""}  # type: ignore[dict-item]
            if ours != theirs:
                raise ConfigError(f"{folder} was begun with other {key} (see {path}): use another folder")
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is not empty and not an evaluation: use another folder")
    else:
        try:
            write_text(path, json.dumps(described, indent=2, ensure_ascii=False) + "\n")
        except OSError as error:
            raise ConfigError(f"cannot write to {folder}: {error.strerror or error}") from None
    return described


def _frameworks(contestants: Sequence[Contestant]) -> dict[str, str | None]:
    """The distributions that the backbones come from, with their versions."""
    needed = {c.backbone.requirement for c in contestants} - {""}
    return {Requirement(one).name: installed_version(one) for one in sorted(needed)}


def _backbone(contestant: Contestant) -> dict[str, Any]:
    source = contestant.backbone.source
    kind = "autograd of the backbone's energy" if contestant.model is None else "direct, from a head"
    return {
        "hessian": kind,
        "backbone": f"{source.kind} {source.name}",
        "backbone_fingerprint": source.fingerprint,
        "dtype": str(contestant.backbone.dtype).removeprefix("torch."),
    }


def _place(line: Line) -> tuple[int, str, str]:
    return line["index"], line["model"], line["reference"]


def _plain(value: Any) -> Any:
    """The value for JSON, with None in place of NaN."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
