"""Means with bootstrap intervals.

A mean over structures is Σ a / Σ w: for a metric of a structure a is its value and w is 1, for a mean over blocks a is
a structure's sum of errors and w its number of entries. Structures are drawn with replacement, 95 % of the means of
such samples lie between the two ends (percentile bootstrap, Efron 1979). The draw is the same every time, and the same
for all columns, so that columns can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RESAMPLES, LEVEL, SEED = 2000, 0.95, 0
CHUNK = 10_000_000
"""Numbers of a weight matrix at a time."""


@dataclass(frozen=True)
class Estimate:
    """A mean over n structures.

    Attributes:
        mean: of those that have a value; NaN if there is none.
        low: lower end of the 95 % bootstrap interval.
        high: upper end.
        median: of the structures' own values.
        n: structures with a value.
    """

    mean: float
    low: float
    high: float
    median: float
    n: int

    def plain(self) -> dict[str, Any]:
        """For JSON: NaN becomes None."""
        return {name: None if value != value else value for name, value in vars(self).items()}


def estimates(values: Array, weights: Array | None = None) -> list[Estimate]:
    """One estimate a column.

    Args:
        values: [n, c]; NaN where a structure has no value.
        weights: [n, c]; by default 1.
    """
    table = np.asarray(values, dtype=np.float64)
    if len(table) == 0:
        return [Estimate(np.nan, np.nan, np.nan, np.nan, 0)] * table.shape[1]
    present = np.isfinite(table)
    w = np.where(present, 1.0 if weights is None else weights, 0.0)
    a = np.where(present, table, 0.0)
    with np.errstate(invalid="ignore"):
        means, own = a.sum(axis=0) / w.sum(axis=0), a / w
    result = []
    for mean, low, high, column in zip(means, *_interval(a, w), own.T, strict=True):
        known = column[np.isfinite(column)]
        median = np.median(known) if len(known) else np.nan
        result.append(Estimate(float(mean), float(low), float(high), float(median), len(known)))
    return result


def _interval(a: Array, w: Array) -> tuple[Array, Array]:
    n = len(a)
    rng = np.random.default_rng(SEED)
    step = max(1, CHUNK // n)
    drawn = []
    for start in range(0, RESAMPLES, step):
        times = rng.multinomial(n, np.full(n, 1 / n), size=min(step, RESAMPLES - start)).astype(float)
        with np.errstate(invalid="ignore", divide="ignore"):
            drawn.append((times @ a) / (times @ w))
    means = np.concatenate(drawn)
    tail = 50 * (1 - LEVEL)
    # A class of few structures is missing from some samples, which then say nothing about it.
    known = [column[np.isfinite(column)] for column in means.T]
    ends = [np.percentile(column, (tail, 100 - tail)) if len(column) else (np.nan, np.nan) for column in known]
    low, high = np.array(ends).T
    return low, high
