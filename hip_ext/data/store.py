"""Millions of labelled structures in one file: LMDB, one record a key.

LMDB maps the file into memory, so any record is read without reading others, by any number of processes at once. What
is written goes in by transactions: a kill at any moment leaves the file as it was after the last complete one.

    with HessianStore("labels.lmdb", "a") as store:
        store.append([record], keys=["ethanol-17"])
    record = HessianStore("labels.lmdb")[0]

Inside are four tables: `records` (index → record, see `hip_ext.data.encoding`), `keys` (name → index), `failures`
(name → why there is no label) and `meta` (JSON: format, units, and what the writer wants to be known).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import lmdb
import numpy as np
from numpy.typing import NDArray

from hip_ext.data.encoding import decode, encode
from hip_ext.data.record import HessianRecord
from hip_ext.errors import DataError

FORMAT = "hip-ext store 1"
UNITS = {"length": "Å", "energy": "eV", "forces": "eV/Å", "hessian": "eV/Å²"}
ROOM = 1 << 28
"""Bytes by which the map grows when it is full; the file itself grows with what is in it."""

_TABLES = (b"records", b"keys", b"failures", b"sizes", b"meta")
_INDEX = struct.Struct(">Q")
_SIZE = struct.Struct("<II")


class HessianStore(Sequence[HessianRecord]):
    """A file of records; a sequence, with names for those that were given one.

    Args:
        path: the file; a second one, `path` + "-lock", lies beside it while it is open.
        mode: "r" to read, "a" to append to a file that is made if it is not there. One process may write at a time,
            beside any number that read.

    Raises:
        DataError: there is no such file, it is no store, or it cannot be opened.
    """

    def __init__(self, path: str | Path, mode: Literal["r", "a"] = "r") -> None:
        self.path, self.mode = Path(path), mode
        self._open()
        if self.mode == "a" and not self.metadata:
            self.describe({})
        found = self.metadata.get("format")
        if found != FORMAT:
            self.close()
            raise DataError(f"{self.path} is no hip-ext store: format {found!r}, expected {FORMAT!r}")

    def __len__(self) -> int:
        with self._environment.begin(db=self._tables[b"records"]) as transaction:
            return int(transaction.stat()["entries"])

    def __getitem__(self, index: Any) -> Any:
        """The record of an index, or a list of those of a slice.

        Raises:
            IndexError: there is no such record.
            DataError: it is damaged; the others can still be read.
        """
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        count = len(self)
        place = int(index) + count if index < 0 else int(index)
        if not 0 <= place < count:
            raise IndexError(f"{self.path} holds {count} records, asked for number {index}")
        with self._environment.begin(db=self._tables[b"records"], buffers=False) as transaction:
            data = transaction.get(_INDEX.pack(place))
        if data is None:
            raise DataError(f"{self.path}: record {place} is missing")
        try:
            return decode(data)
        except DataError as error:
            raise DataError(f"{self.path}, record {place}: {error}") from None

    def __contains__(self, key: object) -> bool:
        """Whether there is a record of this name."""
        return isinstance(key, str) and self._get(b"keys", key.encode()) is not None

    @property
    def metadata(self) -> dict[str, Any]:
        """Format, units, and what `describe` was given."""
        stored = self._get(b"meta", b"meta")
        try:
            values = json.loads(stored) if stored else {}
        except ValueError:
            return {}
        return values if isinstance(values, dict) else {}

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Number of atoms of every record, [n], without reading the records."""
        return self._summary[:, 0]

    @property
    def labelled_counts(self) -> NDArray[np.int64]:
        """Number of atoms with known rows of every record, [n], without reading the records."""
        return self._summary[:, 1]

    def index(self, key: Any, start: int = 0, stop: int | None = None) -> int:
        """The index of a name.

        Raises:
            DataError: there is no record of this name.
        """
        found = self._get(b"keys", str(key).encode())
        if found is None:
            raise DataError(f"{self.path} has no record named {key!r}")
        return int(_INDEX.unpack(found)[0])

    def keys(self) -> list[str]:
        """All names, in the order of their records; records without a name have none."""
        with self._environment.begin(db=self._tables[b"keys"]) as transaction:
            found = [(_INDEX.unpack(value)[0], bytes(key).decode()) for key, value in transaction.cursor()]
        return [name for _, name in sorted(found)]

    def failures(self) -> dict[str, str]:
        """Names of structures that could not be labelled, and why."""
        with self._environment.begin(db=self._tables[b"failures"]) as transaction:
            return {bytes(key).decode(): bytes(value).decode() for key, value in transaction.cursor()}

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
            DataError: a name is taken, the number of names is wrong, or the disk is full.
        """
        if keys is not None and len(keys) != len(records):
            raise DataError(f"{len(records)} records need as many names, found {len(keys)}")
        encoded = [encode(record) for record in records]
        for _ in range(64):
            try:
                return self._append(records, encoded, keys, failures or {})
            except lmdb.MapFullError:
                grown = self._environment.info()["map_size"] + max(ROOM, 2 * sum(map(len, encoded)))
                self._environment.set_mapsize(grown)
            except lmdb.Error as error:
                raise DataError(f"cannot write to {self.path}: {error}; nothing of this batch was stored") from None
        raise DataError(f"cannot write to {self.path}: the map does not grow; nothing of this batch was stored")

    def describe(self, values: Mapping[str, Any]) -> None:
        """Adds to the metadata: how the labels were made, for instance."""
        known = {**self.metadata, **values, "format": FORMAT, "units": UNITS}
        with self._environment.begin(write=True, db=self._tables[b"meta"]) as transaction:
            transaction.put(b"meta", json.dumps(known).encode())

    def close(self) -> None:
        """Closes the file."""
        self._environment.close()

    def __iter__(self) -> Iterator[HessianRecord]:
        return (self[i] for i in range(len(self)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """A worker process opens the file anew, to read."""
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.path, self.mode = state["path"], "r"
        self._open()

    def _open(self) -> None:
        if self.mode == "a":
            self.path.parent.mkdir(parents=True, exist_ok=True)
        elif not self.path.is_file():
            raise DataError(f"there is no label store {self.path}")
        try:
            self._environment = lmdb.open(
                str(self.path),
                subdir=False,
                readonly=self.mode == "r",
                map_size=max(ROOM, self.path.stat().st_size if self.path.exists() else 0),
                max_dbs=len(_TABLES),
                max_readers=512,
                readahead=False,
            )
            self._tables = {name: self._environment.open_db(name, create=self.mode == "a") for name in _TABLES}
        except lmdb.Error as error:
            raise DataError(f"{self.path} is no hip-ext store, or it is damaged: {error}") from None

    def _get(self, table: bytes, key: bytes) -> bytes | None:
        with self._environment.begin(db=self._tables[table]) as transaction:
            found: bytes | None = transaction.get(key)
            return found

    @property
    def _summary(self) -> NDArray[np.int64]:
        with self._environment.begin(db=self._tables[b"sizes"]) as transaction:
            found = [_SIZE.unpack(value) for _, value in transaction.cursor()]
        return np.array(found, dtype=np.int64).reshape(-1, 2)

    def _append(
        self,
        records: Sequence[HessianRecord],
        encoded: Sequence[bytes],
        keys: Sequence[str] | None,
        failures: Mapping[str, str],
    ) -> None:
        tables = self._tables
        with self._environment.begin(write=True) as transaction:
            place = int(transaction.stat(tables[b"records"])["entries"])
            for offset, (record, data) in enumerate(zip(records, encoded, strict=True)):
                index = _INDEX.pack(place + offset)
                transaction.put(index, data, db=tables[b"records"], append=True)
                labelled = 0 if record.labelled is None else len(record.labelled)
                transaction.put(index, _SIZE.pack(len(record.numbers), labelled), db=tables[b"sizes"], append=True)
                if keys is not None:
                    name = keys[offset].encode()
                    if not transaction.put(name, index, db=tables[b"keys"], overwrite=False):
                        raise DataError(f"{self.path} has a record named {keys[offset]!r} already")
                    transaction.delete(name, db=tables[b"failures"])
            for name, reason in failures.items():
                transaction.put(name.encode(), reason.encode(), db=tables[b"failures"])
