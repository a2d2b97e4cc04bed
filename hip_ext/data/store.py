"""Millions of labelled structures in one file: LMDB, one record a key.

LMDB maps the file into memory, so any record is read without reading others, by any number of processes at once. What
is written goes in by transactions: a kill at any moment leaves the file as it was after the last complete one.

    with HessianStore("labels.lmdb", "a") as store:
        store.append([record], keys=["ethanol-17"])
    record = HessianStore("labels.lmdb")[0]

Inside are five tables: `records` (index → record, see `hip_ext.data.encoding`), `sizes` (index → numbers of atoms, of
labelled atoms and of probes), `keys` (name → index), `failures` (name → why there is no label) and `meta` (JSON:
format, units, and what the writer wants to be known).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from hip_ext.data.encoding import decode, encode
from hip_ext.data.environment import SharedEnvironment, lmdb, shared_environment
from hip_ext.data.record import HessianRecord
from hip_ext.errors import DataError

FORMAT = "hip-ext store 1"
UNITS = {"length": "Å", "energy": "eV", "forces": "eV/Å", "hessian": "eV/Å²"}
LONGEST_KEY = 500
"""Bytes that a name may have in UTF-8; LMDB's own limit is 511."""

_TABLES = _RECORDS, _SIZES, _KEYS, _FAILURES, _META = b"records", b"sizes", b"keys", b"failures", b"meta"
_INDEX = struct.Struct(">Q")
_SIZE = struct.Struct("<III")


class HessianStore(Sequence[HessianRecord]):
    """A file of records; a sequence, with names for those that were given one.

    Several stores of one file may be open at a time, in one process and in many: one process writes while any number
    read. A store that is pickled or inherited by a forked process is there to read.

    Args:
        path: the file; a second one, `path` + "-lock", lies beside it.
        mode: "r" to read, "a" to append to a file that is made if it is not there.

    Raises:
        DataError: there is no such file, it is no store, it is truncated, or it cannot be opened or written.
    """

    def __init__(self, path: str | Path, mode: Literal["r", "a"] = "r") -> None:
        if mode not in ("r", "a"):
            raise DataError(f"a store is opened with mode 'r' or 'a', found {mode!r}")
        self.path, self.mode = Path(path), mode
        self._file: SharedEnvironment | None = None
        if mode == "a" and not self.path.is_dir():
            self._make()
        if not self.path.is_file() or self.path.stat().st_size == 0:
            what = "is a folder" if self.path.is_dir() else "is empty" if self.path.exists() else "does not exist"
            raise DataError(f"there is no label store {self.path}: it {what}")
        self._check_format()

    def __len__(self) -> int:
        with self._environment.transaction() as (transaction, tables):
            return int(transaction.stat(tables[_RECORDS])["entries"])

    def __getitem__(self, index: Any) -> Any:
        """The record of an index, or a list of those of a slice.

        Raises:
            IndexError: there is no such record.
            DataError: it is damaged; the others can still be read.
        """
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = int(index) if index >= 0 else int(index) + len(self)
        data = self._get(_RECORDS, _INDEX.pack(place)) if place >= 0 else None
        if data is None:
            raise IndexError(f"{self.path} holds {len(self)} records, asked for number {index}")
        try:
            return decode(data)
        except DataError as error:
            raise DataError(f"{self.path}, record {place}: {error}") from None

    def __contains__(self, key: object) -> bool:
        """Whether there is a record of this name."""
        return isinstance(key, str) and self._get(_KEYS, key.encode()) is not None

    def __iter__(self) -> Iterator[HessianRecord]:
        return (self[i] for i in range(len(self)))

    @property
    def metadata(self) -> dict[str, Any]:
        """Format, units, and what `describe` was given."""
        found: dict[str, Any] = json.loads(self._get(_META, _META) or b"{}")
        return found

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Number of atoms of every record, [n], without reading the records."""
        return self._summary()[:, 0]

    @property
    def labelled_counts(self) -> NDArray[np.int64]:
        """Number of atoms with known rows of every record, [n], without reading the records."""
        return self._summary()[:, 1]

    @property
    def probe_counts(self) -> NDArray[np.int64]:
        """Number of known Hessian-vector products of every record, [n], without reading the records."""
        return self._summary()[:, 2]

    def index(self, key: Any, start: int = 0, stop: int | None = None) -> int:
        """The index of a name.

        Raises:
            DataError: there is no record of this name.
        """
        found = self._get(_KEYS, str(key).encode())
        if found is None:
            raise DataError(f"{self.path} has no record named {key!r}")
        return int(_INDEX.unpack(found)[0])

    def keys(self) -> list[str]:
        """All names, in the order of their records; records without a name have none."""
        found = sorted((_INDEX.unpack(value)[0], key.decode()) for key, value in self._items(_KEYS))
        return [name for _, name in found]

    def failures(self) -> dict[str, str]:
        """Names of structures that could not be labelled, and why; those labelled since are left out."""
        found = self._items(_FAILURES)
        return {key.decode(): value.decode() for key, value in found if self._get(_KEYS, key) is None}

    def damaged(self, progress: Callable[[int], object] | None = None) -> dict[int, str]:
        """Reads every record; returns the indices of those that cannot be used, and why.

        Args:
            progress: called with the number of records read so far.
        """
        found = {}
        for index in range(len(self)):
            try:
                self[index]
            except DataError as error:
                found[index] = str(error)
            if progress is not None:
                progress(index + 1)
        return found

    def append(
        self,
        records: Sequence[HessianRecord],
        keys: Sequence[str] | None = None,
        failures: Mapping[str, str] | None = None,
    ) -> None:
        """Adds records and failures in one transaction: all of them, or none.

        Args:
            records: in this order.
            keys: a name for each, at most 500 bytes; a name that failed before is no failure any more.
            failures: names of structures that have no label, and why.

        Raises:
            DataError: the store was opened to read, a name is taken or too long, the number of names is wrong, a
                record cannot be stored, or the disk is full.
        """
        if self.mode != "a":
            raise DataError(f"{self.path} was opened to read: open it with mode 'a' to append")
        if keys is not None and len(keys) != len(records):
            raise DataError(f"{len(records)} records need as many names, found {len(keys)}")
        for name in (*(keys or ()), *(failures or ())):
            if not 0 < len(name.encode()) <= LONGEST_KEY:
                raise DataError(f"a name has 1 to {LONGEST_KEY} bytes, found {len(name.encode())}: {name[:40]!r}")
        encoded = [encode(record) for record in records]
        self._write(lambda: self._append(records, encoded, keys, failures or {}), room=2 * sum(map(len, encoded)))

    def describe(self, values: Mapping[str, Any]) -> None:
        """Adds to the metadata: how the labels were made, for instance.

        Raises:
            DataError: the store was opened to read, or JSON cannot hold these values.
        """
        if self.mode != "a":
            raise DataError(f"{self.path} was opened to read: open it with mode 'a' to describe it")
        try:
            text = json.dumps({**self.metadata, **values, "format": FORMAT, "units": UNITS})
        except (TypeError, ValueError) as error:
            raise DataError(f"the description of {self.path} must be what JSON can hold: {error}") from None
        self._write(lambda: self._put_meta(text))

    def close(self) -> None:
        """Leaves the file, which is closed when nobody in this process uses it any more."""
        self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path.absolute()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.path, self.mode, self._file = state["path"], "r", None

    @property
    def _environment(self) -> SharedEnvironment:
        if self._file is None:
            if not self.path.is_file():
                raise DataError(f"there is no label store {self.path} any more")
            self._file = shared_environment(self.path, _TABLES)
        return self._file

    def _make(self) -> None:
        """Makes the file and its tables where there is nothing yet."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if not self.path.exists():
                self.path.touch()
        except OSError as error:
            raise DataError(f"cannot write {self.path}: {error.strerror}") from None
        if not self._environment.is_writable:
            raise DataError(f"cannot write {self.path}: the file or its folder is read-only")
        text = json.dumps({"format": FORMAT, "units": UNITS})
        self._write(lambda: self._environment.create({_META: (_META, text.encode())}))

    def _write(self, work: Callable[[], object], room: int = 0) -> None:
        """Does a transaction, in a larger map where it does not fit."""
        while True:
            try:
                work()
            except lmdb.MapFullError:
                self._environment.grow(room)
            except lmdb.Error as error:
                self._environment.close()  # LMDB wants an environment opened anew after a failed write
                reason = str(error).rpartition(": ")[2]
                raise DataError(f"cannot write {self.path}: {reason}; nothing of it was stored") from None
            else:
                return

    def _check_format(self) -> None:
        try:
            found = self.metadata.get("format")
        except (KeyError, json.JSONDecodeError, UnicodeDecodeError, AttributeError):
            found = None  # no such table, not JSON, or not a mapping
        if found != FORMAT:
            self.close()
            raise DataError(
                f"{self.path} is no hip-ext store: format {found!r}, expected {FORMAT!r}; hip-ext data convert makes "
                "one of labels in another format"
            )

    def _get(self, table: bytes, key: bytes) -> bytes | None:
        with self._environment.transaction() as (transaction, tables):
            found: bytes | None = transaction.get(key, db=tables[table])
            return found

    def _items(self, table: bytes) -> list[tuple[bytes, bytes]]:
        with self._environment.transaction() as (transaction, tables):
            return list(transaction.cursor(tables[table]))

    def _summary(self) -> NDArray[np.int64]:
        with self._environment.transaction() as (transaction, tables):
            stored = b"".join(transaction.cursor(tables[_SIZES]).iternext(keys=False, values=True))
        return np.frombuffer(stored, dtype="<u4").reshape(-1, 3).astype(np.int64)

    def _put_meta(self, text: str) -> None:
        with self._environment.transaction(write=True) as (transaction, tables):
            transaction.put(_META, text.encode(), db=tables[_META])

    def _append(
        self,
        records: Sequence[HessianRecord],
        encoded: Sequence[bytes],
        keys: Sequence[str] | None,
        failures: Mapping[str, str],
    ) -> None:
        with self._environment.transaction(write=True) as (transaction, tables):
            place = int(transaction.stat(tables[_RECORDS])["entries"])
            for offset, (record, data) in enumerate(zip(records, encoded, strict=True)):
                index = _INDEX.pack(place + offset)
                transaction.put(index, data, db=tables[_RECORDS], append=True)
                labelled, probes = (0 if x is None else len(x) for x in (record.labelled, record.probes))
                size = _SIZE.pack(len(record.numbers), labelled, probes)
                transaction.put(index, size, db=tables[_SIZES], append=True)
                name = None if keys is None else keys[offset].encode()
                if name and not transaction.put(name, index, db=tables[_KEYS], overwrite=False):
                    raise DataError(f"{self.path} has a record named {name.decode()!r} already")
            # Nothing is ever deleted, so that every page up to the last is in the file, on which opening relies.
            for failed, reason in failures.items():
                transaction.put(failed.encode(), reason.encode(), db=tables[_FAILURES])
