"""A head for MACE's trainer: new, with the scales of features and blocks taken from labelled training structures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset

from hip_ext.backbones.mace import MACEBackbone
from hip_ext.checkpoint import new_head
from hip_ext.features import NodeFeatures
from hip_ext.head import HeadConfig, HessianHead
from hip_ext.plugins.mace.labels import label_loader, label_of
from hip_ext.training.normalisation import block_sizes

SAMPLE = 256
"""Structures that the scales are taken from."""


def fitted_head(
    backbone: MACEBackbone, config: HeadConfig, dataset: Any, labelled: Sequence[int], batch_size: int, seed: int
) -> HessianHead:
    """A head with random weights, its normalisation fitted, in the backbone's dtype and on its device.

    Args:
        backbone: whose features it will see.
        config: hyper-parameters.
        dataset: of MACE's AtomicData.
        labelled: which of them have a label; at least one.
        batch_size: structures of one pass of the backbone.
        seed: of the weights and of the choice of structures.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = new_head(backbone.widths, config).to(device=backbone.device, dtype=backbone.dtype)
    chosen = np.random.default_rng(seed).permutation(np.asarray(labelled))[:SAMPLE].tolist()
    sample = Subset(dataset, chosen)
    features = []
    with torch.no_grad():
        for batch in label_loader(sample, batch_size=batch_size):
            features.append(backbone.features(batch.to(backbone.device).to_dict()))
    head.fit_normalisation(NodeFeatures.concatenate(features))
    # The distance of two atoms of a crystal says nothing about their block, which sums over images.
    molecules = [item for item in (dataset[index] for index in chosen) if not bool(item.pbc.any())]
    sizes = [_block_sizes(item) for item in molecules if len(item.positions) > 1]
    if sizes:
        distances, norms = (torch.cat(parts).to(backbone.device) for parts in zip(*sizes, strict=True))
        head.block_scale.fit(distances, norms)
    return head


def _block_sizes(item: Any) -> tuple[Tensor, Tensor]:
    """Distances (Å) and Frobenius norms (eV/Å²) of the off-diagonal blocks of a labelled molecule."""
    n = len(item.positions)
    label = label_of(item)
    assert label is not None
    return block_sizes(item.positions, torch.arange(n), label.reshape(n, 3, n, 3))
