"""Point group and symmetry number of a molecule, by libmsym (the package pymsym).

libmsym decides with thresholds, and a relaxed structure is symmetric to some 1e-3 Å only: too tight a threshold misses
a rotation, or finds no group at all. So it is asked with thresholds from tight to loose, every operation that it finds
is tried on the atoms, and the largest group holds of which each operation brings each atom within `tolerance` of an
equal one. The symmetry number is the count of its proper rotations: tables in use have wrong ones for S4 or T.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from hip_ext.errors import StructureError
from hip_ext.vibrations.eckart import Array, rigid_modes

TOLERANCE = 0.1
"""Å: how far an operation may leave an atom from its image."""

THRESHOLDS = (1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1)
IDENTITY, ROTATION, IMPROPER, REFLECTION = range(4)


@dataclass(frozen=True)
class PointGroup:
    """A molecule's symmetry.

    Attributes:
        name: in Schönflies' notation: "C2v", "D6h"; "Cinfv" and "Dinfh" for linear molecules, "Kh" for an atom.
        symmetry_number: rotations that map the molecule onto itself.
    """

    name: str
    symmetry_number: int


def point_group(atoms: Atoms, *, tolerance: float = TOLERANCE) -> PointGroup:
    """The point group of a molecule; atoms of different mass (isotopes) are different.

    Args:
        atoms: a molecule, with its masses.
        tolerance: Å, how far an operation may leave an atom from its image.

    Raises:
        StructureError: the structure is periodic.
        MissingDependencyError: the molecule is not linear and pymsym is not installed.
    """
    if atoms.pbc.any():
        raise StructureError("a periodic structure has a space group, not a point group: ask spglib for it")
    masses = np.asarray(atoms.get_masses(), dtype=np.float64)
    kinds = np.unique(np.column_stack((atoms.numbers, masses)), axis=0, return_inverse=True)[1].ravel()
    points = atoms.positions - np.average(atoms.positions, axis=0, weights=masses)
    if len(atoms) == 1:
        return PointGroup("Kh", 1)
    if rigid_modes(points, masses).shape[1] == 5:
        turned = _maps(-np.eye(3), points, kinds, tolerance)
        return PointGroup("Dinfh", 2) if turned else PointGroup("Cinfv", 1)
    # Here, since this import takes torch with it, which nothing else of this package needs.
    from hip_ext.backbones.frameworks import require

    require("pymsym", "pymsym>=0.3.5,<0.4", "thermo")
    library = importlib.import_module("pymsym")
    best, size = PointGroup("C1", 1), 1
    for threshold in THRESHOLDS:
        name, operations = _find(library, atoms, points, masses, threshold)
        matrices = [_matrix(operation) for operation in operations]
        if len(matrices) > size and all(_maps(m, points, kinds, tolerance) for m in matrices):
            best, size = PointGroup(name, sum(bool(np.linalg.det(m) > 0) for m in matrices)), len(matrices)
    return best


def _find(library: Any, atoms: Atoms, points: Array, masses: Array, threshold: float) -> tuple[str, list[Any]]:
    """The group that libmsym finds with one threshold, and its operations; none where it gives up."""
    elements = [
        library.Element(name=symbol, coordinates=point.tolist(), mass=float(mass))
        for symbol, point, mass in zip(atoms.get_chemical_symbols(), points, masses, strict=True)
    ]
    loose = dict.fromkeys(("zero", "angle", "geometry", "equivalence", "eigfact", "permutation"), threshold)
    try:
        with library.Context(elements=elements) as context:
            context.set_thresholds(**loose)
            name = str(context.find_symmetry())
            # A linear group has no complete list of operations; the shape was decided before.
            return name, [] if "0" in name else [_copied(operation) for operation in context.symmetry_operations]
    except library.Error:
        return "C1", []


def _copied(operation: Any) -> tuple[int, int, int, list[float]]:
    """Type, order, power and axis: the library's own memory goes with its context."""
    return int(operation.type), int(operation.order), int(operation.power), [float(x) for x in operation.vector]


def _matrix(operation: tuple[int, int, int, list[float]]) -> Array:
    kind, order, power, vector = operation
    if kind == IDENTITY:
        return np.eye(3)
    if kind not in (ROTATION, IMPROPER, REFLECTION):
        return -np.eye(3)
    axis = np.array(vector) / np.linalg.norm(vector)
    mirror: Array = np.eye(3) - 2 * np.outer(axis, axis)
    if kind == REFLECTION:
        return mirror
    turn: Array = Rotation.from_rotvec(axis * 2 * np.pi * power / order).as_matrix()
    return turn if kind == ROTATION else turn @ np.linalg.matrix_power(mirror, power)


def _maps(matrix: Array, points: Array, kinds: NDArray[np.int64], tolerance: float) -> bool:
    """Whether the operation brings every atom near one of its kind, different atoms near different ones."""
    distances = np.linalg.norm((points @ matrix.T)[:, None] - points[None], axis=2)
    distances[kinds[:, None] != kinds[None]] = np.inf
    images = distances.argmin(axis=1)
    return bool(distances.min(axis=1).max() <= tolerance) and len(set(images.tolist())) == len(images)
