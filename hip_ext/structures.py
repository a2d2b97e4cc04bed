"""A batch of atomic structures as tensors, checked before any number is made from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from hip_ext.errors import StructureError


@dataclass(frozen=True)
class Structures:
    """B structures with N atoms in all, one after the other.

    Attributes:
        numbers: atomic numbers, int64 [N].
        positions: Å, [N, 3].
        cell: rows are lattice vectors in Å, zero along directions without one, [B, 3, 3].
        pbc: periodic directions, bool [B, 3].
        charge: total charge in e, [B].
        unpaired: number of unpaired electrons (multiplicity − 1), [B].
        ptr: structure b owns the atoms ptr[b] to ptr[b + 1], int64 [B + 1].
        batch: the structure of each atom, int64 [N].
    """

    numbers: Tensor
    positions: Tensor
    cell: Tensor
    pbc: Tensor
    charge: Tensor
    unpaired: Tensor
    ptr: Tensor
    batch: Tensor

    @property
    def num_atoms(self) -> int:
        """Atoms in the whole batch, N."""
        return int(self.numbers.shape[0])

    @property
    def num_systems(self) -> int:
        """Structures in the batch, B."""
        return int(self.ptr.shape[0]) - 1

    @property
    def sizes(self) -> list[int]:
        """Atoms of each structure."""
        bounds: list[int] = self.ptr.tolist()
        return [b - a for a, b in pairwise(bounds)]

    def with_positions(self, positions: Tensor) -> Structures:
        """The same structures with other positions, [N, 3] in Å."""
        return replace(self, positions=positions)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Structures:
        """The same structures on another device, with real numbers in another dtype."""

        def move(x: Tensor) -> Tensor:
            return x.to(device=device, dtype=dtype if x.is_floating_point() else None)

        return Structures(**{name: move(getattr(self, name)) for name in self.__dataclass_fields__})

    @classmethod
    def from_ase(
        cls,
        atoms: Atoms | Sequence[Atoms],
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> Structures:
        """Reads one or several ASE structures.

        The charge is `info["charge"]`; the spin is `info["total_spin"]` (S), `info["multiplicity"]` or
        `info["spin"]` (both 2S + 1, as fairchem writes it), whichever is there; both default to zero.

        Raises:
            StructureError: a structure is empty, not finite, has a dummy element, a periodic
                direction without a lattice vector, or a charge or spin that no electron count allows.
        """
        many = [atoms] if isinstance(atoms, Atoms) or not isinstance(atoms, Sequence) else list(atoms)
        if not many:
            raise StructureError("no structure given: expected at least one ase.Atoms")
        for index, one in enumerate(many):
            _check(one, f"structure {index}" if len(many) > 1 else "structure")
        sizes = torch.tensor([len(a) for a in many])
        ptr = torch.cat((sizes.new_zeros(1), sizes.cumsum(0)))

        def real(values: object) -> Tensor:
            return torch.as_tensor(values, dtype=dtype, device=device)

        return cls(
            numbers=torch.as_tensor(np.concatenate([a.numbers for a in many]), dtype=torch.int64, device=device),
            positions=real(np.concatenate([a.positions for a in many])),
            cell=real(np.stack([a.cell.array for a in many])),
            pbc=torch.as_tensor(np.stack([a.pbc for a in many]), device=device),
            charge=real([total_charge(a) for a in many]),
            unpaired=real([unpaired_electrons(a) for a in many]),
            ptr=ptr.to(device),
            batch=torch.repeat_interleave(torch.arange(len(many)), sizes).to(device),
        )


def total_charge(atoms: Atoms) -> float:
    """The total charge of a structure in e: `info["charge"]`, else 0."""
    return float(atoms.info.get("charge", 0.0))


def unpaired_electrons(atoms: Atoms) -> float:
    """The number of unpaired electrons that a structure's `info` states, else 0."""
    info: dict[str, Any] = atoms.info
    if "total_spin" in info:
        return 2.0 * float(info["total_spin"])
    multiplicity = float(info.get("multiplicity", info.get("spin", 1)))
    return max(multiplicity - 1.0, 0.0)


def _check(atoms: Atoms, name: str) -> None:
    if not isinstance(atoms, Atoms):
        raise StructureError(f"{name} is not an ase.Atoms but a {type(atoms).__name__}: read files with ase.io.read")
    if len(atoms) == 0:
        raise StructureError(f"{name} is empty: it has no atoms")
    if not np.isfinite(atoms.positions).all():
        bad = int(np.flatnonzero(~np.isfinite(atoms.positions).all(axis=1))[0])
        raise StructureError(f"{name} has a position that is not a finite number: atom {bad} at {atoms.positions[bad]}")
    if not np.isfinite(atoms.cell.array).all():
        raise StructureError(f"{name} has a cell that is not finite: {atoms.cell.array.tolist()}")
    if (atoms.numbers < 1).any() or (atoms.numbers > 118).any():
        bad = int(np.flatnonzero((atoms.numbers < 1) | (atoms.numbers > 118))[0])
        raise StructureError(f"{name} has no element at atom {bad}: atomic number {atoms.numbers[bad]}")
    if np.linalg.matrix_rank(atoms.cell.array[atoms.pbc]) < int(atoms.pbc.sum()):
        raise StructureError(f"{name} is periodic along {atoms.pbc.tolist()} but its cell spans no volume there")
    _check_electrons(atoms, name)


def _check_electrons(atoms: Atoms, name: str) -> None:
    try:
        charge, unpaired = total_charge(atoms), unpaired_electrons(atoms)
    except (TypeError, ValueError) as error:
        raise StructureError(f"{name} has a charge or spin that is not a number: {error}") from None
    if not charge.is_integer() or not unpaired.is_integer() or unpaired < 0:
        found = f"charge {charge} and {unpaired} unpaired electrons"
        raise StructureError(f"{name} needs a whole charge and a whole number of unpaired electrons, found {found}")
    electrons = int(atoms.numbers.sum() - charge)
    if electrons < 0:
        raise StructureError(f"{name} has charge {charge:+.0f} but only {atoms.numbers.sum()} electrons to lose")
    stated = {"total_spin", "multiplicity", "spin"} & set(atoms.info)
    if stated and unpaired > 0 and (unpaired > electrons or (electrons - int(unpaired)) % 2):
        found = f"{electrons} electrons, which cannot leave {unpaired:.0f} unpaired"
        raise StructureError(f"{name} has {found}: check charge and spin")
