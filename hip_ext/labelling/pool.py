"""Worker processes that may die: a crash costs the structure that caused it, and no other.

`concurrent.futures` gives up a pool of processes when one of them dies, and does not say on whose account. So no more
work is out than there are workers; when the pool breaks, what was out is done again one by one, each alone in a fresh
pool, and what breaks that is the culprit.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice

from ase import Atoms

from hip_ext.data.record import HessianRecord
from hip_ext.errors import HipExtError
from hip_ext.labelling.base import Labeller, LabellerFactory
from hip_ext.labelling.tasks import Task

Done = list[tuple[str, HessianRecord | str]]
"""Keys of structures, each with its record or the reason why there is none."""

DIED = "the worker process died: out of memory, or a crash of the program that makes the labels"

THREADS = "OMP_NUM_THREADS"

_labeller: Labeller | None = None


def label_in_processes(
    make: LabellerFactory, tasks: Iterator[Task], workers: int, batch: int
) -> Generator[Done, None, None]:
    """Labels tasks in worker processes, each with one thread; what is done comes in the order of its completion.

    Args:
        make: makes the labeller in each worker; it is pickled.
        tasks: what to label; drawn as they are needed.
        workers: number of processes.
        batch: tasks that a worker gets at a time.
    """
    batches = iter(lambda: list(islice(tasks, batch)), [])
    with _one_thread_each():
        while True:
            suspects: list[Task] = []
            yield from _until_broken(make, batches, workers, suspects)
            if not suspects:
                return
            for task in suspects:
                alone: list[Task] = []
                yield from _until_broken(make, iter([[task]]), 1, alone)
                if alone:
                    yield [(task.key, DIED)]


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
    make: LabellerFactory, batches: Iterator[list[Task]], workers: int, lost: list[Task]
) -> Generator[Done, None, None]:
    """Labels batches until there are no more, or a worker dies; `lost` then has what was out."""
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin, (make,))
    out: dict[Future[Done], list[Task]] = {}
    try:
        while True:
            while not lost and len(out) < workers and (tasks := next(batches, None)):
                try:
                    out[pool.submit(_label, tasks)] = tasks
                except BrokenProcessPool:
                    lost += tasks
            if not out:
                return
            finished, _ = wait(out, return_when=FIRST_COMPLETED)
            for future in finished:
                tasks = out.pop(future)
                try:
                    done = future.result()
                except BrokenProcessPool:
                    lost += tasks
                else:
                    yield done
    finally:
        if out:  # interrupted: what is under way is not waited for
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)


def _begin(make: LabellerFactory) -> None:
    """Makes the labeller of this process, which ends with its parent and leaves interruptions to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    global _labeller
    _labeller = make()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _label(tasks: Sequence[Task]) -> Done:
    assert _labeller is not None
    return label_tasks(_labeller, tasks)


def label_tasks(labeller: Labeller, tasks: Sequence[Task]) -> Done:
    """Labels tasks together, or one by one where that fails."""
    many: list[Atoms] = [task.atoms for task in tasks]
    try:
        records = labeller.label_many(many, [task.target for task in tasks])
    except Exception as error:  # one structure must not end the run, whatever a program of others does
        if len(tasks) > 1:
            return [done for task in tasks for done in label_tasks(labeller, [task])]
        reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
        kind = "" if isinstance(error, HipExtError) and reason else f"{type(error).__name__}: "
        return [(tasks[0].key, f"{kind}{reason}")]
    return [(task.key, record) for task, record in zip(tasks, records, strict=True)]
