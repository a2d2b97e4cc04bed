"""Structures that are the same up to rotation, translation, reflection and the order of equal atoms.

Two structures count as one if they have the same elements, charge and unpaired electrons, and their sorted distances,
element pair by element pair, agree within `TOLERANCE`. In periodic structures distances are those to the nearest
image, so that the same crystal in another cell counts as another structure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
from ase import Atoms
from ase.formula import Formula
from numpy.typing import NDArray

from hip_ext.data.record import HessianRecord

TOLERANCE = 1e-3
"""Å; files with eight decimals or in single precision are well within."""

Kind = tuple[Any, ...]


class Fingerprints:
    """Sorted distances of many structures, four bytes a pair of atoms."""

    def __init__(self) -> None:
        self._groups: dict[Kind, list[tuple[int, NDArray[np.float32]]]] = defaultdict(list)

    def add(self, index: int, record: HessianRecord) -> None:
        """Adds a structure under its index."""
        numbers = np.sort(record.numbers)
        kind = (numbers.tobytes(), numbers.dtype.str, record.charge, record.unpaired, bool(record.pbc.any()))
        self._groups[kind].append((index, _distances(record)))

    def formulas(self) -> dict[str, list[int]]:
        """The indices of the structures of every formula."""
        found: dict[str, list[int]] = defaultdict(list)
        for (numbers, dtype, *_), members in self._groups.items():
            symbols = Atoms(np.frombuffer(numbers, dtype=dtype)).get_chemical_formula()
            found[Formula(symbols).format("hill")] += [index for index, _ in members]
        return dict(found)

    def duplicates(self) -> list[tuple[int, int]]:
        """Pairs of indices of one structure: each duplicate with the first of its kind."""
        first: dict[int, int] = {}
        for members in self._groups.values():
            for one, other in _matches(members, members):
                if one < other:
                    first[other] = min(first.get(other, other), one)
        return sorted((one, other) for other, one in first.items())

    def common(self, other: Fingerprints) -> list[tuple[int, int]]:
        """Pairs of indices, here and there, of one structure."""
        kinds = self._groups.keys() & other._groups.keys()
        return sorted(pair for kind in kinds for pair in _matches(self._groups[kind], other._groups[kind]))


def _matches(
    left: list[tuple[int, NDArray[np.float32]]], right: list[tuple[int, NDArray[np.float32]]]
) -> Iterator[tuple[int, int]]:
    """Pairs of indices with equal distances; only those of nearly equal sum are compared."""
    sums = np.array([float(distances.sum(dtype=np.float64)) for _, distances in right])
    order = np.argsort(sums)
    sums, table = sums[order], np.stack([right[k][1] for k in order])
    for index, distances in left:
        total, slack = float(distances.sum(dtype=np.float64)), TOLERANCE * (len(distances) + 1)
        low, high = np.searchsorted(sums, (total - slack, total + slack))
        worst = np.abs(table[low:high] - distances).max(axis=1, initial=0.0)
        for k in order[low:high][worst < TOLERANCE]:
            yield index, right[k][0]


def _distances(record: HessianRecord) -> NDArray[np.float32]:
    """Distances of all pairs, sorted within each pair of elements, and after them the cell's lengths and angles."""
    first, second = np.triu_indices(len(record.numbers), 1)
    if record.pbc.any():
        atoms = Atoms(record.numbers, positions=record.positions, cell=record.cell, pbc=record.pbc)
        apart, cell = atoms.get_all_distances(mic=True)[first, second], atoms.cell.cellpar()
    else:
        vectors = np.asarray(record.positions, dtype=np.float64)[first] - record.positions[second]
        apart, cell = np.linalg.norm(vectors, axis=1), np.zeros(0)
    one, two = np.sort(np.stack((record.numbers[first], record.numbers[second])), axis=0)
    order = np.lexsort((apart, two, one))
    return np.concatenate((apart[order], cell)).astype(np.float32)
