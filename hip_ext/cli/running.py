"""What commands with long runs over many structures have in common: progress, and an end on SIGTERM."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import typer

EVERY = 60.0
"""Seconds between two lines of progress where stderr is no terminal."""


class Counts(Protocol):
    """How far a run is; as text, in words."""

    @property
    def total(self) -> int:
        """How much there is to do."""

    @property
    def skipped(self) -> int:
        """How much of it had been done before."""

    @property
    def done(self) -> int:
        """How much of it is done, with what is skipped."""


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def reporting() -> Iterator[Callable[[Counts], None]]:
    """A bar on a terminal, elsewhere a line a minute, on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if console.is_terminal:
        columns = (SpinnerColumn(), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, TextColumn("{task.description}"), console=console) as bars:
            bar = bars.add_task("", total=None)
            yield lambda now: bars.update(bar, total=now.total, completed=now.done, description=str(now))
        return
    started = last = time.monotonic()

    def line(now: Counts) -> None:
        nonlocal last
        if time.monotonic() - last > EVERY:
            last = time.monotonic()
            rate = (now.done - now.skipped) / (last - started)
            left = f", {(now.total - now.done) / rate / 3600:.1f} h left" if rate else ""
            typer.echo(f"{now.done} of {now.total}: {now}{left}", err=True)

    yield line
