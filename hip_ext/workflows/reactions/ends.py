"""The minima at the two ends of a path, and which of the expected ones they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.optimize import BFGS

from hip_ext.errors import HipExtError, reason_of
from hip_ext.workflows.reactions.connectivity import aligned_rmsd, distance_between, same_bonds, same_molecule
from hip_ext.workflows.reactions.surface import Surface

SAME = 0.25
"""Å: two minima with the same bonds are the same conformer below this root mean square distance."""

APART = 4.0
"""Å: molecules further apart than this at the end of a path have run away from each other."""


@dataclass(frozen=True, eq=False)
class Minimum:
    """The foot of a path, relaxed.

    Attributes:
        atoms: the structure.
        energy: eV.
        largest_force: eV/Å.
        problem: one line on why this is not a minimum; empty if it is one as far as the forces say.
    """

    atoms: Atoms
    energy: float
    largest_force: float
    problem: str


def relax_end(atoms: Atoms, surface: Surface, fmax: float = 0.01, steps: int = 300) -> Minimum:
    """Relaxes the foot of a path.

    Raises:
        BackboneError: the surface fails.
    """
    at = surface.on(atoms)
    converged = bool(BFGS(at, logfile=None).run(fmax=fmax, steps=steps))
    force = float(np.linalg.norm(at.get_forces(), axis=1).max())
    energy = float(at.get_potential_energy())
    problem = (
        "" if converged else f"the path runs away: no minimum within {steps} steps, largest force {force:.3f} eV/Å"
    )
    if not converged and (gap := distance_between(at)) > APART:
        problem = f"the path runs away: its molecules are {gap:.1f} Å apart after {steps} steps"
    bare = at.copy()
    bare.calc = None
    return Minimum(bare, energy, force, problem)


def try_relax(atoms: Atoms, surface: Surface, fmax: float = 0.01, steps: int = 300) -> Minimum | str:
    """As `relax_end`, but one line on why where the surface fails."""
    try:
        return relax_end(atoms, surface, fmax, steps)
    except HipExtError as error:
        return reason_of(error)


def match(found: tuple[Atoms, Atoms], wanted: tuple[Atoms, Atoms]) -> tuple[str, bool]:
    """Compares the two ends of a path with the two that were intended, in either order.

    Args:
        found: the ends of the path, relaxed.
        wanted: reactant and product.

    Returns:
        "both" if each intended end is found, "one", or "none", comparing bonds atom by atom (and the geometry where
        reactant and product have the same bonds, such as two conformers); and whether the first found is the product.
    """
    conformers = same_bonds(*wanted)
    direct = [_same(f, w, conformers) for f, w in zip(found, wanted, strict=True)]
    crossed = [_same(f, w, conformers) for f, w in zip(found, wanted[::-1], strict=True)]
    swap = sum(crossed) > sum(direct)
    return ("none", "one", "both")[max(sum(direct), sum(crossed))], swap


def match_up_to_order(found: tuple[Atoms, Atoms], wanted: tuple[Atoms, Atoms]) -> bool:
    """Whether both intended molecules are found, whichever of their like atoms are where."""
    direct = all(same_molecule(f, w) for f, w in zip(found, wanted, strict=True))
    return direct or all(same_molecule(f, w) for f, w in zip(found, wanted[::-1], strict=True))


def _same(a: Atoms, b: Atoms, conformers: bool) -> bool:
    return same_bonds(a, b) and (not conformers or aligned_rmsd(a, b) < SAME)
