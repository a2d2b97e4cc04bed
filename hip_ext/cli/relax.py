"""`hip-ext relax`: minima of many structures, in a folder that a stopped run goes on with."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hip_ext.cli.options import DEFAULT_MODEL, JsonOption, ModelOption, TrustOption
from hip_ext.cli.reporting import ReportOption, check_page
from hip_ext.errors import StructureError

if TYPE_CHECKING:
    from hip_ext.workflows.outcome import Task
    from hip_ext.workflows.relax import Relaxation, RelaxSettings


FAILED = 1
"""Exit code where every file could be read and not every structure could be relaxed."""


class Optimizer(StrEnum):
    """What moves the atoms."""

    newton = "newton"
    bfgs = "bfgs"


class Hessian(StrEnum):
    """Which Hessian is used."""

    direct = "direct"
    exact = "exact"
    none = "none"


def relax(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Structure files that ASE reads.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the results; one that is there is gone on with.")],
    model: ModelOption = DEFAULT_MODEL,
    trust_source: TrustOption = False,
    optimizer: Annotated[
        Optimizer, typer.Option(help="newton: a Hessian every step. bfgs: ASE's, beginning with one.")
    ] = Optimizer.newton,
    hessian: Annotated[
        Hessian,
        typer.Option(help="direct: predicted by the head. exact: by automatic differentiation. none: with bfgs."),
    ] = Hessian.direct,
    every: Annotated[
        int | None, typer.Option(help="Steps from one Hessian to the next: 1 with newton, 0 (at the start) with bfgs.")
    ] = None,
    fmax: Annotated[float, typer.Option(help="eV/Å: the largest force at the end.")] = 0.01,
    steps: Annotated[int, typer.Option(help="At most.")] = 200,
    verify: Annotated[Hessian, typer.Option(help="Which Hessian says whether the end is a minimum.")] = Hessian.direct,
    jobs: Annotated[int, typer.Option("--jobs", "-j", help="Processes, with one thread each.")] = 1,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler whose workers are used, such as tcp://host:8786.")
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try once more what has failed.")] = False,
    report: ReportOption = None,
    as_json: JsonOption = False,
) -> None:
    """Relax structures into minima, in cells that stay as they are.

    May be stopped at any time and started again. Exits with 1 if a structure failed.
    """
    from functools import partial

    from hip_ext.cli.output import print_json
    from hip_ext.cli.running import reporting, stopped_by_sigterm
    from hip_ext.workflows.batch import run_batch
    from hip_ext.workflows.cluster import cluster_executor
    from hip_ext.workflows.files import tasks_of, write_frames
    from hip_ext.workflows.journal import read_outcomes
    from hip_ext.workflows.relax import RelaxSettings

    check_page(report)
    schedule = every if every is not None else int(optimizer is Optimizer.newton)
    settings = RelaxSettings(optimizer.value, hessian.value, fmax, steps, schedule, verify.value)
    tasks = tasks_of(files)
    if all(problem_of(task) for task in tasks):
        rest = f", nor can the other {len(tasks) - 1}" if len(tasks) > 1 else ""
        raise StructureError(f"{tasks[0].name} cannot be relaxed{rest}: {problem_of(tasks[0])}")
    make = partial(make_relaxation, model, trust_source, settings, trajectory=report is not None)
    stated = {"workflow": "relax", "model": model, **settings.as_dict()}
    with stopped_by_sigterm(), cluster_executor(scheduler) as executor, reporting() as told:
        counts = run_batch(
            make, tasks, out, stated, jobs=jobs, executor=executor, retry_failed=retry_failed, report=told
        )
    relaxed = write_frames(out, "relaxed", [task.name for task in tasks])
    found = {outcome.name: outcome for outcome in read_outcomes(out)}
    mine = [found[task.name] for task in tasks]
    if report is not None:
        from hip_ext.cli import outcome_report

        outcome_report.report(report, "relaxation", mine, files, model, hessian.value)
    if as_json:
        print_json([{"name": o.name, "status": o.status, "reason": o.reason, **o.values} for o in mine])
    else:
        typer.echo(f"{counts}: {out / 'results.csv'}, {relaxed}")
        if report is not None:
            typer.echo(f"written to {report}")
        noted = [outcome for outcome in mine if outcome.reason]
        for outcome in noted[:10]:
            typer.echo(f"  {outcome.name}: {outcome.reason}")
        if len(noted) > 10:
            typer.echo(f"  and {len(noted) - 10} more with a remark in results.csv")
    if any(outcome.status == "failed" for outcome in mine):
        raise typer.Exit(FAILED)


def problem_of(task: Task) -> str:
    """Why a structure cannot be relaxed by any model; empty if it might."""
    from hip_ext.workflows.relax import check_start

    if task.problem:
        return task.problem
    try:
        check_start(task.atoms)
    except StructureError as error:
        return str(error)
    return ""


def make_relaxation(model: str, trust_source: bool, settings: RelaxSettings, trajectory: bool = False) -> Relaxation:
    """Loads a model, in the process that works with it."""
    from hip_ext.cli.inputs import load_model
    from hip_ext.workflows.relax import Relaxation

    return Relaxation(load_model(model, trust_source), settings, trajectory)
