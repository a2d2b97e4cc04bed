"""What is measured on a sample of the training data before the first step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hip_ext.data.record import HessianRecord
from hip_ext.errors import DataError
from hip_ext.features import NodeFeatures
from hip_ext.head import HessianHead
from hip_ext.training.batches import LABELS, labels_of
from hip_ext.training.records import RecordSet
from hip_ext.training.settings import LossSettings

SAMPLE = 800


@dataclass(frozen=True)
class Statistics:
    """What a sample of the data says.

    Attributes:
        coverage: for each of `batches.LABELS`, the share of records that have it.
        references: constants per element, eV by atomic number, to be taken off the labelled energies.
    """

    coverage: dict[str, float]
    references: dict[int, float] = field(default_factory=dict)

    def state(self) -> dict[str, Any]:
        """As plain values; `Statistics(**state)` is the same again."""
        return {"coverage": self.coverage, "references": self.references}


def draw_sample(records: RecordSet, seed: int) -> dict[int, HessianRecord]:
    """Some of the records, drawn at random, by their numbers; those that cannot be used are replaced."""
    chosen = np.random.default_rng(seed).permutation(len(records))[:SAMPLE]
    found = (records.usable(int(index)) for index in chosen)
    return {index: record for index, record, _ in found}


def coverage_of(sample: Sequence[HessianRecord], loss: LossSettings) -> dict[str, float]:
    """The share of records with each kind of label.

    Raises:
        DataError: a loss with a weight has no label at all to learn from.
    """
    found = [labels_of(record) for record in sample]
    coverage = {label: sum(have[label] for have in found) / len(found) for label in LABELS}
    hessian = loss.hessian
    wanted = {
        "loss.energy": (loss.energy, "energy"),
        "loss.forces": (loss.forces, "forces"),
        "loss.hessian.mae": (hessian.mae, "hessian"),
        "loss.hessian.mse": (hessian.mse, "hessian"),
        "loss.hessian.products": (hessian.products, "products"),
        "loss.hessian.twists": (hessian.twists, "hessian"),
        "loss.hessian.subspace": (hessian.subspace, "complete"),
    }
    # Twists have a weight by default; a set of products alone is none the worse for not having rows.
    for name, (weight, label) in wanted.items():
        if weight and not coverage[label] and not (name == "loss.hessian.twists" and coverage["products"]):
            kind = {"hessian": "Hessian rows", "complete": "complete Hessian", "products": "Hessian products"}
            raise DataError(
                f"{name} is {weight:g}, but none of {len(sample)} records has any {kind.get(label, label)}: "
                "set it to 0, or add labels"
            )
    return coverage


def require_validation(records: RecordSet, loss: LossSettings) -> None:
    """Refuses validation data that say nothing about what is trained.

    Raises:
        DataError: no record has a label by which a head, or a potential that is trained alone, could be judged.
    """
    hessian = loss.hessian
    wanted = ["hessian", "products"] if hessian.products else ["hessian"]
    if not hessian.any:
        wanted = [name for name, weight in (("energy", loss.energy), ("forces", loss.forces)) if weight]
    for index in range(len(records)):
        with suppress(DataError):
            found = labels_of(records[index])
            if any(found[name] for name in wanted):
                return
    kinds = {"hessian": "Hessian rows", "products": "Hessian products"}
    lacking = " or ".join(kinds.get(name, name) for name in wanted)
    raise DataError(
        f"none of {len(records)} validation records has any {lacking}: nothing that is trained could be judged; give "
        "data.validation that has, or leave it out to hold out training data"
    )


def fit_head(
    head: HessianHead, sample: dict[int, HessianRecord], features: Callable[[dict[int, HessianRecord]], NodeFeatures]
) -> None:
    """Sets the head's feature scales and block sizes.

    Args:
        head: untrained; changed in place.
        sample: records by their numbers.
        features: gives the features of some of them.
    """
    numbers = list(sample)
    parts = [
        features({n: sample[n] for n in numbers[start : start + 16]}).to("cpu") for start in range(0, len(numbers), 16)
    ]
    scales = NodeFeatures.concatenate(parts).to(head.scalar_mean.device)
    head.fit_normalisation(scales)
    sizes = [sizes_in(record) for record in sample.values() if record.rows is not None]
    if sizes:
        distances, norms = (torch.cat(column).to(head.scalar_mean) for column in zip(*sizes, strict=True))
        head.block_scale.fit(distances, norms)


def sizes_in(record: HessianRecord) -> tuple[Tensor, Tensor]:
    """Distances (Å) and Frobenius norms (eV/Å²) of the labelled off-diagonal blocks of a molecule."""
    if record.pbc.any() or record.labelled is None or record.rows is None:
        return torch.zeros(0), torch.zeros(0)
    rows = torch.as_tensor(record.rows)
    return block_sizes(torch.as_tensor(record.positions, dtype=rows.dtype), torch.as_tensor(record.labelled), rows)


def block_sizes(positions: Tensor, labelled: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Distances (Å) and Frobenius norms (eV/Å²) of the off-diagonal blocks in some rows of a molecule's Hessian.

    Args:
        positions: Å, [n, 3].
        labelled: the atoms whose rows are given, int64 [k].
        rows: eV/Å², [k, 3, n, 3].
    """
    atoms = torch.arange(len(positions), device=positions.device)
    other = labelled[:, None].to(atoms.device) != atoms
    distance = torch.cdist(positions[labelled], positions)
    return distance[other], torch.linalg.vector_norm(rows, dim=(1, 3))[other]


def fit_references(sample: Sequence[HessianRecord], energies: Sequence[float]) -> dict[int, float]:
    """Constants e_z per element that make Σ_z n_z e_z closest to labelled minus predicted energy, eV by atomic number.

    Args:
        sample: records; those without an energy are left out.
        energies: predicted ones of all of them, eV.
    """
    pairs = [(r, r.energy - e) for r, e in zip(sample, energies, strict=True) if r.energy is not None]
    elements = sorted({int(z) for record, _ in pairs for z in record.numbers})
    counts = np.array([[np.count_nonzero(record.numbers == z) for z in elements] for record, _ in pairs], dtype=float)
    values = np.linalg.lstsq(counts, np.array([gap for _, gap in pairs]), rcond=None)[0]
    return {z: float(value) for z, value in zip(elements, values, strict=True)}
