"""Signals that ask a run to stop: heard at once, obeyed between two steps."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any


class Interruption:
    """Remembers the first SIGTERM or SIGINT; a second one does what it would have done without this."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """When the block ends, the handlers that were there when it began are back, whoever sets some in between."""
        self._before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            self._put_back()

    def listen(self) -> None:
        """Begins to listen, in place of whatever handlers there are."""
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._hear)
        except ValueError:  # handlers can be set in the main thread only
            self._before.clear()

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.received = number

    def _put_back(self) -> None:
        with suppress(ValueError):  # as in `listen`
            for number, handler in self._before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before.clear()
