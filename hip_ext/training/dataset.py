"""Labelled structures with the features of a frozen backbone, computed once and kept on disk beside the labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hip_ext.atomic import atomic_path
from hip_ext.backbones.base import Backbone
from hip_ext.blocks import HessianBlocks
from hip_ext.data.shards import LabelledStructure, read_shard
from hip_ext.errors import DataError
from hip_ext.features import NodeFeatures
from hip_ext.structures import Structures


@dataclass(frozen=True)
class Example:
    """One labelled structure, its features, and its labels as tensors."""

    record: LabelledStructure
    features: NodeFeatures
    labelled: Tensor
    rows: Tensor


def load_examples(backbone: Backbone, shards: Sequence[Path], cache: Path) -> list[Example]:
    """Reads label shards and their features; features that are not in `cache` yet are computed and stored there.

    Args:
        backbone: frozen; its fingerprint is part of the name of every cached file.
        shards: label shards.
        cache: folder for the features, one file per shard.
    """
    examples = []
    for shard in shards:
        records = [record for record in read_shard(shard) if len(record.numbers) > 1]
        if not records:
            continue
        features = _features(backbone, records, cache / f"{shard.stem}-{backbone.source.fingerprint[:16]}.safetensors")
        for record, part in zip(records, _split(features, [len(r.numbers) for r in records]), strict=True):
            rows = torch.as_tensor(record.rows, dtype=backbone.dtype)
            examples.append(Example(record, part, torch.as_tensor(record.labelled), rows))
    return examples


def collate(examples: Sequence[Example]) -> tuple[Structures, NodeFeatures]:
    """Joins examples to one batch."""
    real = examples[0].features.scalars
    sizes = torch.tensor([len(e.record.numbers) for e in examples])
    count = len(examples)
    structures = Structures(
        numbers=torch.as_tensor(np.concatenate([e.record.numbers for e in examples])),
        positions=torch.as_tensor(np.concatenate([e.record.positions for e in examples]), dtype=real.dtype),
        cell=real.new_zeros(count, 3, 3),
        pbc=torch.zeros(count, 3, dtype=torch.bool),
        charge=real.new_tensor([e.record.charge for e in examples]),
        unpaired=real.new_zeros(count),
        ptr=torch.cat((sizes.new_zeros(1), sizes.cumsum(0))),
        batch=torch.repeat_interleave(torch.arange(count), sizes),
    )
    return structures, NodeFeatures.concatenate([e.features for e in examples])


def row_errors(blocks: HessianBlocks, examples: Sequence[Example]) -> list[Tensor]:
    """Predicted minus labelled rows of every structure, eV/Å², each [k, 3, n, 3]."""
    errors = []
    for example, matrix in zip(examples, blocks.dense_list(), strict=True):
        n = len(example.record.numbers)
        errors.append(matrix.view(n, 3, n, 3)[example.labelled] - example.rows)
    return errors


def sample_block_sizes(examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Distances (Å) and Frobenius norms (eV/Å²) of all labelled off-diagonal blocks."""
    distances, norms = [], []
    for example in examples:
        positions = torch.as_tensor(example.record.positions, dtype=example.rows.dtype)
        distance, norm = block_sizes(positions, example.labelled, example.rows)
        distances.append(distance)
        norms.append(norm)
    return torch.cat(distances), torch.cat(norms)


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


def _features(backbone: Backbone, records: Sequence[LabelledStructure], path: Path) -> NodeFeatures:
    if path.exists():
        try:
            with safe_open(str(path), framework="pt") as file:
                scalars, vectors, tensors = (file.get_tensor(name) for name in ("scalars", "vectors", "tensors"))
            if scalars.shape[0] == sum(len(r.numbers) for r in records):
                return NodeFeatures(scalars, vectors, tensors, backbone.parity)
        except (OSError, SafetensorError) as error:
            raise DataError(f"cannot read cached features {path}: {error}; delete it to compute them again") from None
    structures = Structures.from_ase([r.atoms() for r in records], dtype=backbone.dtype, device=backbone.device)
    with torch.no_grad():
        features = backbone.features(backbone.prepare(structures)).to("cpu")
    with atomic_path(path) as temporary:
        stored = {name: getattr(features, name).contiguous() for name in ("scalars", "vectors", "tensors")}
        save_file(stored, temporary)
    return features


def _split(features: NodeFeatures, sizes: list[int]) -> list[NodeFeatures]:
    parts = (features.scalars.split(sizes), features.vectors.split(sizes), features.tensors.split(sizes))
    return [NodeFeatures(s, v, t, features.parity) for s, v, t in zip(*parts, strict=True)]
