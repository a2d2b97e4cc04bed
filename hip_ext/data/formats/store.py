"""The store, as a format among others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from hip_ext.atomic import atomic_path
from hip_ext.data.formats.signatures import LMDB, starts_with
from hip_ext.data.record import HessianRecord
from hip_ext.errors import DataError


def matches(path: Path) -> bool:
    """Whether the file is a store."""
    if not starts_with(path, LMDB):
        return False
    from hip_ext.data.environment import shared_environment

    # looked into as a stranger's file, beside which no lock file is made
    with shared_environment(path, (), foreign=True).transaction() as (transaction, _):
        return all(transaction.get(name) is not None for name in (b"records", b"keys", b"meta"))


def read(path: Path) -> Iterator[HessianRecord | DataError]:
    """Yields the records; see `HessianStore`."""
    from hip_ext.data.store import HessianStore

    with HessianStore(path) as store:
        for index in range(len(store)):
            try:
                yield store[index]
            except DataError as error:
                yield error


def write(path: Path, records: Iterable[HessianRecord]) -> int:
    """Writes a new store; `HessianStore.append` adds to one."""
    from hip_ext.data.store import HessianStore

    with atomic_path(path) as temporary:
        try:
            with HessianStore(temporary, "a") as store:
                for batch in _batches(records):
                    store.append(batch)
                return len(store)
        finally:
            Path(f"{temporary}-lock").unlink(missing_ok=True)


def _batches(records: Iterable[HessianRecord]) -> Iterator[list[HessianRecord]]:
    iterator = iter(records)
    while batch := list(islice(iterator, 256)):
        yield batch
