"""From the names of sources to structures with names of their own: what is done once is not done again.

A name is the source's file name, the number of the structure in it, the number of its random state where states are
asked for, and a hash of what is labelled: `molecules.smi#4-2-9f86d081884c`. All that is drawn at random depends on the
seed and on the numbers in the name, so that a run can be stopped and go on with the same structures.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms

from hip_ext.data.geometries import distort, embed
from hip_ext.data.record import HessianRecord
from hip_ext.errors import ConfigError, HipExtError, StructureError
from hip_ext.labelling.base import FULL, Target
from hip_ext.labelling.probes import ProbeKind, draw_probes
from hip_ext.training.sources import SMILES_PREFIX, read_sources


@dataclass(frozen=True)
class Wanted:
    """What is wanted of every Hessian; the full matrix where both counts are None.

    Attributes:
        rows: as many atoms, drawn at random, get their three rows; all of a structure that has no more.
        probes: as many Hessian-vector products.
        probe_kind: along which directions.
    """

    rows: int | None = None
    probes: int | None = None
    probe_kind: str = ProbeKind.random.value

    def __post_init__(self) -> None:
        for name, count in (("rows", self.rows), ("probes", self.probes)):
            if count is not None and count < 1:
                raise ConfigError(f"{name} is {count}: expected at least 1, or none for the full Hessian")
        if self.probe_kind not in tuple(ProbeKind):
            raise ConfigError(f"no probes of kind {self.probe_kind!r}: known are {', '.join(ProbeKind)}")

    def target(self, atoms: Atoms, rng: np.random.Generator) -> Target:
        """What is wanted of this structure."""
        if self.rows is None and self.probes is None:
            return FULL
        chosen = None if self.rows is None else np.sort(rng.permutation(len(atoms))[: self.rows])
        probes = None if self.probes is None else draw_probes(atoms, self.probes, self.probe_kind, rng)
        return Target(chosen, probes)


@dataclass(frozen=True)
class Task:
    """One structure to label, or the reason why there is none.

    Attributes:
        key: its name in the store.
        atoms: the structure.
        target: what is wanted of its Hessian.
        problem: why it cannot be labelled; empty where it can.
    """

    key: str
    atoms: Atoms
    target: Target = FULL
    problem: str = ""


class Tasks:
    """The structures of `smiles:FILE` and of files that ASE reads, one after the other, made when they are asked for.

    Args:
        names: of the sources.
        wanted: of every Hessian.
        states: that many random states (`hip_ext.data.geometries.distort`) in place of each molecule: the first of
            all molecules, then the second of all, so that a part of a run is a sample of the whole.
        limit: at most so many structures.
        seed: of all random numbers.

    Raises:
        DataError, StructureError: a source cannot be read.
        ConfigError: a count is not positive.
    """

    def __init__(
        self,
        names: Sequence[str],
        wanted: Wanted | None = None,
        states: int | None = None,
        limit: int | None = None,
        seed: int = 0,
    ) -> None:
        for option, value in (("--distort", states), ("--limit", limit)):
            if value is not None and value < 1:
                raise ConfigError(f"{option} is {value}: expected at least 1")
        self.wanted, self.states, self.seed = wanted or Wanted(), states, seed
        self._sources = [
            (Path(name.removeprefix(SMILES_PREFIX)).name, index, found)
            for name in names
            for index, found in enumerate(read_sources([name]))
        ]
        total = len(self._sources) * (states or 1)
        self._count = total if limit is None else min(limit, total)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Task]:
        for number in range(self._count):
            state, place = divmod(number, len(self._sources))
            name, index, source = self._sources[place]
            yield self._task(f"{name[:200]}#{index}", [self.seed, index, state], state, source)

    def _task(self, name: str, seeds: list[int], state: int, source: str | Atoms) -> Task:
        rng = np.random.default_rng(seeds)
        name = name if self.states is None else f"{name}-{state}"
        try:
            atoms = embed(source, seed=self.seed) if isinstance(source, str) else source
            if self.states is not None:
                if atoms.pbc.any():
                    raise StructureError(f"{atoms.symbols} is periodic: random states are for molecules")
                atoms = distort(atoms, rng)
            return Task(f"{name}-{_digest(atoms)}", atoms, self.wanted.target(atoms, rng))
        except HipExtError as error:
            return Task(name, Atoms(), problem=str(error))


def _digest(atoms: Atoms) -> str:
    record = HessianRecord.from_atoms(atoms)
    hashed = hashlib.sha256()
    for part in (record.numbers.astype("<i8"), record.positions, record.cell, record.pbc):
        hashed.update(np.ascontiguousarray(part).tobytes())
    hashed.update(f"{record.charge:g} {record.unpaired:g}".encode())
    return hashed.hexdigest()[:12]
