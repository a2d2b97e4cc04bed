"""The scales of a new head, from a sample of the training data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hip_ext.errors import DataError
from hip_ext.features import NodeFeatures
from hip_ext.head import HessianHead
from hip_ext.plugins.fairchem.head import DirectHessianHead
from hip_ext.plugins.fairchem.layout import labels_of
from hip_ext.training.normalisation import block_sizes

SAMPLE = 128
BATCH = 8


def is_fitted(head: HessianHead) -> bool:
    """Whether the scales have been set before."""
    return not bool((head.scalar_scale == 1).all() and (head.scalar_mean == 0).all())


def fit_head(head: DirectHessianHead, loader: Any, tasks: Sequence[Any]) -> None:
    """Sets feature scales and block sizes from up to `SAMPLE` structures, evenly spread, the same on every process.

    Args:
        head: of a model that is on its device.
        loader: of the training data, for its data set and how it makes batches.
        tasks: the Hessian tasks, under whose names the batches hold labels.
    """
    backbone, dataset = head.backbone, loader.dataset
    device = next(head.head.parameters()).device
    places = np.unique(np.linspace(0, len(dataset) - 1, min(SAMPLE, len(dataset))).astype(int)).tolist()
    features: list[NodeFeatures] = []
    blocks: list[tuple[Tensor, Tensor]] = []
    training = backbone.training
    backbone.eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for start in range(0, len(places), BATCH):
            data = loader.collate_fn([dataset[place] for place in places[start : start + BATCH]]).to(device)
            blocks += [block for task in tasks for block in _block_sizes(data, task.name)]
            features.append(head.features(data, backbone(data)))
    backbone.train(training)
    joined = NodeFeatures.concatenate(features)
    if not bool(torch.isfinite(joined.scalars).all()):
        raise DataError("the backbone's features are not finite: check the structures and the backbone's weights")
    head.head.fit_normalisation(joined)
    if blocks:
        distance, norm = (torch.cat(column) for column in zip(*blocks, strict=True))
        head.head.block_scale.fit(distance, norm)


def _block_sizes(data: Any, name: str) -> list[tuple[Tensor, Tensor]]:
    """Distances (Å) and Frobenius norms (eV/Å²) of the off-diagonal blocks of every labelled molecule.

    Crystals are left out: their blocks are sums over images.
    """
    found = []
    positions = data.pos.detach().split(data.natoms.tolist())
    for label, part, pbc in zip(labels_of(data, name), positions, data.pbc, strict=True):
        if label is not None and len(part) > 1 and not bool(pbc.any()):
            n = len(part)
            found.append(block_sizes(part, torch.arange(n, device=part.device), label.view(n, 3, n, 3)))
    return found
