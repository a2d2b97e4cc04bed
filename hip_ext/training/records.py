"""The records of several label stores as one sequence, by number; those that cannot be used are stepped over."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hip_ext.data.formats.signatures import LMDB, starts_with
from hip_ext.data.record import HessianRecord
from hip_ext.data.store import HessianStore
from hip_ext.errors import DataError

MOST_SUBSTITUTES = 64
"""So many records in a row may be unusable before reading gives up."""


class RecordSet:
    """Records of two atoms or more.

    Args:
        stores: open stores; a copy of this object in another process opens them anew.
        chosen: which of their records, counted through all stores, int64 [n].
        elements: atomic numbers that a record may have.
    """

    def __init__(self, stores: Sequence[HessianStore], chosen: NDArray[np.int64], elements: frozenset[int]) -> None:
        self.stores = list(stores)
        self.chosen = chosen
        self.elements = elements
        self.ends = np.cumsum([len(store) for store in stores])
        self.sizes = np.concatenate([store.sizes for store in stores])[chosen]

    @classmethod
    def open(cls, paths: Sequence[str | Path], elements: frozenset[int], limit: int | None = None) -> RecordSet:
        """All records of these files with two atoms or more, or the first `limit` of them.

        Raises:
            DataError: a file is no store, or there is nothing in them.
        """
        for path in map(Path, paths):
            if path.is_file() and path.stat().st_size and not starts_with(path, LMDB):
                raise DataError(
                    f"{path} is no label store: hip-ext data convert {path} {path.stem}.lmdb makes one of it"
                )
        stores = [HessianStore(path) for path in paths]
        sizes = np.concatenate([store.sizes for store in stores])
        chosen = np.flatnonzero(sizes > 1)[:limit]
        if not len(chosen):
            raise DataError(f"no records of two atoms or more in {', '.join(map(str, paths))}")
        return cls(stores, chosen, elements)

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> HessianRecord:
        """One record.

        Raises:
            DataError: it is damaged, or holds an element that is not among the known ones.
        """
        place = int(self.chosen[index])
        store = int(np.searchsorted(self.ends, place, side="right"))
        record: HessianRecord = self.stores[store][place - (int(self.ends[store - 1]) if store else 0)]
        unknown = set(np.unique(record.numbers).tolist()) - self.elements
        if unknown:
            raise DataError(f"{self.stores[store].path}, record {place}: unknown elements {sorted(unknown)}")
        return record

    @property
    def labelled_atoms(self) -> int:
        """How many atoms have known rows of the Hessian."""
        return int(np.concatenate([store.labelled_counts for store in self.stores])[self.chosen].sum())

    def usable(self, index: int) -> tuple[int, HessianRecord, dict[int, str]]:
        """The record of this number or, where it cannot be used, the next one that can.

        Returns:
            The number of the record, the record, and why others were stepped over, by their numbers.

        Raises:
            DataError: none of the next `MOST_SUBSTITUTES` can be used either.
        """
        skipped: dict[int, str] = {}
        for step in range(min(len(self), MOST_SUBSTITUTES)):
            place = (index + step) % len(self)
            try:
                return place, self[place], skipped
            except DataError as error:
                skipped[place] = str(error)
        raise DataError(f"{len(skipped)} records in a row cannot be used, the first: {skipped[index]}")

    def split(self, share: float, seed: int) -> tuple[RecordSet, RecordSet]:
        """Training and validation part; all records of one sum formula are in the same part.

        A formula is held out if its hash with the seed is below `share`, so that records that are added later leave
        the others where they are; at least one is. Damaged records go to the training part, which steps over them.

        Raises:
            DataError: there are no two sum formulas.
        """
        draws = np.full(len(self), np.inf)
        for index in range(len(self)):
            with suppress(DataError):
                draws[index] = _draw(self[index].numbers, seed)
        held_out = draws <= max(share, draws.min())
        if held_out.all() or not np.isfinite(draws.min()):
            raise DataError(f"{len(self)} records of one sum formula: nothing can be held out, give data.validation")
        parts = (self.chosen[~held_out], self.chosen[held_out])
        train, validation = (RecordSet(self.stores, part, self.elements) for part in parts)
        return train, validation


def _draw(numbers: NDArray[np.integer], seed: int) -> float:
    """A number in [0, 1) that depends on the sum formula and the seed alone."""
    symbols = np.bincount(numbers, minlength=119)
    return int.from_bytes(hashlib.sha256(f"{seed}|{symbols.tolist()}".encode()).digest()[:6], "big") / 2**48
