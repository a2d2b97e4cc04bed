"""Which records make up a step, and which process sees them when: from seed and step alone.

Places are counted through the run: step s takes the places s·batch to (s + 1)·batch, and place p is the record at
p mod n of a permutation that changes from pass to pass over the n records. So a run that goes on at a step, with any
number of processes, sees what an undisturbed one would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Passage:
    """The records of one pass through the model.

    Attributes:
        step: the optimiser step that it belongs to.
        records: their numbers.
        last: whether the weights are stepped after it.
    """

    step: int
    records: tuple[int, ...]
    last: bool


@dataclass(frozen=True)
class Plan:
    """The order of a run.

    Attributes:
        sizes: number of atoms of every record, [n].
        batch: structures per step.
        seed: of the permutations.
        bucket: so many batches in a row are drawn together, sorted by size, cut, and shuffled as whole batches.
        passes: into how many a batch is cut at least, for each process.
        largest: most Σ n² of one pass; more passes are made until it holds, or until each has one structure.
    """

    sizes: NDArray[np.int64]
    batch: int
    seed: int
    bucket: int = 1
    passes: int = 1
    largest: int | None = None

    def records(self, step: int) -> list[int]:
        """The records of a step, whatever the number of processes."""
        if self.bucket == 1:
            return self._drawn(step, 1)
        pool = step // self.bucket
        drawn = np.array(self._drawn(pool, self.bucket))
        drawn = drawn[np.argsort(self.sizes[drawn], kind="stable")].reshape(self.bucket, self.batch)
        order = np.random.default_rng([self.seed, pool, 1]).permutation(self.bucket)
        return [int(record) for record in drawn[order[step % self.bucket]]]

    def steps(self, first: int, stop: int, rank: int = 0, world: int = 1) -> Iterator[Passage]:
        """The passes of one process out of `world`, from step `first` until before `stop`."""
        for step in range(first, stop):
            parts = self._parts(self.records(step), world)
            own = parts[rank::world]
            for number, part in enumerate(own):
                yield Passage(step, tuple(part), last=number == len(own) - 1)

    def _drawn(self, number: int, batches: int) -> list[int]:
        count, width = len(self.sizes), self.batch * batches
        places = range(number * width, (number + 1) * width)
        return [int(_order(self.seed, place // count, count)[place % count]) for place in places]

    def _parts(self, records: list[int], world: int) -> list[list[int]]:
        """The records in world × passes parts of nearly equal Σ n², as few passes as the bound allows."""
        if world * self.passes == 1 and self.largest is None:
            return [records]
        weights = self.sizes[records] ** 2
        passes = self.passes
        while True:
            parts, loads = _balanced(weights, world * passes)
            fits = self.largest is None or max(loads) <= self.largest
            if fits or world * (passes + 1) > len(records):
                return [[records[place] for place in sorted(part)] for part in parts]
            passes += 1


def _balanced(weights: NDArray[np.int64], count: int) -> tuple[list[list[int]], list[int]]:
    """Places in `count` parts, none empty: the heaviest first, each to the lightest part so far."""
    parts: list[list[int]] = [[] for _ in range(count)]
    loads = [0] * count
    for place in np.argsort(-weights, kind="stable"):
        part = min(range(count), key=lambda k: (loads[k], len(parts[k]), k))
        parts[part].append(int(place))
        loads[part] += int(weights[place])
    return parts, loads


@lru_cache(maxsize=3)
def _order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(count)
