"""LMDB files, each open once in a process, whoever reads or writes it.

LMDB must not have one file open twice in a process, nor use an environment across a fork. So all who use a file share
one environment, which is closed before a fork and opened anew by whoever uses it next, parent or child.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from hip_ext.errors import DataError, MissingDependencyError

try:
    import lmdb as lmdb
except ImportError:
    raise MissingDependencyError("lmdb is not installed: pip install 'hip-ext[train]'") from None

MAP_SIZES = (1 << 40, 1 << 36, 1 << 32, 1 << 28)
"""Address space that a file is mapped into, bytes: as much as the system lets us reserve. It costs no memory."""

_LOCK = threading.RLock()
_OPEN: WeakValueDictionary[tuple[int, int], SharedEnvironment] = WeakValueDictionary()


def shared_environment(path: Path, names: Sequence[bytes], foreign: bool = False) -> SharedEnvironment:
    """The environment of an existing file, the same for everybody in this process; see `SharedEnvironment`."""
    with _LOCK:
        status = path.stat()
        key = (status.st_dev, status.st_ino)
        found = _OPEN.get(key)
        if found is None:
            found = _OPEN[key] = SharedEnvironment(path, names, foreign)
        return found


class SharedEnvironment:
    """One LMDB file with named tables; transactions of this process follow one another.

    Args:
        path: an existing file, empty if it is to be a new one.
        names: of the tables.
        foreign: the file is somebody else's and nobody writes it: it is opened to read, without a lock file beside it.
    """

    def __init__(self, path: Path, names: Sequence[bytes], foreign: bool = False) -> None:
        self.path, self.names, self.foreign = path.absolute(), names, foreign
        self._environment: Any = None
        self._tables: dict[bytes, Any] = {}

    @property
    def is_writable(self) -> bool:
        """Whether this process may write the file and the lock file beside it."""
        lock = Path(f"{self.path}-lock")
        return (
            not self.foreign
            and os.access(self.path, os.W_OK)
            and os.access(lock if lock.exists() else lock.parent, os.W_OK)
        )

    @contextmanager
    def transaction(self, write: bool = False) -> Iterator[tuple[Any, dict[bytes, Any]]]:
        """An LMDB transaction and the tables that the file has; committed at the end of the block, undone by an error.

        Raises:
            DataError: the file is damaged or cannot be opened.
        """
        with _LOCK:
            environment = self._opened()
            try:
                transaction = environment.begin(write=write)
            except lmdb.MapResizedError:  # another process has made it larger than our map
                environment.set_mapsize(0)
                transaction = environment.begin(write=write)
            with transaction:
                yield transaction, self._tables

    def create(self, values: Mapping[bytes, tuple[bytes, bytes]]) -> None:
        """Makes the tables of a file that is empty, with a first key and value in some; leaves any other as it is."""
        with self.transaction(write=True) as (transaction, _):
            if transaction.stat()["entries"]:
                return
            tables = {name: self._environment.open_db(name, txn=transaction) for name in self.names}
            for name, (key, value) in values.items():
                transaction.put(key, value, db=tables[name])
        self.close()  # the tables are found when it is opened again

    def grow(self, at_least: int) -> None:
        """Makes the map larger by `at_least` bytes or doubles it."""
        with _LOCK:
            size = self._opened().info()["map_size"]
            self._environment.set_mapsize(size + max(size, at_least))

    def close(self) -> None:
        """Closes the file until the next transaction."""
        with _LOCK:
            if self._environment is not None:
                self._environment.close()
            self._environment, self._tables = None, {}

    def _opened(self) -> Any:
        if self._environment is None:
            self._environment = self._open()
            self._check_length()
            for name in self.names:
                with suppress(lmdb.Error):
                    self._tables[name] = self._environment.open_db(name, create=False)
        return self._environment

    def _open(self) -> Any:
        try:
            size = self.path.stat().st_size
            writable = self.is_writable
            # A lock file beside a read-only file may be there already, of somebody who writes.
            lock = writable or (not self.foreign and os.access(f"{self.path}-lock", os.W_OK))
            for room in MAP_SIZES:
                if room < size:
                    break
                with suppress(lmdb.MemoryError):
                    return self._attempt(room, writable, lock)
            return self._attempt(2 * size, writable, lock)
        except (lmdb.Error, OSError) as error:
            raise DataError(f"cannot open {self.path}: {_reason(error)}") from None

    def _attempt(self, room: int, writable: bool, lock: bool) -> Any:
        return lmdb.open(
            str(self.path),
            subdir=False,
            readonly=not writable,
            lock=lock,
            map_size=room,
            max_dbs=16,
            max_readers=1024,
            readahead=False,
        )

    def _check_length(self) -> None:
        """Refuses a file that ends early: LMDB would kill the process where it reads beyond the end."""
        needed = (self._environment.info()["last_pgno"] + 1) * self._environment.stat()["psize"]
        found = self.path.stat().st_size
        if found < needed:
            self.close()
            raise DataError(f"{self.path} is truncated: {found} bytes of {needed} are there; copy it again")


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error).rpartition(": ")[2]


def _before_fork() -> None:
    _LOCK.acquire()
    for environment in list(_OPEN.values()):
        environment.close()


os.register_at_fork(before=_before_fork, after_in_parent=_LOCK.release, after_in_child=_LOCK.release)
