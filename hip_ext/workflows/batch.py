"""A workflow over many structures: in parallel, to be stopped at any time and gone on with.

    run_batch(partial(make_run, "hip-so3lr-organic"), tasks, "results", {"workflow": "mine", "fmax": 0.01}, jobs=4)

What a folder has is skipped, also what has failed; every outcome is on the disk before the next is waited for. A folder
has results of one set of settings only. With one job all happens in this process; with several, in worker processes
with one thread each, in which a crash costs the structure that caused it; with an executor, wherever that runs things:
`distributed.Client(…).get_executor()` is one for a cluster.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from hip_ext.errors import ConfigError, reason_of
from hip_ext.processes import DIED, work_in_processes
from hip_ext.workflows.journal import Journal, open_journal, write_table
from hip_ext.workflows.outcome import Outcome, Run, Task, Workflow, attempt

IN_FLIGHT = 256
"""Tasks that an executor has at a time: enough for many workers, and not the whole list in its memory."""


@dataclass
class Progress:
    """Counts of a run.

    Attributes:
        total: its tasks.
        finished: new outcomes with a result.
        failed: new outcomes without one.
        skipped: tasks that the folder knew.
    """

    total: int
    finished: int = 0
    failed: int = 0
    skipped: int = 0

    @property
    def done(self) -> int:
        """How many tasks are over with."""
        return self.finished + self.failed + self.skipped

    def __str__(self) -> str:
        return f"{self.finished} done, {self.failed} failed, {self.skipped} skipped"


def run_batch(
    make: Workflow,
    tasks: Sequence[Task],
    folder: str | Path,
    settings: Mapping[str, Any],
    *,
    jobs: int = 1,
    executor: Executor | None = None,
    retry_failed: bool = False,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Works on what a folder does not have yet, and writes the table of all results.

    Args:
        make: makes the function that is called for each task, once in each process; pickled unless `jobs` is 1.
        tasks: with different names.
        folder: new, empty, or that of a run with the same settings. `read_outcomes` reads it.
        settings: all that the results depend on besides the structures, as JSON has it.
        jobs: number of processes.
        executor: works on the tasks in place of processes of our own.
        retry_failed: whether to try once more what has failed before.
        report: called after every change with the counts so far.

    Raises:
        ConfigError: two tasks have one name, `jobs` is not positive, or the folder has something else in it.
        DataError: the folder is damaged or cannot be written; all outcomes before that are in it.
        Exception: what `make` raises.
        KeyboardInterrupt: with the table written; what was under way is lost.
    """
    if jobs < 1:
        raise ConfigError(f"the number of jobs is {jobs}, expected at least 1")
    names = [task.name for task in tasks]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"two structures have the name {twice}: every one needs its own")
    progress = Progress(len(tasks))
    with open_journal(folder, settings) as journal:
        new = _unknown(journal, tasks, retry_failed, progress)
        report(progress)
        digests = {task.name: task.digest for task in new}
        try:
            with closing(_outcomes(make, new, jobs, executor)) as outcomes:
                for outcome in outcomes:
                    journal.append(outcome, digests[outcome.name])
                    if outcome.status == "done":
                        progress.finished += 1
                    else:
                        progress.failed += 1
                    report(progress)
        finally:
            if journal.known:
                write_table(folder, names)
    return progress


def _unknown(journal: Journal, tasks: Sequence[Task], retry_failed: bool, progress: Progress) -> list[Task]:
    """The tasks that are left."""
    new = []
    for task in tasks:
        before = journal.known.get(task.name)
        if before is not None and before.digest != task.digest:
            raise ConfigError(f"{journal.folder} has a result for another structure {task.name}: use another folder")
        if before is None or (retry_failed and before.status == "failed"):
            new.append(task)
        else:
            progress.skipped += 1
    return new


def _outcomes(
    make: Workflow, tasks: Sequence[Task], jobs: int, executor: Executor | None
) -> Generator[Outcome, None, None]:
    if not tasks:
        return
    if executor is not None:
        yield from _on_executor(executor, make, iter(tasks))
    elif jobs == 1:
        run = make()
        for task in tasks:
            yield attempt(run, task)
    else:
        single = ([task] for task in tasks)
        died = partial(_failed, reason=DIED)
        yield from work_in_processes(partial(_for_one, make), single, min(jobs, len(tasks)), died)


def _for_one(make: Workflow) -> Callable[[list[Task]], Outcome]:
    run = make()
    return lambda tasks: attempt(run, tasks[0])


def _failed(task: Task, reason: str) -> Outcome:
    return Outcome(task.name, "failed", reason)


def _on_executor(executor: Executor, make: Workflow, tasks: Iterator[Task]) -> Generator[Outcome, None, None]:
    pickled = pickle.dumps(make)
    out: dict[Future[Outcome | _NotMade], Task] = {}
    try:
        while True:
            while len(out) < IN_FLIGHT and (task := next(tasks, None)) is not None:
                out[executor.submit(_remotely, pickled, task)] = task
            if not out:
                return
            finished, _ = wait(out, return_when=FIRST_COMPLETED)
            for future in finished:
                task = out.pop(future)
                try:
                    found = future.result()
                except Exception as error:  # of the executor, such as a worker that was lost for good
                    found = _failed(task, reason_of(error))
                if isinstance(found, _NotMade):
                    raise found.error
                yield found
    finally:
        for future in out:
            future.cancel()


@dataclass(frozen=True)
class _NotMade:
    """In place of an outcome: the workflow itself could not be made, for any task."""

    error: Exception


def _remotely(pickled: bytes, task: Task) -> Outcome | _NotMade:
    try:
        run = _made(pickled)
    except Exception as error:
        return _NotMade(error)
    return attempt(run, task)


@lru_cache(maxsize=1)
def _made(pickled: bytes) -> Run:
    """The function of a workflow, made once in each process; the model that it loads is kept with it."""
    run: Run = pickle.loads(pickled)()
    return run
