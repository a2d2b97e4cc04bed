"""One progress bar a stage, on stderr."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn


def progress_bars() -> Progress:
    """Bars with the name of the stage, how far it is, the time that is left, and a note."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=Console(stderr=True))


def stages_in(bars: Progress) -> Callable[[str, int], Callable[[int, str], None]]:
    """Begins a bar: takes the name of a stage and its number of steps, gives what is told about steps done."""

    def begin(stage: str, total: int) -> Callable[[int, str], None]:
        task = bars.add_task(stage, total=total, note="")
        return lambda done, note: bars.update(task, completed=done, note=note)

    return begin
