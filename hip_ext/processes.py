"""Worker processes that may die: a crash costs the item that caused it, and no other.

`concurrent.futures` gives up a pool of processes when one of them dies, and does not say on whose account. So no more
work is out than there are workers; when the pool breaks, what was out is done again one by one, each alone in a fresh
pool, and what breaks that is the culprit.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

DIED = "the worker process died: out of memory, or a crash of a program that it ran"

THREADS = "OMP_NUM_THREADS"

_work: Callable[[list[Any]], Any] | None = None
_not_begun: Exception | None = None


def work_in_processes(
    make: Callable[[], Callable[[list[Item]], Result]],
    batches: Iterator[list[Item]],
    workers: int,
    died: Callable[[Item], Result],
) -> Generator[Result, None, None]:
    """Works on batches in processes with one thread each; results come in the order of their completion.

    Args:
        make: makes, once in each process, what is called for every batch; it is pickled.
        batches: drawn as they are needed.
        workers: number of processes.
        died: the result of an item that killed its process.

    Raises:
        Exception: what `make` or the work itself raises ends everything.
    """
    with _one_thread_each():
        while True:
            suspects: list[Item] = []
            yield from _until_broken(make, batches, workers, suspects)
            if not suspects:
                return
            for item in suspects:
                alone: list[Item] = []
                yield from _until_broken(make, iter([[item]]), 1, alone)
                if alone:
                    yield died(item)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes begun in the block use one thread; set before they begin, since libraries read it when imported."""
    before = os.environ.get(THREADS)
    os.environ[THREADS] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[THREADS]
        else:
            os.environ[THREADS] = before


def _until_broken(
    make: Callable[[], Callable[[list[Item]], Result]], batches: Iterator[list[Item]], workers: int, lost: list[Item]
) -> Generator[Result, None, None]:
    """Works until there are no more batches, or a worker dies; `lost` then has what was out."""
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin, (make,))
    out: dict[Future[Result], list[Item]] = {}
    try:
        while True:
            while not lost and len(out) < workers and (items := next(batches, None)):
                try:
                    out[pool.submit(_work_on, items)] = items
                except BrokenProcessPool:
                    lost += items
            if not out:
                return
            finished, _ = wait(out, return_when=FIRST_COMPLETED)
            for future in finished:
                items = out.pop(future)
                try:
                    result = future.result()
                except BrokenProcessPool:
                    lost += items
                else:
                    yield result
    finally:
        if out:  # interrupted: what is under way is not waited for
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)


def _begin(make: Callable[[], Callable[[list[Any]], Any]]) -> None:
    """Makes the work of this process, which ends with its parent and leaves interruptions to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    global _work, _not_begun
    try:
        _work = make()
    except Exception as error:  # raised by the first batch: raised here, it would be the silent death of a worker
        _not_begun = error


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work_on(items: list[Any]) -> Any:
    if _not_begun is not None:
        raise _not_begun
    assert _work is not None
    return _work(items)
