"""Which atoms are bonded, and whether two structures are the same molecule.

Two atoms are bonded if they are closer than `BOND_FACTOR` times the sum of their covalent radii (Cordero 2008, as ASE
has them). Molecules are compared as graphs: the same atoms bonded to the same atoms, or the same graph up to a
permutation of like atoms.
"""

from __future__ import annotations

import networkx as nx
import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.formula import Formula
from numpy.typing import NDArray

BOND_FACTOR = 1.25
"""A C–C bond ends at 1.9 Å, a C–H bond at 1.3 Å: bonds that are half made at a saddle may count as either."""


def bonds(atoms: Atoms, factor: float = BOND_FACTOR) -> set[tuple[int, int]]:
    """Bonded pairs of atoms (i, j) with i < j; periodic images are looked at where the structure is periodic."""
    distance = atoms.get_all_distances(mic=bool(atoms.pbc.any()))
    radii = covalent_radii[atoms.numbers]
    near = distance < factor * (radii[:, None] + radii[None, :])
    return {(int(i), int(j)) for i, j in zip(*np.nonzero(np.triu(near, 1)), strict=True)}


def graph(atoms: Atoms) -> nx.Graph:
    """Atoms as nodes with their atomic number as `element`, bonds as edges."""
    made = nx.Graph()
    made.add_nodes_from((k, {"element": int(z)}) for k, z in enumerate(atoms.numbers))
    made.add_edges_from(bonds(atoms))
    return made


def same_bonds(a: Atoms, b: Atoms) -> bool:
    """Whether the same atoms, by their place in the list, are bonded to the same atoms."""
    return bool(np.array_equal(a.numbers, b.numbers)) and bonds(a) == bonds(b)


def same_molecule(a: Atoms, b: Atoms) -> bool:
    """Whether two structures have the same graph up to a permutation of like atoms."""

    def alike(one: dict[str, int], other: dict[str, int]) -> bool:
        return one["element"] == other["element"]

    return bool(nx.is_isomorphic(graph(a), graph(b), node_match=alike))


def fragments(atoms: Atoms) -> list[list[int]]:
    """The atoms of each molecule, the one with the first atom first."""
    return [sorted(part) for part in nx.connected_components(graph(atoms))]


def named_molecules(atoms: Atoms) -> str:
    """The molecules of a structure by their formulas, largest first, such as "C2H4 + H2O"."""
    parts = sorted(fragments(atoms), key=lambda part: (-len(part), part))
    return " + ".join(str(Formula.from_list(atoms[part].get_chemical_symbols()).format("hill")) for part in parts)


def changes(before: Atoms, after: Atoms) -> str:
    """The bonds that break and form, such as "−C0–H4 +O2–H4"; empty if there is none."""
    symbols = before.get_chemical_symbols()
    old, new = bonds(before), bonds(after)
    pairs = [("−", pair) for pair in sorted(old - new)] + [("+", pair) for pair in sorted(new - old)]
    return " ".join(f"{sign}{symbols[i]}{i}–{symbols[j]}{j}" for sign, (i, j) in pairs)


def distance_between(atoms: Atoms) -> float:
    """The largest gap in Å that separates one of the molecules of a structure from all others; 0 for a single one."""
    parts = fragments(atoms)
    if len(parts) == 1:
        return 0.0
    distance: NDArray[np.float64] = atoms.get_all_distances()
    own = np.zeros((len(parts), len(atoms)), dtype=bool)
    for mine, part in zip(own, parts, strict=True):
        mine[part] = True
    return float(max(distance[mine][:, ~mine].min() for mine in own))


def aligned_rmsd(a: Atoms, b: Atoms) -> float:
    """Root mean square distance in Å of two structures with the same atoms, the best rotation taken out."""
    x, y = a.positions - a.positions.mean(axis=0), b.positions - b.positions.mean(axis=0)
    u, s, vt = np.linalg.svd(x.T @ y)
    s[-1] *= np.sign(np.linalg.det(u @ vt))  # a mirror image is not the same molecule
    square = (x**2).sum() + (y**2).sum() - 2 * s.sum()
    return float(np.sqrt(max(square, 0.0) / len(a)))
