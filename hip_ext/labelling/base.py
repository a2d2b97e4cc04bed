"""The contract of everything that can label: a structure in, a record with energy, forces and its Hessian out.

What is known of the Hessian H is a set of products H·v. With v along one coordinate of one atom the product is a row of
H; three for every atom make the full matrix. So a labeller only has to answer for directions:

    record = SomeLabeller(...).label(atoms)  # the full matrix
    record = SomeLabeller(...).label(atoms, Target(atoms=np.array([0, 4])))  # six rows
    record = SomeLabeller(...).label(atoms, Target(probes=v))  # H·v for v [p, N, 3]
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from hip_ext.data.record import HessianRecord
from hip_ext.errors import ConfigError, HipExtError, StructureError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Target:
    """What is wanted of one structure's Hessian; the full matrix where nothing is said.

    Attributes:
        atoms: the atoms whose three rows are wanted, [k].
        probes: displacement fields v whose products H·v are wanted, Å, [p, N, 3].
    """

    atoms: NDArray[np.integer[Any]] | None = None
    probes: Array | None = None

    @property
    def is_full(self) -> bool:
        """Whether the full matrix is wanted."""
        return self.atoms is None and self.probes is None

    def directions(self, count: int) -> Array:
        """All v of this target for a structure of `count` atoms: unit vectors of the rows, then the probes, [p, N, 3].

        Raises:
            ConfigError: an atom does not exist, or the probes have another shape or are zero or not finite.
        """
        chosen = np.arange(count) if self.is_full else np.asarray([] if self.atoms is None else self.atoms, dtype=int)
        if len(np.unique(chosen)) != len(chosen) or chosen.min(initial=0) < 0 or chosen.max(initial=0) >= count:
            raise ConfigError(f"rows wanted of atoms {chosen.tolist()}: they must be distinct and below {count}")
        units = np.zeros((len(chosen), 3, count, 3))
        for axis in range(3):
            units[np.arange(len(chosen)), axis, chosen, axis] = 1.0
        probes = np.zeros((0, count, 3)) if self.probes is None else np.asarray(self.probes, dtype=float)
        if probes.shape[1:] != (count, 3) or not np.isfinite(probes).all() or not probes.any(axis=(1, 2)).all():
            raise ConfigError(f"probes of {count} atoms must be finite, not zero, and [p, {count}, 3]: {probes.shape}")
        return np.concatenate((units.reshape(-1, count, 3), probes))


FULL = Target()


class Labeller(ABC):
    """A source of labels.

    Attributes:
        method: level of theory or potential in a few words, e.g. "wB97X/6-31G(d)"; it goes into every record.
        batch: how many structures it likes to have at a time.
    """

    method: str
    batch: int = 1

    @property
    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """All that changes the numbers, as JSON can hold it; labels of equal settings may stand in one store."""

    @abstractmethod
    def label(self, atoms: Atoms, target: Target = FULL) -> HessianRecord:
        """Energy, forces and what `target` says of the Hessian of one structure, which is left as it is.

        Raises:
            HipExtError: the structure, or the target for it, cannot be labelled.
        """

    def label_many(self, many: Sequence[Atoms], targets: Sequence[Target]) -> list[HessianRecord | HipExtError]:
        """The same for several structures: each one's record, or why it has none. An error fails them all."""
        return [self.label(atoms, target) for atoms, target in zip(many, targets, strict=True)]


def filled(record: HessianRecord, target: Target, products: NDArray[np.floating[Any]]) -> HessianRecord:
    """A record with the products of `target.directions`, [p, N, 3] in eV/Å², put where they belong."""
    n = len(record.numbers)
    if target.is_full:
        return record.with_hessian(products.reshape(3 * n, 3 * n))
    rows = 0 if target.atoms is None else 3 * len(target.atoms)
    if target.atoms is not None:
        record = replace(record, labelled=np.asarray(target.atoms), rows=products[:rows].reshape(-1, 3, n, 3))
    if target.probes is not None:
        record = replace(record, probes=np.asarray(target.probes, dtype=float), products=products[rows:])
    return record


def check_electrons(record: HessianRecord) -> None:
    """Refuses a structure whose number of electrons does not fit its spin.

    Raises:
        StructureError: there are no electrons, or too few or an odd number too many for the unpaired ones.
    """
    electrons, unpaired = int(record.numbers.sum() - record.charge), int(record.unpaired)
    if electrons < max(unpaired, 1) or (electrons - unpaired) % 2:
        raise StructureError(
            f"{Atoms(record.numbers).symbols} has {electrons} electrons, which cannot leave {unpaired} unpaired: "
            'state info["charge"] and info["multiplicity"]'
        )


LabellerFactory = Callable[[], Labeller]
