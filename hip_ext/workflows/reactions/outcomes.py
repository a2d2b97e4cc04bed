"""Reactions as tasks of a batch: what a worker process makes, and what it hands back.

run_batch(partial(make_run, partial(from_pretrained, "hip-so3lr-organic"), settings), tasks, folder, {...}, jobs=2)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from ase import Atoms
from ase.calculators.calculator import BaseCalculator

from hip_ext.workflows.outcome import Outcome, Run, Task
from hip_ext.workflows.reactions.result import TransitionState
from hip_ext.workflows.reactions.surface import Surface
from hip_ext.workflows.reactions.transition_state import ReactionSettings, find_transition_state, follow_saddle

KEPT_MODES = 60
"""Of a saddle: all of them would make files that grow as the square of the number of atoms."""


def make_run(calculator: Callable[[], BaseCalculator], settings: ReactionSettings, known: bool = False) -> Run:
    """The workflow of one process.

    Args:
        calculator: makes the calculator, once.
        settings: of all reactions.
        known: each task is a saddle to be verified and followed, in place of structures to search from.

    Returns:
        A function from a task to its outcome; a task's frames are those of `find_transition_state`.
    """
    inner = calculator()

    def run(task: Task) -> Outcome:
        surface = Surface(inner)
        if known:
            return outcome_of(task.name, follow_saddle(task.atoms, surface, settings))
        return outcome_of(task.name, find_transition_state(task.frames, surface, settings))

    return run


def outcome_of(name: str, found: TransitionState) -> Outcome:
    """A reaction as a row of a table and structures.

    The structure of the saddle carries its energy, its wavenumbers (cm⁻¹, imaginary ones negative) as
    `info["frequencies"]`, its lowest mode as the array `reacting_mode`, [N, 3], and the displacements of its first
    modes side by side as the array `modes`, [N, 3M]; a frame of the path its energy and its place on the path; the two
    ends their energies and wavenumbers.
    """
    reason = "; ".join(filter(None, (found.problem, *found.notes)))
    return Outcome(name, "failed" if found.problem else "done", reason, found.numbers(), structures_of(found))


def structures_of(found: TransitionState) -> dict[str, tuple[Atoms, ...]]:
    """The structures of a reaction by what they are; see `outcome_of`."""
    saddle = found.saddle.atoms.copy()
    saddle.info |= {
        "energy": found.saddle.energy,
        "frequencies": found.saddle.vibrations.frequencies.tolist(),
        "imaginary_modes": found.saddle.vibrations.num_imaginary,
    }
    saddle.arrays["reacting_mode"] = found.reacting_mode
    kept = found.saddle.vibrations.modes[:KEPT_MODES]
    saddle.arrays["modes"] = kept.transpose(1, 0, 2).reshape(len(saddle), -1)
    structures: dict[str, tuple[Atoms, ...]] = {
        "guess": (found.guess.copy(),),
        "saddle" if not found.problem else "stopped": (saddle,),
    }
    if found.path is not None:
        frames = []
        for atoms, coordinate, energy in zip(
            found.path.frames, found.path.coordinate, found.path.energies, strict=True
        ):
            frame = atoms.copy()
            frame.info |= {"energy": float(energy), "path_coordinate": float(coordinate)}
            frames.append(frame)
        structures["path"] = tuple(frames)
    for name, end in (("reactant", found.reactant), ("product", found.product)):
        if end is not None:
            atoms = end.minimum.atoms.copy()
            atoms.info |= {"energy": end.minimum.energy, "molecules": end.molecules}
            if end.vibrations is not None:
                atoms.info["frequencies"] = end.vibrations.frequencies.tolist()
            structures[name] = (atoms,)
    return structures


def stated(settings: ReactionSettings) -> dict[str, Any]:
    """The settings as JSON has them."""
    return asdict(settings)
