"""`hip-ext ts`: transition states from end points, guesses or trajectories."""

from __future__ import annotations

from enum import StrEnum
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


class SearchHessian(StrEnum):
    """Where the Hessian of the search comes from."""

    direct = "direct"
    autograd = "autograd"
    sella = "sella"


def ts(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILES",
            help="REACTANT PRODUCT; or one file: a guess, both end points, or a trajectory (3 frames up).",
        ),
    ],
    model: ModelOption = DEFAULT_MODEL,
    trust_source: TrustOption = False,
    each: Annotated[bool, typer.Option("--each", help="Every file is a reaction of its own.")] = False,
    hessian: Annotated[
        SearchHessian,
        typer.Option(help="direct: predicted. autograd: exact. sella: Sella's own, by differences of gradients."),
    ] = SearchHessian.direct,
    refresh: Annotated[
        int, typer.Option(min=0, help="A new Hessian after so many steps; 0: at the start alone, then updated.")
    ] = 0,
    fmax: Annotated[float, typer.Option(min=1e-5, help="Largest force of a saddle, eV/Å.")] = 0.01,
    steps: Annotated[int, typer.Option(min=1, help="Steps of a search at most.")] = 200,
    images: Annotated[int, typer.Option(min=3, help="Frames of the path between two end points.")] = 11,
    band: Annotated[bool, typer.Option("--band", help="Relax that path by a nudged elastic band first.")] = False,
    map_atoms: Annotated[
        bool, typer.Option("--map", help="Put the product's atoms into the order that fits the reactant best.")
    ] = False,
    path_hessian: PathHessianOption = PathHessianChoice.updated,
    temperature: TemperatureOption = 298.15,
    pressure: PressureOption = 101325.0,
    out: FolderOption = None,
    jobs: JobsOption = 1,
    retry_failed: RetryOption = False,
    report: ReportOption = None,
    as_json: JsonOption = False,
) -> None:
    """Saddle, path down both ways, its two minima, barriers and rates.

    Every saddle is verified by one exact Hessian. Exits with 1 if a reaction has no saddle.
    """
    from hip_ext.cli.reactions import task, work
    from hip_ext.errors import ConfigError
    from hip_ext.workflows.reactions.irc import PathSettings
    from hip_ext.workflows.reactions.saddle import SearchSettings
    from hip_ext.workflows.reactions.transition_state import ReactionSettings

    if not each and len(files) > 2:
        raise ConfigError(f"{len(files)} files: give a reactant and a product, or --each if each is a reaction")
    settings = ReactionSettings(
        search=SearchSettings(hessian.value, refresh=refresh, fmax=fmax, steps=steps),
        path=PathSettings(hessian=path_hessian.value),
        images=images,
        band=band,
        map_atoms=map_atoms,
        temperature=temperature,
        pressure=pressure,
    )
    groups = [[file] for file in files] if each else [files]
    tasks = [task(group[0].stem, group) for group in groups]
    work(tasks, model, trust_source, settings, out, as_json, jobs=jobs, retry=retry_failed, files=files, report=report)
