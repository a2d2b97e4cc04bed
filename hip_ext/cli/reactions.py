"""What `hip-ext ts` and `hip-ext irc` have in common: settings, runs over many files, printing and writing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hip_ext.cli.reporting import check_page
from hip_ext.errors import BackboneError, ConfigError, HipExtError, StructureError

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator

    from hip_ext.workflows.outcome import Outcome, Task
    from hip_ext.workflows.reactions.transition_state import ReactionSettings

NOT_FOUND = 1
"""Exit code where every structure could be read and not every one has led to a saddle."""

TemperatureOption = Annotated[float, typer.Option(min=1.0, max=10_000.0, help="K, of Gibbs energies and rates.")]
PressureOption = Annotated[float, typer.Option(min=1e-6, help="Pa, of Gibbs energies and rates.")]
FolderOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="Folder for structures, paths and numbers; the same command goes on in it.",
        show_default=False,
    ),
]
JobsOption = Annotated[int, typer.Option("--jobs", "-j", min=1, help="Processes, where there are several reactions.")]
RetryOption = Annotated[bool, typer.Option("--retry-failed", help="Try what has failed in the folder once more.")]


class PathHessianChoice(StrEnum):
    """Where the Hessian on the way down comes from."""

    updated = "updated"
    direct = "direct"
    autograd = "autograd"


PathHessianOption = Annotated[
    PathHessianChoice,
    typer.Option(help="On the path: the exact one of the saddle, updated by gradients; or a new one at every step."),
]


def calculator(model: str, trust_source: bool) -> BaseCalculator:
    """The calculator of a checkpoint, made anew in each process."""
    from hip_ext.calculator import HessianCalculator
    from hip_ext.cli.inputs import load_model

    return HessianCalculator(load_model(model, trust_source), rigid_body=True)


def task(name: str, files: Sequence[Path]) -> Task:
    """The structures of one reaction; what cannot be read is a task with a problem."""
    from hip_ext.cli.inputs import read_frames
    from hip_ext.workflows.outcome import Task

    frames: list[Atoms] = []
    try:
        for file in files:
            found = read_frames(file)
            if len(files) > 1 and len(found) > 1:
                raise ConfigError(f"{file} has {len(found)} structures, expected one end point: give one file, or two")
            frames += found
    except HipExtError as error:
        return Task(name, problem=str(error))
    return Task(name, tuple(frames))


def work(
    tasks: Sequence[Task],
    model: str,
    trust_source: bool,
    settings: ReactionSettings,
    out: Path | None,
    as_json: bool,
    *,
    files: Sequence[Path],
    jobs: int,
    retry: bool,
    report: Path | None = None,
    known: bool = False,
) -> None:
    """Works on all tasks and says what came out.

    Raises:
        HipExtError: a single task cannot be used, or the folder cannot.
        typer.Exit: not all have a saddle.
    """
    from hip_ext.cli.output import print_tables
    from hip_ext.workflows.reactions.outcomes import make_run

    check_page(report)
    make = partial(make_run, partial(calculator, model, trust_source), settings, known)
    if out is None:
        if len(tasks) > 1:
            raise ConfigError(f"{len(tasks)} reactions need a folder for their results: add --out FOLDER")
        if tasks[0].problem:
            raise ConfigError(tasks[0].problem)
        run = make()
        try:
            outcomes = [run(tasks[0])]
        except (StructureError, BackboneError) as error:
            raise type(error)(f"{', '.join(map(str, files))}: {error}") from None
    else:
        outcomes = _batch(make, tasks, out, {"model": model, "known": known} | _stated(settings), jobs, retry)
    if report is not None:
        from hip_ext.cli import outcome_report

        outcome_report.report(report, "reaction", outcomes, files, model, settings.search.hessian)
    _print(outcomes, out, as_json)
    if report is not None and not as_json:
        print_tables(f"written to {report}")
    if any(outcome.status == "failed" for outcome in outcomes):
        raise typer.Exit(NOT_FOUND)


def _batch(
    make: Any, tasks: Sequence[Task], out: Path, settings: dict[str, Any], jobs: int, retry: bool
) -> list[Outcome]:
    from hip_ext.cli.making import progress
    from hip_ext.workflows.batch import Progress, run_batch
    from hip_ext.workflows.journal import read_outcomes

    with progress(len(tasks), "reactions") as advance:
        shown = 0

        def report(now: Progress) -> None:
            nonlocal shown
            for _ in range(now.done - shown):
                advance()
            shown = now.done

        run_batch(make, tasks, out, settings, jobs=jobs, retry_failed=retry, report=report)
    names = {item.name for item in tasks}
    outcomes = [outcome for outcome in read_outcomes(out) if outcome.name in names]
    for outcome in outcomes:
        _write(outcome, out / outcome.name)
    return outcomes


def _stated(settings: ReactionSettings) -> dict[str, Any]:
    from hip_ext.workflows.reactions.outcomes import stated

    return stated(settings)


def _write(outcome: Outcome, folder: Path) -> None:
    """`reaction.json` and one `.extxyz` a kind of structure, in a folder of the reaction's name."""
    import ase.io

    from hip_ext.atomic import atomic_path, write_text

    try:
        folder.mkdir(exist_ok=True)
        for kind, frames in outcome.frames.items():
            with atomic_path(folder / f"{kind}.extxyz") as path:
                ase.io.write(path, list(frames), format="extxyz")
        document = {"name": outcome.name, "status": outcome.status, "reason": outcome.reason, **outcome.values}
        write_text(folder / "reaction.json", json.dumps(document, indent=2) + "\n")
    except OSError as error:
        raise ConfigError(f"cannot write into {folder}: {error.strerror or error}") from None


def _print(outcomes: Sequence[Outcome], out: Path | None, as_json: bool) -> None:
    from hip_ext.cli.output import print_json, print_tables, table

    if as_json:
        print_json([{"name": o.name, "status": o.status, "reason": o.reason, **o.values} for o in outcomes])
        return
    if len(outcomes) == 1:
        print_tables(*_one(outcomes[0]), *([f"written to {out / outcomes[0].name}"] if out else []))
        return
    rows = table("reaction", "status", "imaginary mode", "ΔE‡ eV", "ΔG‡ eV", "rate 1/s", "ends", "note")
    for one in outcomes:
        v = one.values
        ends = f"{v.get('reactant')} → {v.get('product')}" if v.get("reactant") else ""
        numbers = (_number(v.get("forward_barrier")), _number(v.get("forward_gibbs")), _rate(v))
        rows.add_row(one.name, one.status, _imaginary(v), *numbers, ends, one.reason)
    print_tables(rows, *([f"written to {out}"] if out else []))


def _one(outcome: Outcome) -> list[Any]:
    from hip_ext.cli.output import table

    v = outcome.values
    lines: list[Any] = [f"{outcome.name}: {v.get('formula', '')}, {v.get('atoms', 0)} atoms"]
    if outcome.status == "done":
        lines.append(
            f"saddle of first order, verified by an exact Hessian: imaginary mode {_imaginary(v)} cm⁻¹, largest force "
            f"{v['largest_force']:.4f} eV/Å, {v['steps']} steps"
        )
    if v.get("reactant"):
        lines.append(f"path: {v['reactant']} → {v['product']}  {v['changes'] or '(no bond changes)'}")
        rows = table(
            "barrier at " + f"{v['temperature']} K", "ΔE‡ eV", "with ZPE eV", "ΔG‡ eV", "k 1/s", "k with κ 1/s"
        )
        for name in ("forward", "reverse"):
            numbers = (_number(v[f"{name}_{key}"]) for key in ("barrier", "barrier_zpe", "gibbs"))
            rows.add_row(name, *numbers, _rate(v, name, tunnelling=False), _rate(v, name))
        lines += [rows, f"tunnelling: Wigner κ {_number(v['wigner'], 2)}"]
    spent = f"{v.get('gradients')} gradients, {v.get('direct_hessians')} direct and {v.get('exact_hessians')} exact"
    lines += [f"cost: {spent} Hessians"] if v else []
    return lines + [f"{'failed' if outcome.status == 'failed' else 'note'}: {outcome.reason}"] * bool(outcome.reason)


def _number(value: Any, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _imaginary(values: Any) -> str:
    found = values.get("imaginary_wavenumber")
    return "–" if found is None else f"{-found:.0f}i"


def _rate(values: Any, name: str = "forward", tunnelling: bool = True) -> str:
    rate, wigner = values.get(f"{name}_rate"), values.get("wigner")
    if rate is None or wigner is None:
        return "–"
    return f"{rate * (wigner if tunnelling else 1):.2e}"
