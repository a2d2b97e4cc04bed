"""Whether two end points have the same atoms in the same order, and which order would make them fit.

A mapping is found without chemistry: like atoms with like surroundings are paired first (Hungarian algorithm on the
distances to all other atoms, by element), then pairs are exchanged as long as fewer bonds break and form. It is a
proposal, to be looked at.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from ase import Atoms
from ase.formula import Formula
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from hip_ext.errors import StructureError
from hip_ext.workflows.reactions.connectivity import aligned_rmsd, bonds

SAME_STRUCTURE = 0.05
"""Å: two end points closer than this are one structure."""

SWEEPS = 20


def check_ends(reactant: Atoms, product: Atoms) -> None:
    """Checks that two structures can be the ends of one reaction.

    Raises:
        StructureError: they have different atoms, the same atoms in another order, or are one structure.
    """
    if Counter(reactant.numbers.tolist()) != Counter(product.numbers.tolist()):
        found = f"{_formula(reactant)} and {_formula(product)}"
        raise StructureError(
            f"the two end points have different atoms, {found}: both must have all atoms of the reaction"
        )
    if not np.array_equal(reactant.numbers, product.numbers):
        order = propose_mapping(reactant, product).tolist()
        raise StructureError(
            f"the two end points have the same atoms in another order: pass --map to take the product's atoms in the "
            f"order {order}, or write it so yourself"
        )
    if aligned_rmsd(reactant, product) < SAME_STRUCTURE:
        raise StructureError(
            "the two end points are one structure: give reactant and product, or a single guess of the saddle"
        )


def mapped(reactant: Atoms, product: Atoms) -> Atoms:
    """The product with its atoms in the order of the reactant's, as `propose_mapping` has it.

    Raises:
        StructureError: they have different atoms.
    """
    return product[propose_mapping(reactant, product)]


def propose_mapping(reactant: Atoms, product: Atoms) -> NDArray[np.int64]:
    """For each atom of the reactant the atom of the product that it becomes, [N].

    Raises:
        StructureError: they have different atoms.
    """
    if Counter(reactant.numbers.tolist()) != Counter(product.numbers.tolist()):
        raise StructureError(f"no mapping: {_formula(reactant)} and {_formula(product)} have different atoms")
    cost = np.linalg.norm(_surroundings(reactant)[:, None] - _surroundings(product)[None, :], axis=2)
    unlike = reactant.numbers[:, None] != product.numbers[None, :]
    order = linear_sum_assignment(np.where(unlike, 1e6, cost))[1].astype(np.int64)
    return _fewest_changes(_adjacency(reactant), _adjacency(product), reactant.numbers, order, cost)


def _surroundings(atoms: Atoms) -> NDArray[np.float64]:
    """The bonds of each atom and of its neighbours by element, and its distances to each element, sorted: [N, D]."""
    near = _adjacency(atoms).astype(float)
    elements = sorted(set(atoms.numbers.tolist()))
    kinds = (atoms.numbers[:, None] == np.asarray(elements)).astype(float)
    first = near @ kinds
    distance = atoms.get_all_distances()
    decay = np.exp(-distance / 3) - np.eye(len(atoms))
    return np.concatenate((2 * first, near @ first, decay @ kinds), axis=1)


def _fewest_changes(
    before: NDArray[np.bool_],
    after: NDArray[np.bool_],
    numbers: NDArray[np.int64],
    order: NDArray[np.int64],
    cost: NDArray[np.float64],
) -> NDArray[np.int64]:
    def score(trial: NDArray[np.int64]) -> tuple[int, float]:
        changed = int((before ^ after[np.ix_(trial, trial)]).sum()) // 2
        return changed, round(float(cost[np.arange(len(trial)), trial].sum()), 9)

    best = score(order)
    like = [(i, j) for i in range(len(order)) for j in range(i) if numbers[i] == numbers[j]]
    for _ in range(SWEEPS):
        improved = False
        for i, j in like:
            trial = order.copy()
            trial[[i, j]] = trial[[j, i]]
            if (found := score(trial)) < best:
                order, best, improved = trial, found, True
        if not improved:
            break
    return order


def _adjacency(atoms: Atoms) -> NDArray[np.bool_]:
    near = np.zeros((len(atoms), len(atoms)), dtype=bool)
    for i, j in bonds(atoms):
        near[i, j] = near[j, i] = True
    return near


def _formula(atoms: Atoms) -> str:
    return str(Formula.from_list(atoms.get_chemical_symbols()).format("hill"))
