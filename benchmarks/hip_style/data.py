"""Labelled molecules with the features of a frozen backbone, and how well a head predicts their Hessians."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hip_ext.atomic import atomic_path
from hip_ext.backbones import Backbone
from hip_ext.data.record import HessianRecord
from hip_ext.data.store import HessianStore
from hip_ext.evaluation.metrics import compare
from hip_ext.features import NodeFeatures
from hip_ext.structures import Structures

KINDS = ("scalars", "vectors", "tensors")


@dataclass(frozen=True)
class Example:
    """A labelled molecule, its features, the atoms with known rows [k] and these rows, eV/Å² [k, 3, n, 3]."""

    record: HessianRecord
    features: NodeFeatures
    labelled: Tensor
    rows: Tensor


def load_examples(store: Path, backbone: Backbone) -> list[Example]:
    """All molecules of a store that have rows, with their features; these are kept in a file beside the store."""
    records = [record for record in HessianStore(store) if record.rows is not None and len(record.numbers) > 2]
    sizes = [len(record.numbers) for record in records]
    cache = store.with_suffix(f".{backbone.source.fingerprint[:8]}.features")
    if not cache.exists():
        parts = []
        with torch.no_grad():
            for start in range(0, len(records), 16):
                atoms = [record.atoms() for record in records[start : start + 16]]
                parts.append(backbone.features(backbone.prepare(Structures.from_ase(atoms, dtype=backbone.dtype))))
        whole = NodeFeatures.concatenate(parts)
        with atomic_path(cache) as temporary:
            save_file({kind: getattr(whole, kind).contiguous() for kind in KINDS}, temporary)
    stored = load_file(cache)
    split = [stored[kind].split(sizes) for kind in KINDS]
    return [
        Example(
            record,
            NodeFeatures(*parts, backbone.parity),
            torch.as_tensor(record.labelled),
            torch.as_tensor(record.rows, dtype=backbone.dtype),
        )
        for record, *parts in zip(records, *split, strict=True)
    ]


def collate(examples: Sequence[Example]) -> tuple[NodeFeatures, Structures]:
    """One batch of neutral molecules and its features."""
    features = NodeFeatures.concatenate([example.features for example in examples])
    sizes = torch.tensor([len(example.record.numbers) for example in examples])
    count, real = len(examples), features.scalars
    structures = Structures(
        numbers=torch.as_tensor(np.concatenate([example.record.numbers for example in examples])),
        positions=torch.as_tensor(np.concatenate([example.record.positions for example in examples]), dtype=real.dtype),
        cell=real.new_zeros(count, 3, 3),
        pbc=torch.zeros(count, 3, dtype=torch.bool),
        charge=real.new_zeros(count),
        unpaired=real.new_zeros(count),
        ptr=torch.cat((sizes.new_zeros(1), sizes.cumsum(0))),
        batch=torch.repeat_interleave(torch.arange(count), sizes),
    )
    return features, structures


def predict(head: nn.Module, examples: Sequence[Example]) -> list[Tensor]:
    """The Hessian of every molecule, eV/Å², each [3n, 3n]."""
    matrices: list[Tensor] = head(*collate(examples)).dense_list()
    return matrices


def block_samples(examples: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor]:
    """Distances (Å) and Frobenius norms (eV/Å²) of the labelled off-diagonal blocks, and norms of the diagonal ones."""
    distances, pairs, diagonals = [], [], []
    for example in examples:
        positions = torch.as_tensor(example.record.positions, dtype=example.rows.dtype)
        other = example.labelled[:, None] != torch.arange(len(positions))
        norm = torch.linalg.vector_norm(example.rows, dim=(1, 3))
        distances.append(torch.cdist(positions[example.labelled], positions)[other])
        pairs.append(norm[other])
        diagonals.append(norm[~other])
    return torch.cat(distances), torch.cat(pairs), torch.cat(diagonals)


@torch.no_grad()
def measure(head: nn.Module, example: Example) -> dict[str, float]:
    """How well a head predicts the complete Hessian of one molecule; see `summary`."""
    n = len(example.record.numbers)
    start = time.process_time()
    matrix = predict(head, [example])[0]
    seconds = time.process_time() - start
    exact = example.record.hessian()
    metrics = compare(example.record.atoms(), matrix.double().numpy(), (exact + exact.T) / 2)
    return {
        "hessian_mae": metrics.hessian_mae,
        "mean_abs": metrics.mean_abs,
        "overlap": metrics.cos1_eckart,
        "negative_agrees": float(metrics.negative_agrees),
        "frequency_mae": metrics.frequency_mae,
        "sum_rule": float(matrix.view(3 * n, n, 3).sum(1).abs().max()),
        "seconds": seconds,
    }


def summary(found: Sequence[dict[str, float]]) -> dict[str, float]:
    """Means over molecules, and medians of what has long tails.

    hessian_mae, mean_abs: mean |ΔH| and mean |H|, eV/Å²; relative: their ratio. overlap: |cos| of the lowest Eckart
    modes. negative_agrees: share with the right number of negative modes. frequency_mae: cm⁻¹. sum_rule: largest entry
    of Σ_j H_ij, eV/Å². seconds: processor time of the head.
    """
    table = {name: np.array([one[name] for one in found]) for name in found[0]}
    means = {name: float(values.mean()) for name, values in table.items() if name != "seconds"}
    medians = {f"{name}_median": float(np.median(table[name])) for name in ("hessian_mae", "overlap", "seconds")}
    return {"molecules": len(found), **means, **medians, "relative": means["hessian_mae"] / means["mean_abs"]}
