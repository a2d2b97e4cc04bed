"""The report of the commands that run a workflow over structures: `hip-ext relax`, `hip-ext ts`, `hip-ext irc`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hip_ext.cli.reporting import provenance, write_page

if TYPE_CHECKING:
    from hip_ext.workflows.outcome import Outcome


def report(
    path: Path,
    kind: Literal["relaxation", "reaction"],
    outcomes: Sequence[Outcome],
    structures: Sequence[Path],
    model: str,
    method: str,
) -> None:
    """Writes the page: a table of all outcomes where there are several, then a section for each.

    Args:
        path: where to.
        kind: of the workflow.
        outcomes: what came out.
        structures: files that they came from.
        model: as it was named.
        method: of the Hessians.

    Raises:
        ConfigError: the file cannot be written.
    """
    from hip_ext.report import workflows

    if kind == "reaction":
        columns, section, several = workflows.REACTION_COLUMNS, workflows.reaction_section, "Reactions"
    else:
        columns, section, several = workflows.RELAXATION_COLUMNS, workflows.relaxation_section, "Relaxations"
    sections = [section(outcome) for outcome in outcomes]
    title = several if len(outcomes) > 1 else f"{several[:-1]}: {outcomes[0].name}"
    lead = [workflows.overview(outcomes, columns)] if len(outcomes) > 1 else []
    write_page(path, title, sections, provenance(", ".join(map(str, structures)), model, method), lead)
