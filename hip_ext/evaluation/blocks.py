"""Where in a Hessian the error sits: sums of |ΔH_ab| over its 3×3 blocks, by element pair and by distance."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

EDGES = (1.2, 1.6, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0)
"""Å; bounds between the classes of distance."""

SAME = "same atom"
Sums = dict[str, list[float]]
"""Class → entries, Σ |ΔH|, Σ |H|."""


def distance_classes() -> list[str]:
    """Names of the classes of distance from near to far, blocks on the diagonal first."""
    inner = [f"{a:g}–{b:g} Å" for a, b in pairwise(EDGES)]
    return [SAME, f"< {EDGES[0]:g} Å", *inner, f"≥ {EDGES[-1]:g} Å"]


def block_errors(atoms: Atoms, predicted: NDArray[np.floating], exact: NDArray[np.floating]) -> tuple[Sums, Sums]:
    """Sums over the blocks of one structure.

    Args:
        atoms: N atoms; distances are those of the nearest images.
        predicted: eV/Å², [3N, 3N].
        exact: eV/Å², [3N, 3N].

    Returns:
        By element pair ("C–H", or "C, same atom") and by distance; in each every entry of the matrix counts once.
    """
    n = len(atoms)
    symbols = np.array(atoms.get_chemical_symbols())
    low, high = np.sort(np.stack(np.broadcast_arrays(symbols[:, None], symbols)), axis=0)
    pairs = np.char.add(np.char.add(low, "–"), high)
    names = np.where(np.eye(n, dtype=bool), np.char.add(symbols, f", {SAME}"), pairs)
    place = 1 + np.searchsorted(EDGES, atoms.get_all_distances(mic=bool(atoms.pbc.any())), side="right")
    np.fill_diagonal(place, 0)
    error, size = (np.abs(m).reshape(n, 3, n, 3).sum(axis=(1, 3)) for m in (predicted - exact, exact))
    classes = distance_classes()
    by_distance = {classes[int(p)]: sums for p, sums in _grouped(place, error, size).items()}
    return {str(name): sums for name, sums in _grouped(names, error, size).items()}, by_distance


def _grouped(
    labels: NDArray[np.generic], error: NDArray[np.floating], size: NDArray[np.floating]
) -> dict[np.generic, list[float]]:
    found, where = np.unique(labels, return_inverse=True)
    where = where.ravel()
    columns = (np.full(error.size, 9.0), error.ravel(), size.ravel())
    table = np.stack([np.bincount(where, weights=column) for column in columns], axis=1)
    return dict(zip(found, table.tolist(), strict=True))
