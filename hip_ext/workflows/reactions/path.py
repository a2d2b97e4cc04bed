"""Both branches of a path as one, and the minima at its feet."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms

from hip_ext.workflows.reactions.connectivity import named_molecules
from hip_ext.workflows.reactions.ends import Minimum, relax_end
from hip_ext.workflows.reactions.irc import Branch, PathSettings, descend
from hip_ext.workflows.reactions.result import ReactionPath
from hip_ext.workflows.reactions.saddle import Saddle
from hip_ext.workflows.reactions.surface import Surface


@dataclass(frozen=True, eq=False)
class Followed:
    """A path and its two feet, in the order of its frames."""

    path: ReactionPath
    ends: tuple[Minimum, Minimum]

    def reversed(self) -> Followed:
        """The same the other way round."""
        path = self.path
        turned = ReactionPath(
            path.frames[::-1],
            -path.coordinate[::-1],
            path.energies[::-1],
            len(path.frames) - 1 - path.saddle,
            path.reached[::-1],
        )
        return Followed(turned, self.ends[::-1])

    @property
    def atoms(self) -> tuple[Atoms, Atoms]:
        """The two minima."""
        return self.ends[0].atoms, self.ends[1].atoms

    @property
    def notes(self) -> list[str]:
        """What went wrong at an end, a line each."""
        return [f"{named_molecules(end.atoms)}: {end.problem}" for end in self.ends if end.problem]


def follow(saddle: Saddle, surface: Surface, settings: PathSettings | None = None) -> Followed:
    """Follows the path down both ways from a verified saddle, and relaxes its feet.

    Raises:
        BackboneError: the surface fails.
    """
    backward, forward = (descend(saddle.atoms, saddle.hessian, sign, surface, settings) for sign in (-1, 1))
    ends = (relax_end(backward.frames[-1], surface), relax_end(forward.frames[-1], surface))
    return Followed(_joined(backward, saddle, forward), ends)


def _joined(backward: Branch, saddle: Saddle, forward: Branch) -> ReactionPath:
    return ReactionPath(
        [*backward.frames[::-1], saddle.atoms, *forward.frames],
        np.concatenate((-backward.coordinate[::-1], [0.0], forward.coordinate)),
        np.concatenate((backward.energies[::-1], [saddle.energy], forward.energies)),
        len(backward.frames),
        (backward.reached, forward.reached),
    )
