"""From end points, a guess or a trajectory to a verified saddle, its two minima, its barrier and its rate.

    surface = Surface(HessianCalculator(from_pretrained("hip-so3lr-organic")))
    found = find_transition_state([reactant, product], surface)
    found.problem, found.forward, found.path

The saddle and both minima are looked at with one exact Hessian each; all numbers come from those.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from ase import Atoms

from hip_ext.errors import ConfigError, HipExtError, StructureError
from hip_ext.structures import Structures, unpaired_electrons
from hip_ext.vibrations import Vibrations, analyse, ideal_gas_thermo
from hip_ext.workflows.reactions.connectivity import aligned_rmsd, changes, fragments, named_molecules
from hip_ext.workflows.reactions.ends import Minimum, match
from hip_ext.workflows.reactions.guesses import Guess, band_path, geodesic_path, highest
from hip_ext.workflows.reactions.irc import PathSettings
from hip_ext.workflows.reactions.mapping import check_ends, mapped
from hip_ext.workflows.reactions.path import Followed, follow
from hip_ext.workflows.reactions.rates import eyring_rate, wigner_factor
from hip_ext.workflows.reactions.result import Barrier, End, TransitionState
from hip_ext.workflows.reactions.saddle import Saddle, Search, SearchSettings, find_saddle, verify
from hip_ext.workflows.reactions.surface import Surface

MOVED = 0.01
"""Å: a search that ends within this distance of its guess has not gone anywhere."""

SAME_ENDS = 0.1
"""Å: two ends closer than this are one minimum."""


@dataclass(frozen=True)
class ReactionSettings:
    """All that a result depends on besides structures and surface.

    Attributes:
        search: for the saddle.
        path: down from it.
        images: of the path between two end points, the ends included.
        band: relax that path by a few steps of a nudged elastic band before its highest frame is taken.
        map_atoms: put the product's atoms into the order that fits the reactant's best.
        temperature: K.
        pressure: Pa.
        symmetry_numbers: of the reactant, the saddle and the product.
    """

    search: SearchSettings = field(default_factory=SearchSettings)
    path: PathSettings = field(default_factory=PathSettings)
    images: int = 11
    band: bool = False
    map_atoms: bool = False
    temperature: float = 298.15
    pressure: float = 101325.0
    symmetry_numbers: tuple[int, int, int] = (1, 1, 1)

    def __post_init__(self) -> None:
        if self.images < 3 or not (self.temperature > 0 and self.pressure > 0) or min(self.symmetry_numbers) < 1:
            raise ConfigError(
                f"images {self.images}, temperature {self.temperature}, pressure {self.pressure}, symmetry numbers "
                f"{self.symmetry_numbers}: at least 3 images, all others positive"
            )


def find_transition_state(
    frames: Sequence[Atoms], surface: Surface, settings: ReactionSettings | None = None
) -> TransitionState:
    """Finds and follows a saddle.

    Args:
        frames: one structure is a guess, two are reactant and product, more are a path with a highest frame.
        surface: energies, forces and Hessians.
        settings: as they are by default.

    Returns:
        A result whose `problem` says why there is no saddle, if there is none; a path that cannot be followed, ends
        that were not intended and the like are among its `notes`.

    Raises:
        StructureError: the structures cannot be the start of a search.
        MissingDependencyError: Sella or geodesic-interpolate is not installed.
        BackboneError: the surface fails before a saddle is found.
    """
    settings = settings or ReactionSettings()
    before = surface.cost.copy()
    guess, wanted = _guess(frames, surface, settings)
    # Between two end points the path says which way the reaction goes; frames of a trajectory also tremble and turn.
    saddle = find_saddle(guess.atoms, surface, settings.search, guess.tangent if wanted else None)
    result = TransitionState(saddle, guess.atoms, settings.temperature, settings.pressure)
    if saddle.problem:
        result = replace(result, notes=_where_it_went(saddle, guess.atoms))
    else:
        result = _followed(result, surface, settings, wanted)
    return replace(result, cost=surface.cost - before)


def follow_saddle(atoms: Atoms, surface: Surface, settings: ReactionSettings | None = None) -> TransitionState:
    """The same from a saddle that is known: it is verified, not searched for.

    Args:
        atoms: a stationary point with one negative mode.
        surface: energies, forces and Hessians.
        settings: as they are by default.

    Returns:
        As `find_transition_state`; also one with a `problem` if this is no such point.

    Raises:
        StructureError, BackboneError: as `find_transition_state`.
    """
    settings = settings or ReactionSettings()
    _check(atoms, "the saddle")
    before = surface.cost.copy()
    placed = surface.on(atoms)
    force = float(np.linalg.norm(placed.get_forces(), axis=1).max())
    # A saddle of another program or of fewer digits is still one to follow; ten times the limit of a search is not.
    found = Search(atoms.copy(), force < 10 * settings.search.fmax, 0, "")
    saddle = verify(found, surface)
    result = TransitionState(saddle, atoms, settings.temperature, settings.pressure)
    if not saddle.problem:
        result = _followed(result, surface, settings, None)
    return replace(result, cost=surface.cost - before)


def _guess(
    frames: Sequence[Atoms], surface: Surface, settings: ReactionSettings
) -> tuple[Guess, tuple[Atoms, Atoms] | None]:
    for index, atoms in enumerate(frames):
        _check(atoms, f"structure {index}" if len(frames) > 1 else "the guess")
    if len(frames) != 2:
        return highest(frames, surface, inner=False), None
    reactant, product = frames
    if settings.map_atoms:
        product = mapped(reactant, product)
    check_ends(reactant, product)
    path = geodesic_path(reactant, product, settings.images)
    if settings.band:
        path = band_path(path, surface)
    return highest(path, surface), (reactant, product)


def _check(atoms: Atoms, name: str) -> None:
    Structures.from_ase(atoms)
    if atoms.pbc.any():
        raise StructureError(f"{name} is periodic: transition states are searched for molecules; set pbc to False")
    if atoms.constraints:
        raise StructureError(f"{name} has constraints, which a search and a path do not keep: take them off")
    if len(atoms) < 3:
        raise StructureError(f"{name} has {len(atoms)} atoms: a saddle needs at least three")


def _where_it_went(saddle: Saddle, guess: Atoms) -> tuple[str, ...]:
    if not saddle.vibrations.num_imaginary and aligned_rmsd(saddle.atoms, guess) < MOVED:
        return ("the guess is itself a minimum: start from a structure between two minima, or give both",)
    return ()


def _followed(
    result: TransitionState, surface: Surface, settings: ReactionSettings, wanted: tuple[Atoms, Atoms] | None
) -> TransitionState:
    saddle = result.saddle
    wigner = wigner_factor(float(saddle.vibrations.frequencies[0]), settings.temperature)
    try:
        followed = follow(saddle, surface, settings.path)
        found, turned = match(followed.atoms, wanted) if wanted else ("", False)
        followed = followed.reversed() if turned else followed
        ends = (_end(followed.ends[0], surface), _end(followed.ends[1], surface))
    except HipExtError as error:
        # The saddle is found and verified: it is kept, whatever happens on the way down.
        return replace(result, wigner=wigner, notes=(f"the path could not be followed: {error}",))
    notes = [*followed.notes, *_notes(followed, found, wanted)]
    barriers = []
    for end, symmetry in zip(ends, settings.symmetry_numbers[::2], strict=True):
        barrier, note = _barrier(saddle, end, settings, symmetry)
        barriers.append(barrier)
        notes += [note] if note else []
    return replace(
        result,
        path=followed.path,
        reactant=ends[0],
        product=ends[1],
        match=found,
        changes=changes(*followed.atoms),
        forward=barriers[0],
        reverse=barriers[1],
        wigner=wigner,
        notes=tuple(dict.fromkeys(notes)),
    )


def _notes(followed: Followed, found: str, wanted: tuple[Atoms, Atoms] | None) -> list[str]:
    notes = []
    if wanted and found != "both":
        ends = " and ".join(named_molecules(atoms) for atoms in followed.atoms)
        notes.append(f"{found} of the intended ends found: the path joins {ends}")
    if any(len(fragments(atoms)) > 1 for atoms in followed.atoms):
        notes.append("an end has several molecules: energies are those of their complex as it stands")
    if not changes(*followed.atoms) and aligned_rmsd(*followed.atoms) < SAME_ENDS:
        notes.append("both ends are one minimum: the path leads back to where it came from")
    return notes


def _end(minimum: Minimum, surface: Surface) -> End:
    vibrations: Vibrations | None = None
    if not minimum.problem:
        vibrations = analyse(minimum.atoms, surface.exact_hessian(minimum.atoms))
    return End(minimum, named_molecules(minimum.atoms), vibrations)


def _barrier(saddle: Saddle, end: End, settings: ReactionSettings, symmetry: int) -> tuple[Barrier | None, str]:
    """The barrier, and a line on what of it could not be had."""
    if end.vibrations is None:
        return None, ""
    energy = saddle.energy - end.minimum.energy
    zero_point = energy + saddle.vibrations.zero_point_energy - end.vibrations.zero_point_energy
    spin = unpaired_electrons(saddle.atoms) / 2
    free = []
    for point, modes, top, number in (
        (end.minimum.atoms, end.vibrations, False, symmetry),
        (saddle.atoms, saddle.vibrations, True, settings.symmetry_numbers[1]),
    ):
        base = saddle.energy if top else end.minimum.energy
        try:
            thermo = ideal_gas_thermo(modes, point, base, number, spin, transition_state=top)
        except StructureError as error:
            return Barrier(energy, zero_point, None, None), f"no Gibbs energy of {end.molecules}: {error}"
        free.append(float(thermo.get_gibbs_energy(settings.temperature, settings.pressure, verbose=False)))
    gibbs = free[1] - free[0]
    return Barrier(energy, zero_point, gibbs, eyring_rate(gibbs, settings.temperature)), ""
