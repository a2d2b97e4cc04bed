"""A batch of records as tensors: structures, and for every kind of label what the losses need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hip_ext.data.record import HessianRecord
from hip_ext.structures import Structures
from hip_ext.training.motions import lowest_modes, twists


@dataclass(frozen=True)
class EntryLabels:
    """Labelled entries of the Hessians of B structures, M in all.

    Attributes:
        place: where they are in `HessianBlocks.flat()`, int64 [M].
        value: eV/Å², [M].
        structure: whose they are, int64 [M].
        diagonal: whether they are of a diagonal block, bool [M].
        share: 1 / number of labelled entries of the structure, [M].
    """

    place: Tensor
    value: Tensor
    structure: Tensor
    diagonal: Tensor
    share: Tensor


@dataclass(frozen=True)
class ProductLabels:
    """Labelled products H·v of N atoms, K for each structure or fewer.

    Attributes:
        vectors: v, [N, 3, K].
        values: H·v where it is known, [N, 3, K].
        share: 1 / number of components known for the structure at known ones, 0 elsewhere, [N, K].
    """

    vectors: Tensor
    values: Tensor
    share: Tensor


@dataclass(frozen=True)
class SubspaceLabels:
    """The K lowest modes of B labelled Hessians (see `hip_ext.training.motions.lowest_modes`), or fewer.

    Attributes:
        modes: amu^(−½), [N, 3, K].
        values: eV/Å²/amu, [B, K].
        share: 1 / K² with the structure's own K, 0 without a label, [B].
    """

    modes: Tensor
    values: Tensor
    share: Tensor


@dataclass(frozen=True)
class Batch:
    """B structures, N atoms, and what is known about them; None for what none of them has, or what no loss reads.

    Attributes:
        structures: the structures.
        indices: numbers of the records, [B].
        known: for every label, which structures have it, bool [B]; see `LABELS`.
        energy: eV, [B], 0 where unknown.
        forces: eV/Å, [N, 3], 0 where unknown.
        entries: of the Hessians.
        products: along labelled probes.
        twists: along random twists, in labelled rows.
        subspace: lowest modes.
        step: the optimiser step that the batch belongs to.
        last: whether the weights are stepped after it.
        skipped: numbers of records that could not be used, and why.
    """

    structures: Structures
    indices: list[int]
    known: dict[str, Tensor]
    energy: Tensor
    forces: Tensor
    entries: EntryLabels | None = None
    products: ProductLabels | None = None
    twists: ProductLabels | None = None
    subspace: SubspaceLabels | None = None
    step: int = 0
    last: bool = True
    skipped: dict[int, str] | None = None

    def of_pass(self, step: int, last: bool, skipped: dict[int, str]) -> Batch:
        """The same batch with the pass that it belongs to."""
        return replace(self, step=step, last=last, skipped=skipped)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return replace(self, **{name: _moved(getattr(self, name), device) for name in self.__dataclass_fields__})


LABELS = ("energy", "forces", "hessian", "products", "complete")
"""Kinds of labels; "hessian" are rows for some atoms or more, "complete" rows for all."""


def labels_of(record: HessianRecord) -> dict[str, bool]:
    """Which of `LABELS` a record has."""
    return {
        "energy": record.energy is not None,
        "forces": record.forces is not None,
        "hessian": record.rows is not None and len(record.rows) > 0,
        "products": record.products is not None and len(record.products) > 0,
        "complete": record.is_complete,
    }


def collate(
    records: Sequence[HessianRecord],
    indices: Sequence[int],
    dtype: torch.dtype,
    twist_count: int = 0,
    modes: int = 0,
    seed: Sequence[int] = (),
) -> Batch:
    """Joins records.

    Args:
        records: B records.
        indices: their numbers.
        dtype: of all real tensors.
        twist_count: random twists per structure; 0 for none.
        modes: lowest modes of complete Hessians; 0 for none.
        seed: of the twists, together with the number of the record.
    """
    structures = _structures(records, dtype)
    known = [labels_of(record) for record in records]
    n = structures.num_atoms

    def real(values: NDArray[Any]) -> Tensor:
        return torch.as_tensor(values, dtype=dtype)

    fields = [
        twists(record.positions, np.random.default_rng([*seed, index]), twist_count)
        if twist_count and have["hessian"]
        else None
        for record, index, have in zip(records, indices, known, strict=True)
    ]
    return Batch(
        structures=structures,
        indices=list(indices),
        known={label: torch.tensor([have[label] for have in known]) for label in LABELS},
        energy=real(np.array([record.energy or 0.0 for record in records])),
        forces=real(np.concatenate([_zeros_if_none(r.forces, (len(r.numbers), 3)) for r in records])),
        entries=_entries(records, dtype) if any(have["hessian"] for have in known) else None,
        products=_products(records, n, dtype) if any(have["products"] for have in known) else None,
        twists=_along(records, fields, n, dtype) if any(field is not None for field in fields) else None,
        subspace=_subspace(records, modes, n, dtype) if modes and any(have["complete"] for have in known) else None,
    )


def _structures(records: Sequence[HessianRecord], dtype: torch.dtype) -> Structures:
    """The structures alone; a record has been checked when it was made."""
    sizes = torch.tensor([len(record.numbers) for record in records])
    real = {
        "positions": np.concatenate([record.positions for record in records]),
        "cell": np.stack([record.cell for record in records]),
        "charge": np.array([record.charge for record in records]),
        "unpaired": np.array([record.unpaired for record in records]),
    }
    return Structures(
        numbers=torch.as_tensor(np.concatenate([record.numbers for record in records]).astype(np.int64)),
        pbc=torch.as_tensor(np.stack([record.pbc for record in records])),
        ptr=torch.cat((sizes.new_zeros(1), sizes.cumsum(0))),
        batch=torch.repeat_interleave(torch.arange(len(records)), sizes),
        **{name: torch.as_tensor(values, dtype=dtype) for name, values in real.items()},
    )


def _entries(records: Sequence[HessianRecord], dtype: torch.dtype) -> EntryLabels:
    places, values, structures, diagonals, shares = [], [], [], [], []
    offset = 0
    for number, record in enumerate(records):
        width = 3 * len(record.numbers)
        if record.rows is not None and record.labelled is not None and len(record.labelled):
            rows = (3 * np.asarray(record.labelled)[:, None] + np.arange(3)).ravel()
            places.append((offset + rows[:, None] * width + np.arange(width)).ravel())
            values.append(np.asarray(record.rows).ravel())
            structures.append(np.full(record.rows.size, number))
            diagonals.append((rows[:, None] // 3 == np.arange(width) // 3).ravel())
            shares.append(np.full(record.rows.size, 1.0 / record.rows.size))
        offset += width * width
    return EntryLabels(
        place=torch.as_tensor(np.concatenate(places)),
        value=torch.as_tensor(np.concatenate(values), dtype=dtype),
        structure=torch.as_tensor(np.concatenate(structures)),
        diagonal=torch.as_tensor(np.concatenate(diagonals)),
        share=torch.as_tensor(np.concatenate(shares), dtype=dtype),
    )


def _products(records: Sequence[HessianRecord], atoms: int, dtype: torch.dtype) -> ProductLabels:
    width = max(len(record.products) for record in records if record.products is not None)
    vectors, values, share = np.zeros((atoms, 3, width)), np.zeros((atoms, 3, width)), np.zeros((atoms, width))
    start = 0
    for record in records:
        stop = start + len(record.numbers)
        if record.probes is not None and record.products is not None and len(record.probes):
            count = len(record.probes)
            vectors[start:stop, :, :count] = np.moveaxis(record.probes, 0, 2)
            values[start:stop, :, :count] = np.moveaxis(record.products, 0, 2)
            share[start:stop, :count] = 1.0 / record.products.size
        start = stop
    return ProductLabels(*(torch.as_tensor(x, dtype=dtype) for x in (vectors, values, share)))


def _along(
    records: Sequence[HessianRecord], fields: Sequence[NDArray[np.float64] | None], atoms: int, dtype: torch.dtype
) -> ProductLabels:
    """What labelled rows say about the products with some fields, [count, n, 3] for each record."""
    count = max(len(field) for field in fields if field is not None)
    vectors, values, share = np.zeros((atoms, 3, count)), np.zeros((atoms, 3, count)), np.zeros((atoms, count))
    start = 0
    for record, field in zip(records, fields, strict=True):
        stop = start + len(record.numbers)
        if field is not None and record.rows is not None and record.labelled is not None:
            vectors[start:stop] = np.moveaxis(field, 0, 2)
            rows = start + np.asarray(record.labelled)
            values[rows] = np.tensordot(record.rows, vectors[start:stop], axes=2)
            share[rows] = 1.0 / (3 * len(rows) * count)
        start = stop
    return ProductLabels(*(torch.as_tensor(x, dtype=dtype) for x in (vectors, values, share)))


def _subspace(records: Sequence[HessianRecord], count: int, atoms: int, dtype: torch.dtype) -> SubspaceLabels:
    modes, values, share = np.zeros((atoms, 3, count)), np.zeros((len(records), count)), np.zeros(len(records))
    start = 0
    for number, record in enumerate(records):
        stop = start + len(record.numbers)
        if record.is_complete:
            hessian = record.hessian()
            found, eigenvalues = lowest_modes(record.atoms(), (hessian + hessian.T) / 2, count)
            modes[start:stop, :, : len(found)] = np.moveaxis(found, 0, 2)
            values[number, : len(found)] = eigenvalues
            share[number] = 1.0 / max(len(found), 1) ** 2
        start = stop
    return SubspaceLabels(*(torch.as_tensor(x, dtype=dtype) for x in (modes, values, share)))


def _zeros_if_none(values: NDArray[Any] | None, shape: tuple[int, ...]) -> NDArray[Any]:
    return np.zeros(shape) if values is None else values


def _moved(value: Any, device: torch.device | str) -> Any:
    """A tensor, or whatever holds tensors, on another device; everything else as it is."""
    if isinstance(value, (Tensor, Structures)):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _moved(item, device) for key, item in value.items()}
    if isinstance(value, (EntryLabels, ProductLabels, SubspaceLabels)):
        return type(value)(*(getattr(value, name).to(device) for name in value.__dataclass_fields__))
    return value
