"""`hip-ext irc`: the path down both ways from known saddles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hip_ext.cli.options import DEFAULT_MODEL, JsonOption, ModelOption, TrustOption
from hip_ext.cli.reactions import (
    FolderOption,
    JobsOption,
    PathHessianChoice,
    PathHessianOption,
    PressureOption,
    RetryOption,
    TemperatureOption,
)
from hip_ext.cli.reporting import ReportOption


def irc(
    files: Annotated[list[Path], typer.Argument(metavar="SADDLES", help="Files with one saddle each.")],
    model: ModelOption = DEFAULT_MODEL,
    trust_source: TrustOption = False,
    step: Annotated[float, typer.Option(min=0.01, max=1.0, help="Length of a step, Å √amu.")] = 0.15,
    steps: Annotated[int, typer.Option(min=1, help="Steps each way at most.")] = 120,
    path_hessian: PathHessianOption = PathHessianChoice.updated,
    temperature: TemperatureOption = 298.15,
    pressure: PressureOption = 101325.0,
    out: FolderOption = None,
    jobs: JobsOption = 1,
    retry_failed: RetryOption = False,
    report: ReportOption = None,
    as_json: JsonOption = False,
) -> None:
    """The intrinsic reaction coordinate both ways from a saddle, its two minima, barriers and rates.

    The saddle is verified by one exact Hessian first. Exits with 1 if it is none.
    """
    from hip_ext.cli.reactions import task, work
    from hip_ext.workflows.reactions.irc import PathSettings
    from hip_ext.workflows.reactions.transition_state import ReactionSettings

    path = PathSettings(step=step, steps=steps, hessian=path_hessian.value)
    settings = ReactionSettings(path=path, temperature=temperature, pressure=pressure)
    tasks = [task(file.stem, [file]) for file in files]
    work(
        tasks,
        model,
        trust_source,
        settings,
        out,
        as_json,
        jobs=jobs,
        retry=retry_failed,
        files=files,
        report=report,
        known=True,
    )
