"""Labels for many structures into one store: in parallel, to be stopped at any time and gone on with.

What a store holds is skipped, and so is what has failed; every label is in the file before the next is waited for. A
store has labels of one level only, so that what is trained on it is not a mixture.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from hip_ext.data.store import HessianStore
from hip_ext.errors import ConfigError
from hip_ext.labelling.base import LabellerFactory
from hip_ext.labelling.pool import Done, label_in_processes
from hip_ext.labelling.tasks import Task, Tasks

PROGRAMS = ("hip-ext", "ase", "numpy", "torch", "pyscf", "tblite", "mace-torch", "so3krates-torch", "fairchem-core")


@dataclass
class Progress:
    """Counts of a run.

    Attributes:
        total: structures of the sources.
        labelled: new records.
        failed: new failures.
        skipped: structures that the store knew.
    """

    total: int
    labelled: int = 0
    failed: int = 0
    skipped: int = 0

    @property
    def done(self) -> int:
        """How many structures are over with."""
        return self.labelled + self.failed + self.skipped

    def __str__(self) -> str:
        return f"{self.labelled} labelled, {self.failed} failed, {self.skipped} skipped"


def label_into(
    store: HessianStore,
    tasks: Tasks,
    make: LabellerFactory,
    workers: int = 1,
    retry_failed: bool = False,
    command: str = "",
    report: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Labels what a store does not have yet.

    Args:
        store: open to append.
        tasks: the structures.
        make: makes the labeller; it is pickled for every worker, and called once here.
        workers: number of processes, each with one thread.
        retry_failed: whether to try once more what has failed before.
        command: what was asked for, for the record.
        report: called after every change with the counts so far.

    Raises:
        ConfigError: the store has labels of another level, or of unknown origin; or `workers` is not positive.
        DataError: the store cannot be written; all labels before that are in it.
    """
    if workers < 1:
        raise ConfigError(f"the number of workers is {workers}, expected at least 1")
    labeller = make()
    # as it comes back from the store: lists in place of tuples, strings in place of enumerations
    level = json.loads(json.dumps({**labeller.settings, "wanted": asdict(tasks.wanted)}))
    retry_failed |= not _agree(store, level)  # what another level failed at says nothing
    runs = [*store.metadata.get("runs", []), _provenance(command)]
    store.describe({"level": level, "runs": runs})
    progress = Progress(len(tasks))
    batch, origin = labeller.batch, _origin(labeller.settings)
    del labeller  # the workers have their own
    new = _unknown(store, tasks, retry_failed, progress, report)
    with closing(label_in_processes(make, new, workers, batch)) as results:
        for done in results:
            _keep(store, done, origin)
            failed = sum(isinstance(found, str) for _, found in done)
            progress.failed += failed
            progress.labelled += len(done) - failed
            report(progress)
    return progress


def _unknown(
    store: HessianStore, tasks: Tasks, retry_failed: bool, progress: Progress, report: Callable[[Progress], None]
) -> Iterator[Task]:
    """The tasks that are left; structures that could not even be made are written down as failures."""
    known = {*store.keys(), *(() if retry_failed else store.failures())}
    for task in tasks:
        if task.key in known:
            progress.skipped += 1
            report(progress)
            continue
        known.add(task.key)
        if task.problem:
            _keep(store, [(task.key, task.problem)], "")
            progress.failed += 1
            report(progress)
        else:
            yield task


def _keep(store: HessianStore, done: Done, origin: str) -> None:
    records = {key: found for key, found in done if not isinstance(found, str)}
    failures = {key: found for key, found in done if isinstance(found, str)}
    origins = [replace(record, origin=f"{key}, {origin}") for key, record in records.items()]
    store.append(origins, list(records), failures)


def _agree(store: HessianStore, level: Mapping[str, Any]) -> bool:
    """Whether the store is of this level or of none; False for one of another level that has no records yet.

    Raises:
        ConfigError: its records are of another level, or of an unknown one.
    """
    known = store.metadata.get("level")
    if known is None:
        if len(store):
            raise ConfigError(f"{store.path} has {len(store)} records of unknown level: label into a file of its own")
        return True
    if not len(store):
        return known == level
    for name in sorted({*known, *level}):
        if known.get(name) != level.get(name):
            raise ConfigError(
                f"{store.path} was made with {name} = {known.get(name)}, now it is {level.get(name)}: "
                "go on with the same options, or label into another file"
            )
    return True


def _provenance(command: str) -> dict[str, Any]:
    versions = {}
    for name in PROGRAMS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"command": command, "started": now, "python": platform.python_version(), "versions": versions}


def _origin(settings: Mapping[str, Any]) -> str:
    return f"hip-ext label, {settings.get('program', settings['method'])}"
