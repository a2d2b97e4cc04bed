"""Guesses of a saddle: from two end points, by a geodesic path or a nudged elastic band, or from frames of a path."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.mep import NEB
from ase.optimize import FIRE

from hip_ext.errors import StructureError
from hip_ext.workflows.reactions.requirements import require_geodesic
from hip_ext.workflows.reactions.surface import Array, Surface


@dataclass(frozen=True, eq=False)
class Guess:
    """Frames of a path and the highest of them.

    Attributes:
        frames: K structures.
        energies: eV, [K].
        highest: index of the guess among the frames.
    """

    frames: list[Atoms]
    energies: Array
    highest: int

    @property
    def atoms(self) -> Atoms:
        """The guess."""
        return self.frames[self.highest]

    @property
    def tangent(self) -> Array | None:
        """From the frame before the guess to the one after it, [N, 3] in Å; None for a single frame."""
        if len(self.frames) == 1:
            return None
        before, after = max(self.highest - 1, 0), min(self.highest + 1, len(self.frames) - 1)
        return np.asarray(self.frames[after].positions - self.frames[before].positions)


def geodesic_path(reactant: Atoms, product: Atoms, images: int = 11, seed: int = 0) -> list[Atoms]:
    """The shortest path between two structures in the metric of their interatomic distances (Zhu et al. 2019).

    Needs no energies. The reactant is the first image as it is; all others are turned and moved onto it.

    Args:
        reactant: N atoms.
        product: the same atoms in the same order.
        images: structures on the path, both ends included.
        seed: of the nudges by which geodesic-interpolate leaves symmetric arrangements.

    Raises:
        MissingDependencyError: geodesic-interpolate is not installed.
        StructureError: the end points cannot be connected.
    """
    require_geodesic()
    from geodesic_interpolate import Geodesic, redistribute

    logging.getLogger("geodesic_interpolate").setLevel(logging.ERROR)
    symbols = reactant.get_chemical_symbols()
    state = np.random.get_state()  # noqa: NPY002 - the library draws from the global generator
    np.random.seed(seed)  # noqa: NPY002
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            raw = redistribute(symbols, [reactant.positions, product.positions], images, tol=2e-2)
            smoother = Geodesic(symbols, raw, 0.7, threshold=3, friction=1e-2)
            path = smoother.smooth(tol=2e-3, max_iter=15) if len(symbols) < 35 else smoother.sweep(max_iter=20)
    except (ValueError, np.linalg.LinAlgError, ZeroDivisionError) as error:
        raise StructureError(f"no geodesic path connects the end points ({error}): give a guess instead") from None
    finally:
        np.random.set_state(state)  # noqa: NPY002
    if not np.isfinite(path).all():
        raise StructureError("no geodesic path connects the end points: give a guess instead")
    return [_moved(reactant, positions) for positions in path]


def band_path(frames: Sequence[Atoms], surface: Surface, fmax: float = 0.3, steps: int = 30) -> list[Atoms]:
    """A few steps of a climbing nudged elastic band from the given path, which take the worst of its strain out.

    Raises:
        BackboneError: the surface fails.
    """
    placed = [surface.on(atoms) for atoms in frames]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        band = NEB(placed, climb=True, allow_shared_calculator=True, method="improvedtangent")
        FIRE(band, logfile=None).run(fmax=fmax, steps=steps)
    return [_moved(frames[0], atoms.positions) for atoms in placed]


def highest(frames: Sequence[Atoms], surface: Surface, inner: bool = True) -> Guess:
    """The frame of a path with the highest energy.

    Args:
        frames: a path.
        surface: its energies.
        inner: leave the two ends out where there are others.

    Raises:
        StructureError: there is no frame, or they have different atoms.
        BackboneError: the surface fails.
    """
    if not frames:
        raise StructureError("a path without frames has no highest one: give at least one structure")
    if any(not np.array_equal(atoms.numbers, frames[0].numbers) for atoms in frames):
        raise StructureError("the frames of the path have different atoms: a path has the same atoms in the same order")
    energies = np.asarray([surface.on(atoms).get_potential_energy() for atoms in frames])
    cut = 1 if inner and len(frames) > 2 else 0
    top = int(np.argmax(energies[cut : len(frames) - cut])) + cut
    return Guess([atoms.copy() for atoms in frames], energies, top)


def _moved(atoms: Atoms, positions: Array) -> Atoms:
    moved = Atoms(atoms.numbers, positions, info=dict(atoms.info))
    moved.set_masses(atoms.get_masses())
    return moved
