"""What a workflow gets and gives for one structure.

A workflow is a function `run(task) -> Outcome`. What it raises becomes a failed outcome with a reason of one line.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from ase import Atoms

from hip_ext.data.record import SPINS
from hip_ext.errors import reason_of

Status = Literal["done", "failed"]
Value = str | int | float | bool | None


@dataclass(frozen=True)
class Task:
    """One structure to work on, or the few that belong together, such as the two ends of a reaction.

    Attributes:
        name: its name in the results; different from all others of a run.
        frames: the structures, without calculators.
        problem: why it cannot be worked on; empty where it can.
    """

    name: str
    frames: tuple[Atoms, ...] = ()
    problem: str = ""

    @property
    def atoms(self) -> Atoms:
        """The first of its structures."""
        return self.frames[0]

    @property
    def digest(self) -> str:
        """A hash of all that a result depends on: elements, positions, cell, charge, spin and constraints."""
        hashed = hashlib.sha256()
        for atoms in self.frames:
            for part in (atoms.numbers.astype("<i8"), atoms.positions, atoms.cell.array, atoms.pbc):
                hashed.update(np.ascontiguousarray(part).tobytes())
            electrons = [str(atoms.info.get(key)) for key in SPINS]
            constraints = [constraint.todict() for constraint in atoms.constraints]
            hashed.update(f"{electrons} {constraints}".encode())
        return hashed.hexdigest()[:16]


@dataclass(frozen=True)
class Outcome:
    """What came of a task.

    Attributes:
        name: of the task.
        status: "done", or "failed" where there is no result.
        reason: one line: why it failed, or what is to be known about a result; empty if all is fine.
        values: of the table of results: plain numbers and strings; None where there is no value.
        frames: structures that came out, by what they are, such as {"relaxed": (atoms,)}.
    """

    name: str
    status: Status
    reason: str = ""
    values: Mapping[str, Value] = field(default_factory=dict)
    frames: Mapping[str, tuple[Atoms, ...]] = field(default_factory=dict)


Run = Callable[[Task], Outcome]
Workflow = Callable[[], Run]
"""Makes, once in each process, the function that is called for every task, and loads its model; pickled."""


def attempt(run: Run, task: Task) -> Outcome:
    """The outcome of a task, whatever happens."""
    if task.problem:
        return Outcome(task.name, "failed", task.problem)
    try:
        return run(task)
    except Exception as error:  # one structure must not end a run over many, whatever a program of others does
        return Outcome(task.name, "failed", reason_of(error))
