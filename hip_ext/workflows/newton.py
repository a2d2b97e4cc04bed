"""Newton steps on Hessians that are cheap, and not to be trusted for soft modes.

In the eigenvectors v_k of the Hessian, with eigenvalues h_k and the gradient's components g_k, the step is

    −Σ_k v_k g_k / max(|h_k|, floor),

shortened to a trust radius, without rigid motions. A negative or small curvature, where a predicted Hessian is worst,
thus gives a short step downhill. Where a few Hessians have not led to the end, a soft mode is probably predicted wrong,
and wrong again at the next step: from there on the last one is corrected by the gradients alone (BFGS).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from ase.optimize.optimize import Optimizer
from numpy.typing import NDArray

from hip_ext.errors import ConfigError, StructureError
from hip_ext.vibrations.eckart import checked_hessian, complement, rigid_modes

Array = NDArray[np.float64]
HessianFunction = Callable[[Atoms], Array]

FLOOR = 1.0
"""eV/Å²: torsions are softer, and everything that a step must know well is stiffer."""

SOFTEST = 0.05
"""Of the floor: the least curvature that updates can lead to."""

FRESH = 8
"""Hessians that are asked for before updates have to do: most molecules that they lead anywhere end within as many."""

FIRST_RADIUS, LARGEST_RADIUS, SMALLEST_RADIUS = 0.15, 0.4, 0.002
"""Trust radius, Å: the root of the mean squared displacement of the free atoms."""

NOISE = 2e-3
"""eV: below this an energy difference is taken from the forces, which float32 spoils less."""


class Point(NamedTuple):
    """Where a step began: free coordinates and gradient [3F], energy, and the change that the step promised."""

    coordinates: Array
    gradient: Array
    energy: float
    promised: float


class Newton(Optimizer):
    """An optimiser of ASE that takes a Hessian every step, or every few steps with BFGS updates between, at first.

        Newton(atoms, hessian_function=atoms.calc.get_hessian).run(fmax=0.01)

    Only positions move. Atoms of `FixAtoms` stay, and where there are any, or the structure is periodic, its rotations
    are not taken out.

    Args:
        atoms: with a calculator.
        hessian_function: takes the atoms, gives the Hessian of all of them, [3N, 3N], eV/Å².
        every: steps from one Hessian to the next.
        fresh: Hessians that are asked for at most; after the last one it is updated.
        floor: the least curvature that a step reckons with, eV/Å².
        kwargs: of `ase.optimize.optimize.Optimizer`, such as logfile and trajectory.

    Raises:
        StructureError: a constraint other than `FixAtoms` is set, or all atoms are fixed.
        ConfigError: `every`, `fresh` or `floor` is not positive.
    """

    def __init__(
        self,
        atoms: Atoms,
        hessian_function: HessianFunction,
        *,
        every: int = 1,
        fresh: int = FRESH,
        floor: float = FLOOR,
        **kwargs: Any,
    ) -> None:
        if every < 1 or fresh < 1 or not floor > 0:
            raise ConfigError(f"every is {every}, fresh {fresh} and floor {floor}: expected positive numbers")
        self.free = free_atoms(atoms)
        self.hessian_function, self.every, self.fresh, self.floor = hessian_function, every, fresh, floor
        self.radius = FIRST_RADIUS
        self.rejected = 0
        self._hessian: Array | None = None
        self._age = 0
        self._last: Point | None = None
        super().__init__(atoms, **kwargs)

    def step(self, *_: Any) -> None:
        """Moves the atoms; from where a step has led uphill, back and less far."""
        here = self._here()
        if self._last is not None:
            moved, turned = here.coordinates - self._last.coordinates, here.gradient - self._last.gradient
            change = here.energy - self._last.energy
            if abs(change) < NOISE:
                change = float((here.gradient + self._last.gradient) @ moved) / 2
            length = float(np.linalg.norm(moved)) / np.sqrt(len(self.free))
            kept = change / self._last.promised
            if change > NOISE:
                self.rejected += 1
                self.radius = max(length / 4, SMALLEST_RADIUS)
                here = self._last
            elif kept < 0.25:
                self.radius = max(length / 2, SMALLEST_RADIUS)
            elif kept > 0.75 and length > 0.8 * self.radius:
                self.radius = min(2 * self.radius, LARGEST_RADIUS)
            if here is self._last or self._age < self.every or self.fresh == 0:
                assert self._hessian is not None
                self._hessian = updated(self._hessian, moved, turned)
            else:
                self._hessian = None
        if self._hessian is None:
            self._hessian, self._age, self.fresh = self._positive(), 0, self.fresh - 1
        self._age += 1
        self._move(here)

    def _here(self) -> Point:
        forces = np.asarray(self.atoms.get_forces())
        if not np.isfinite(forces).all():
            raise StructureError("the forces are not finite: the atoms may have come too close to each other")
        positions = self.atoms.get_positions()[self.free].ravel()
        return Point(positions, -forces[self.free].ravel(), float(self.atoms.get_potential_energy()), 0.0)

    def _positive(self) -> Array:
        """With max(|h|, floor) in place of every eigenvalue h, kept positive by updates; nothing for rigid motions."""
        matrix = checked_hessian(self.hessian_function(self.atoms), len(self.atoms))
        coordinates = (3 * self.free[:, None] + np.arange(3)).ravel()
        basis = self._internal(self.atoms.positions[self.free])
        curvatures, vectors = np.linalg.eigh(basis.T @ matrix[np.ix_(coordinates, coordinates)] @ basis)
        vectors = basis @ vectors
        return np.asarray((vectors * np.maximum(np.abs(curvatures), self.floor)) @ vectors.T)

    def _move(self, here: Point) -> None:
        assert self._hessian is not None
        basis = self._internal(here.coordinates.reshape(-1, 3))
        curvatures, vectors = np.linalg.eigh(basis.T @ self._hessian @ basis)
        vectors = basis @ vectors
        slope = vectors.T @ here.gradient
        curvatures = np.maximum(curvatures, SOFTEST * self.floor)  # an update may find less than the floor
        step = shortened(slope, curvatures, self.radius * np.sqrt(len(self.free)))
        promised = float(slope @ step + step @ (curvatures * step) / 2)
        positions = self.atoms.get_positions()
        positions[self.free] = (here.coordinates + vectors @ step).reshape(-1, 3)
        self.atoms.set_positions(positions)
        self._last = here._replace(promised=min(promised, -1e-12))

    def _internal(self, positions: Array) -> Array:
        """An orthonormal basis of the motions that are not rigid, [3F, m]."""
        if len(self.free) < len(self.atoms):
            return np.eye(positions.size)
        rotations = not self.atoms.pbc.any()
        rigid = rigid_modes(positions, np.ones(len(self.free)), rotations=rotations)
        return complement(rigid)


def free_atoms(atoms: Atoms) -> NDArray[np.int64]:
    """Indices of the atoms that may move.

    Raises:
        StructureError: a constraint other than `FixAtoms` is set, or all atoms are fixed.
    """
    other = [type(c).__name__ for c in atoms.constraints if not isinstance(c, FixAtoms)]
    if other:
        raise StructureError(f"constraint {other[0]} is not kept by Newton steps: use FixAtoms, or BFGS")
    fixed = [int(i) for c in atoms.constraints for i in c.get_indices()]
    free = np.setdiff1d(np.arange(len(atoms)), np.asarray(fixed, dtype=np.int64))
    if len(free) == 0:
        raise StructureError(f"all {len(atoms)} atoms are fixed: nothing can be relaxed")
    return free.astype(np.int64)


def updated(hessian: Array, moved: Array, turned: Array) -> Array:
    """The BFGS update for a step and the change of the gradient over it; none where the curvature is not positive."""
    along, image = float(moved @ turned), hessian @ moved
    before = float(moved @ image)
    if along <= 1e-3 * np.linalg.norm(moved) * np.linalg.norm(turned) or before <= 0:
        return hessian
    return hessian + np.outer(turned, turned) / along - np.outer(image, image) / before


def shortened(slope: Array, curvatures: Array, radius: float) -> Array:
    """The step −g/(h + μ), with the least μ ≥ 0 that keeps it within the radius; all [n], h > 0."""

    def length(shift: float) -> float:
        return float(np.linalg.norm(slope / (curvatures + shift)))

    low, high = 0.0, 0.0
    if length(0.0) > radius:
        high = float(np.linalg.norm(slope)) / radius  # here the step is short enough whatever the curvatures
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if length(middle) > radius else (low, middle)
    return -slope / (curvatures + high)
