"""From structure files to tasks, and from outcomes to structure files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ase.io
from ase import Atoms

from hip_ext.atomic import atomic_path
from hip_ext.errors import DataError, StructureError
from hip_ext.structure_files import read_structures
from hip_ext.structures import Structures
from hip_ext.workflows.journal import read_outcomes
from hip_ext.workflows.outcome import Task


def tasks_of(paths: Sequence[str | Path]) -> list[Task]:
    """A task for every frame of every file, `name#frame`; a frame that cannot be used has its problem with it.

    Raises:
        DataError: a file cannot be read, or has no structure in it; or two files have one name.
    """
    tasks: list[Task] = []
    for path in map(Path, paths):
        if any(task.name.startswith(f"{path.name}#") for task in tasks):
            raise DataError(f"two files are called {path.name}: rename one, since names tell results apart")
        frames = read_structures(path)
        tasks += [Task(f"{path.name}#{index}", (_bare(atoms),), _problem(atoms)) for index, atoms in enumerate(frames)]
    return tasks


def write_frames(folder: str | Path, kind: str, order: Sequence[str]) -> Path:
    """Writes all structures of a kind that finished outcomes have into `<kind>.extxyz`, in the given order of names.

    Raises:
        DataError: there are no outcomes, or the file cannot be written.
    """
    found = {outcome.name: outcome for outcome in read_outcomes(folder) if outcome.status == "done"}
    frames = []
    for name in dict.fromkeys([*(name for name in order if name in found), *found]):
        for atoms in found[name].frames.get(kind, ()):
            atoms.info["name"] = name
            frames.append(atoms)
    target = Path(folder) / f"{kind}.extxyz"
    try:
        with atomic_path(target) as path:
            ase.io.write(path, frames, format="extxyz")
    except OSError as error:
        raise DataError(f"cannot write {target}: {error.strerror or error}") from None
    return target


def _bare(atoms: Atoms) -> Atoms:
    atoms = atoms.copy()
    atoms.calc = None
    return atoms


def _problem(atoms: Atoms) -> str:
    try:
        Structures.from_ase(atoms)
    except StructureError as error:
        return str(error)
    return ""
