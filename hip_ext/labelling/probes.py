"""Directions worth a Hessian-vector product: random ones, soft ones, and turns about bonds.

A product H·v costs one backward pass or two forces, a full Hessian 3N or 6N; so which v is asked for matters. Random
directions see the stiff part of H, since vᵀHv is its mean eigenvalue; soft ones see what decides over minima, saddle
points and entropies. None of these needs the Hessian itself.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from hip_ext.errors import ConfigError
from hip_ext.labelling.base import Array
from hip_ext.vibrations.eckart import complement, rigid_modes

BONDED = 1.25
"""Atoms nearer than this times the sum of their covalent radii are bonded."""

REACH = 4.0
"""Springs of the elastic network end at this multiple of the sum of two covalent radii."""


class ProbeKind(StrEnum):
    """Which directions are drawn."""

    random = "random"
    low_modes = "low-modes"
    twists = "twists"


def draw_probes(atoms: Atoms, count: int, kind: ProbeKind | str, rng: np.random.Generator) -> Array:
    """Displacement fields of norm 1, in Å, for Hessian-vector products.

    - random: an orthonormal set from the uniform distribution.
    - low-modes: the softest modes of an elastic network (see `soft_modes`); always the same for a structure.
    - twists: the rotations of one side of a bond about it, of the bonds in random order; where a structure has fewer,
      random directions follow.

    Returns:
        [p, N, 3], p at most `count`, and no more than there are coordinates (random) or vibrations (low-modes).

    Raises:
        ConfigError: there is no such kind, or the count is not positive.
    """
    if count < 1:
        raise ConfigError(f"the number of probes is {count}, expected at least 1")
    try:
        kind = ProbeKind(kind)
    except ValueError:
        raise ConfigError(f"no probes of kind {kind!r}: known are {', '.join(ProbeKind)}") from None
    if kind is ProbeKind.low_modes:
        return soft_modes(atoms, count)
    twists = twist_directions(atoms) if kind is ProbeKind.twists else np.zeros((0, len(atoms), 3))
    twists = twists[rng.permutation(len(twists))[:count]]
    missing = min(count, 3 * len(atoms)) - len(twists)
    return np.concatenate((twists, _random(len(atoms), max(missing, 0), rng)))


def soft_modes(atoms: Atoms, count: int) -> Array:
    """The softest vibrations of an elastic network, in mass-weighted coordinates, as displacements of norm 1.

    Returns:
        [p, N, 3], softest first; p is `count` or the number of vibrations.
    """
    n, masses = len(atoms), atoms.get_masses()
    root = np.sqrt(np.repeat(masses, 3))
    weighted = elastic_network(atoms) / np.outer(root, root)
    vibrations = complement(rigid_modes(atoms.positions, masses, rotations=not atoms.pbc.any()))
    _, modes = np.linalg.eigh(vibrations.T @ weighted @ vibrations)
    found = (vibrations @ modes[:, :count]) / root[:, None]
    return (found / np.linalg.norm(found, axis=0)).T.reshape(-1, n, 3)


def elastic_network(atoms: Atoms) -> Array:
    """The Hessian of springs between near atoms, in units of the stiffness of a bond, [3N, 3N].

    Every pair at distance d is a spring of stiffness exp(3 − 3d/r) along it, r the sum of covalent radii, as in
    Hinsen's network (doi:10.1002/(SICI)1097-0134(19981115)33:3<417::AID-PROT10>3.0.CO;2-8) but by radii: no chemistry,
    but the shape of a molecule, which is most of what its soft modes depend on.
    """
    n = len(atoms)
    centre, neighbour, vector, distance = neighbor_list("ijDd", atoms, REACH * covalent_radii[atoms.numbers])
    ratio = distance / covalent_radii[atoms.numbers[np.stack((centre, neighbour))]].sum(axis=0)
    unit = vector / distance[:, None]
    block = np.exp(3 - 3 * ratio)[:, None, None] * unit[:, :, None] * unit[:, None, :]
    hessian = np.zeros((n, n, 3, 3))
    np.add.at(hessian, (centre, neighbour), -block)
    np.add.at(hessian, (centre, centre), block)
    return np.asarray(hessian.transpose(0, 2, 1, 3).reshape(3 * n, 3 * n))


def twist_directions(atoms: Atoms) -> Array:
    """One rotation about every bond that joins two parts of more than an atom each; rings and linear parts have none.

    Returns:
        [p, N, 3] of norm 1; nothing for a periodic structure.
    """
    n = len(atoms)
    if atoms.pbc.any():
        return np.zeros((0, n, 3))
    first, second = neighbor_list("ij", atoms, BONDED * covalent_radii[atoms.numbers])
    bonds = np.stack((first, second), axis=1)[first < second]
    found = []
    for index, (a, b) in enumerate(bonds):
        rest = np.delete(bonds, index, axis=0)
        graph = coo_matrix((np.ones(len(rest)), (rest[:, 0], rest[:, 1])), shape=(n, n))
        _, part = connected_components(graph, directed=False)
        if part[a] == part[b]:
            continue
        side = min((part == part[a], part == part[b]), key=np.count_nonzero)
        motion = side[:, None] * np.cross(atoms.positions[b] - atoms.positions[a], atoms.positions - atoms.positions[a])
        # a side on the axis does not move: a lone atom, or a straight chain
        if np.linalg.norm(motion, axis=1).max() > 0.1:
            found.append(motion / np.linalg.norm(motion))
    return np.array(found).reshape(-1, n, 3)


def _random(atoms: int, count: int, rng: np.random.Generator) -> Array:
    columns, _ = np.linalg.qr(rng.normal(size=(3 * atoms, count)))
    return columns.T.reshape(-1, atoms, 3)
