"""Labels in worker processes: together where that goes, one by one where it does not."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from functools import partial
from itertools import islice

from ase import Atoms

from hip_ext.data.record import HessianRecord
from hip_ext.errors import HipExtError, reason_of
from hip_ext.labelling.base import Labeller, LabellerFactory
from hip_ext.labelling.tasks import Task
from hip_ext.processes import DIED, work_in_processes

Done = list[tuple[str, HessianRecord | str]]
"""Keys of structures, each with its record or the reason why there is none."""


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
    return work_in_processes(partial(_labeller, make), batches, workers, lambda task: [(task.key, DIED)])


def _labeller(make: LabellerFactory) -> partial[Done]:
    return partial(label_tasks, make())


def label_tasks(labeller: Labeller, tasks: Sequence[Task]) -> Done:
    """Labels tasks together, or one by one where that fails."""
    many: list[Atoms] = [task.atoms for task in tasks]
    try:
        records = labeller.label_many(many, [task.target for task in tasks])
    except Exception as error:  # one structure must not end the run, whatever a program of others does
        if len(tasks) > 1:
            return [done for task in tasks for done in label_tasks(labeller, [task])]
        return [(tasks[0].key, reason_of(error))]
    return [
        (task.key, reason_of(found) if isinstance(found, HipExtError) else found)
        for task, found in zip(tasks, records, strict=True)
    ]
