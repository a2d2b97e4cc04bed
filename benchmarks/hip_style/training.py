"""One training loop for every head: mean absolute error per molecule, Muon and AdamW, half a cosine, averaged weights.

A run ends after so many seconds of processor time, or so many steps; its schedule follows the share that is used up.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hip_ext.features import NodeFeatures
from hip_ext.training.motions import twists

from .data import Example, block_samples, predict


@dataclass(frozen=True)
class Recipe:
    """How a head is trained.

    Attributes:
        seconds, steps: what ends it, whichever comes first.
        learning_rate: largest step of a weight, root mean square.
        batch: molecules per step.
        twist_weight: of the error of H·u for random twists u against that of the entries.
        seed: of weights and order.
    """

    seconds: float = math.inf
    steps: float = math.inf
    learning_rate: float = 3e-3
    batch: int = 8
    twist_weight: float = 0.2
    seed: int = 0


def train(head: nn.Module, examples: Sequence[Example], recipe: Recipe) -> dict[str, Any]:
    """Trains a head in place, to its averaged weights.

    Returns:
        Steps, processor seconds (without what is done before the first step), and the error over the last tenth.
    """
    optimisers = make_optimisers(head, recipe.learning_rate)
    average = {name: value.clone() for name, value in head.state_dict().items()}
    order: list[int] = []
    losses: list[float] = []
    used, rng = 0.0, np.random.default_rng(recipe.seed)
    while (share := max(used / recipe.seconds, len(losses) / recipe.steps)) < 1:
        start = time.process_time()
        rate = recipe.learning_rate * min(1.0, (len(losses) + 1) / 50) * (1 + math.cos(math.pi * share)) / 2
        for group in (group for optimiser in optimisers for group in optimiser.param_groups):
            group["lr"] = rate
        if len(order) < recipe.batch:
            order += rng.permutation(len(examples)).tolist()
        batch, order = [examples[k] for k in order[: recipe.batch]], order[recipe.batch :]
        entries, turned = losses_of(head, batch, rng)
        head.zero_grad()
        (entries + recipe.twist_weight * turned).backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 10.0)
        for optimiser in optimisers:
            optimiser.step()
        losses.append(float(entries.detach()))
        with torch.no_grad():
            for name, value in head.state_dict().items():
                average[name].lerp_(value, 1 - min(0.995, len(losses) / (len(losses) + 20)))
        used += time.process_time() - start
    head.load_state_dict(average)
    last = losses[-max(1, len(losses) // 10) :]
    return {"steps": len(losses), "seconds": used, "training_mae": float(np.mean(last))}


def losses_of(head: nn.Module, batch: Sequence[Example], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Mean over molecules of the mean |ΔH| of labelled rows, and of mean |ΔH·u| for two random twists, eV/Å²."""
    entries, turned = [], []
    for example, matrix in zip(batch, predict(head, batch), strict=True):
        n = len(example.record.numbers)
        error = matrix.view(n, 3, n, 3)[example.labelled] - example.rows
        fields = torch.as_tensor(twists(example.record.positions, rng, 2), dtype=error.dtype)
        entries.append(error.abs().mean())
        turned.append(torch.einsum("kxny,cny->ckx", error, fields).abs().mean())
    return torch.stack(entries).mean(), torch.stack(turned).mean()


def make_optimisers(head: nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for matrices, AdamW for the rest, biases and norms."""
    trained = [parameter for parameter in head.parameters() if parameter.requires_grad]
    matrices, others = [p for p in trained if p.ndim == 2], [p for p in trained if p.ndim != 2]
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=1e-4, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate, weight_decay=1e-4, betas=(0.9, 0.98)),
    ]


@torch.no_grad()
def fit(head: Any, examples: Sequence[Example]) -> None:
    """Sets the head's scales of features and of blocks from its training set."""
    head.fit_normalisation(NodeFeatures.concatenate([example.features for example in examples[:800]]))
    distance, pair, diagonal = block_samples(examples[:800])
    if hasattr(head, "fit_scale"):
        head.fit_scale(distance, pair, diagonal)
    else:
        head.block_scale.fit(distance, pair)
