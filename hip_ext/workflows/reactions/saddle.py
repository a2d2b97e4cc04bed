"""The search for a saddle of first order by Sella, with a Hessian of our own at the start or at every step.

Sella goes uphill along the lowest mode of its Hessian and downhill along all others, in internal coordinates. Where
that Hessian comes from is the choice here (`HessianUse`); between two Hessians Sella updates the one that it has by the
gradients of its steps. What was found is then looked at with one exact Hessian.

`refresh` says when a Hessian is made anew: 0 at the start alone (and when the updated one has lost its negative mode),
n after every n-th step.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
from ase import Atoms

from hip_ext.errors import ConfigError, HipExtError, reason_of
from hip_ext.vibrations import Vibrations, analyse
from hip_ext.workflows.reactions.connectivity import fragments
from hip_ext.workflows.reactions.requirements import require_sella
from hip_ext.workflows.reactions.surface import Array, HessianMethod, Surface

HessianUse = Literal["direct", "autograd", "finite_difference", "sella", "guess"]
"""A Hessian of the surface; or "sella": its own iterative diagonalisation by differences of gradients; or "guess": its
guess in internal coordinates, positive definite and never looked at, for comparison."""

NEVER = 10**9
DIFFERENCE = 0.02
"""Å over all atoms together, for differences of forces, which in float32 are good to some 1e-4 eV/Å."""


@dataclass(frozen=True)
class SearchSettings:
    """How to search.

    Attributes:
        hessian: where Sella's Hessian comes from.
        refresh: 0 for a Hessian at the start alone, n for one after every n-th step; of no meaning for "sella" and
            "guess".
        fmax: largest force of a saddle, eV/Å.
        steps: at most so many.
        repairs: how often a stationary point with several negative modes is left along the second of them, and the
            search gone on with from the exact Hessian that found it.
    """

    hessian: HessianUse = "direct"
    refresh: int = 0
    fmax: float = 0.01
    steps: int = 200
    repairs: int = 2

    def __post_init__(self) -> None:
        if self.refresh < 0 or self.steps < 1 or not self.fmax > 0 or self.repairs < 0:
            raise ConfigError(
                f"refresh {self.refresh}, steps {self.steps}, fmax {self.fmax}, repairs {self.repairs}: "
                "steps and fmax must be positive, the others not negative"
            )


@dataclass(frozen=True, eq=False)
class Search:
    """Where a search ended.

    Attributes:
        atoms: the structure.
        converged: whether the forces vanish there.
        steps: of Sella.
        failure: one line on what Sella stumbled over; empty if nothing.
    """

    atoms: Atoms
    converged: bool
    steps: int
    failure: str


@dataclass(frozen=True, eq=False)
class Saddle:
    """Where a search ended, seen by one exact Hessian.

    Attributes:
        atoms: the structure.
        energy: eV.
        largest_force: eV/Å.
        hessian: exact, eV/Å², [3N, 3N].
        vibrations: of that Hessian.
        steps: of Sella, over all repairs.
        problem: one line on why this is not a saddle of first order; empty if it is one.
    """

    atoms: Atoms
    energy: float
    largest_force: float
    hessian: Array
    vibrations: Vibrations
    steps: int
    problem: str


def find_saddle(
    guess: Atoms, surface: Surface, settings: SearchSettings | None = None, tangent: Array | None = None
) -> Saddle:
    """Searches from a guess and verifies the result with an exact Hessian.

    Args:
        guess: N atoms.
        surface: energies, forces and Hessians.
        settings: as they are by default.
        tangent: of a path that the guess is the highest point of, [N, 3]; see `search`.

    Raises:
        MissingDependencyError: Sella is not installed.
        StructureError, BackboneError: the surface refuses a structure or fails.
    """
    settings = settings or SearchSettings()
    found = search(guess, surface, settings, tangent=tangent)
    saddle = verify(found, surface)
    for _ in range(settings.repairs):
        left = settings.steps - saddle.steps
        if not found.converged or saddle.vibrations.num_imaginary < 2 or left < 1:
            break
        aside = _left(saddle)
        found = search(aside, surface, replace(settings, steps=left), start=saddle.hessian)
        found = replace(found, steps=saddle.steps + found.steps)
        saddle = verify(found, surface)
    return saddle


def search(
    guess: Atoms,
    surface: Surface,
    settings: SearchSettings,
    start: Array | None = None,
    tangent: Array | None = None,
) -> Search:
    """Searches from a guess, and does not look at what was found.

    Args:
        guess: N atoms.
        surface: energies, forces and Hessians.
        settings: see there.
        start: the first Hessian, eV/Å², [3N, 3N]; by default as the settings say.
        tangent: of a path that the guess is the highest point of, [N, 3]. A predicted Hessian at the start is made
            right along it by two gradients, so that the mode that is followed uphill is the one that reacts.

    Raises:
        MissingDependencyError, StructureError, BackboneError: as `find_saddle`.
    """
    require_sella()
    atoms, steps, failure = surface.on(guess), 0, ""
    if start is None and tangent is not None and settings.hessian == "direct" and settings.refresh == 0:
        start = right_along(tangent, surface.hessian(atoms, "direct"), atoms, surface)
    # Internal coordinates first. Where Sella cannot build or keep them, Cartesian ones from where it had come to.
    for internal in (True, False):
        last, optimiser = atoms.positions.copy(), None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                optimiser = _sella(atoms, surface, settings, start, internal)
                converged = bool(optimiser.run(fmax=settings.fmax, steps=settings.steps - steps))
            return Search(_bare(atoms), converged, steps + optimiser.nsteps, "")
        except (HipExtError, MemoryError):
            raise
        except Exception as error:  # of Sella's coordinates and linear algebra, of any kind
            failure = reason_of(error)
            steps += optimiser.nsteps if optimiser is not None else 0
            if not np.isfinite(atoms.positions).all():
                atoms.positions = last
    return Search(_bare(atoms), False, steps, failure)


def right_along(direction: Array, hessian: Array, atoms: Atoms, surface: Surface) -> Array:
    """A Hessian H corrected so that H·v is exact for one direction, with the least change.

    With v of unit length and r = (exact H)·v − H·v, the matrix is H + r vᵀ + v rᵀ − (v·r) v vᵀ. The exact product is a
    central difference of forces.

    Args:
        direction: [N, 3], of any length but zero.
        hessian: eV/Å², [3N, 3N].
        atoms: where it was made.
        surface: forces.

    Raises:
        BackboneError: the surface fails.
    """
    v = np.asarray(direction, dtype=np.float64).ravel()
    v = v / np.linalg.norm(v)
    pulls = []
    for sign in (1, -1):
        moved = surface.on(atoms)
        moved.positions += sign * DIFFERENCE * v.reshape(-1, 3)
        pulls.append(moved.get_forces().ravel())
    miss = (pulls[1] - pulls[0]) / (2 * DIFFERENCE) - hessian @ v
    return np.asarray(hessian + np.outer(miss, v) + np.outer(v, miss) - (v @ miss) * np.outer(v, v))


def verify(found: Search, surface: Surface) -> Saddle:
    """Looks at the end of a search with one exact Hessian.

    Raises:
        StructureError, BackboneError: as `find_saddle`.
    """
    atoms = surface.on(found.atoms)
    energy, forces = float(atoms.get_potential_energy()), atoms.get_forces()
    hessian = surface.exact_hessian(atoms)
    vibrations = analyse(found.atoms, hessian, forces=forces)
    largest = float(np.linalg.norm(forces, axis=1).max())
    problem = _problem(found, vibrations.frequencies[: vibrations.num_imaginary].tolist(), largest)
    return Saddle(found.atoms, energy, largest, hessian, vibrations, found.steps, problem)


def _sella(atoms: Atoms, surface: Surface, settings: SearchSettings, start: Array | None, internal: bool) -> Any:
    from sella import Sella

    make: Any = Sella  # whose annotations forbid the None that its documentation asks for
    function: Callable[[Atoms], Array] | None = None
    if settings.hessian not in ("sella", "guess"):
        first = [start] if start is not None else []

        def function(at: Atoms) -> Array:
            return first.pop() if first else surface.hessian(at, cast(HessianMethod, settings.hessian))

    # Sella counts the steps since the last Hessian from −1 at the start and refreshes at `diag_every_n`; −1 is the one
    # number that gives a Hessian after every step, the first included.
    every = {0: NEVER, 1: -1}.get(settings.refresh, settings.refresh - 1)
    return make(
        atoms,
        order=1,
        internal=internal,
        logfile=None,
        eig=settings.hessian != "guess",
        hessian_function=function,
        diag_every_n=every if function is not None else None,
        allow_fragments=internal and len(fragments(atoms)) > 1,
        exact_geodesic=False,
    )


def _left(saddle: Saddle) -> Atoms:
    """The structure after a step along its second mode, of 0.1 Å for the atom that moves most."""
    atoms, mode = saddle.atoms.copy(), saddle.vibrations.modes[1]
    atoms.positions += 0.1 * mode / np.linalg.norm(mode, axis=1).max()
    return atoms


def _problem(found: Search, imaginary: list[float], force: float) -> str:
    if found.failure:
        return f"no saddle found: the search broke off after {found.steps} steps ({found.failure})"
    if not found.converged and found.steps == 0:
        return f"no saddle: the largest force is {force:.3f} eV/Å; search from here first (hip-ext ts)"
    if not found.converged:
        return f"no saddle found within {found.steps} steps: the largest force is {force:.3f} eV/Å"
    if not imaginary:
        return "a minimum where a saddle was asked for: no imaginary mode"
    if len(imaginary) > 1:
        modes = ", ".join(f"{-f:.0f}i" for f in imaginary)
        return f"a saddle of order {len(imaginary)}, not 1: imaginary modes {modes} cm⁻¹"
    return ""


def _bare(atoms: Atoms) -> Atoms:
    bare = atoms.copy()
    bare.calc = None
    return bare
