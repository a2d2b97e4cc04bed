"""The training loop: per-structure mean absolute error, Muon, a running average of the weights, exact resume.

Matrices are stepped by Muon, which makes their momentum orthogonal and reached the same held-out error in two thirds of
the steps that AdamW took; AdamW steps what is left, biases and norms.

The order of the examples, the learning rate and everything else at a step follow from the configuration and the number
of the step alone, so that a run that was stopped and resumed ends where an undisturbed one does.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hip_ext.atomic import atomic_path, write_text
from hip_ext.errors import DataError
from hip_ext.features import NodeFeatures
from hip_ext.head import HessianHead
from hip_ext.training.config import TrainConfig
from hip_ext.training.dataset import Example, collate, row_errors, sample_block_sizes
from hip_ext.training.losses import entry_loss, twist_loss

NORMALISATION_SAMPLE = 800


def train(
    head: HessianHead,
    examples: Sequence[Example],
    held_out: Sequence[Example],
    config: TrainConfig,
    folder: Path,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> list[dict[str, float]]:
    """Trains a head on cached features, or goes on where `folder` says a run was stopped.

    Args:
        head: changed in place; ends with the averaged weights.
        examples: to train on.
        held_out: of molecules that are not among the examples; evaluated every `config.evaluate_every` steps.
        config: optimiser and schedule.
        folder: gets `state.pt` (for resuming) and `curve.json` (step, training loss, held-out MAE in eV/Å²).
        report: called after each step with the number of steps done and the error of the last batch.

    Returns:
        The learning curve.

    Raises:
        DataError: there is nothing to train on, or the loss stopped being a finite number.
    """
    if not examples or not held_out:
        raise DataError(f"nothing to train on: {len(examples)} examples, {len(held_out)} held out")
    optimisers = make_optimisers(head, config)
    state_file = folder / "state.pt"
    step, curve = 0, []
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        head.load_state_dict(state["head"])
        for optimiser, stored in zip(optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(stored)
        average, step, curve = state["average"], state["step"], state["curve"]
    else:
        torch.manual_seed(config.seed)
        fit_normalisation(head, examples, config.seed)
        average = {name: value.clone() for name, value in head.state_dict().items()}
    losses: list[float] = []
    head.train()
    while step < config.steps:
        rate = learning_rate(step, config)
        for group in (group for optimiser in optimisers for group in optimiser.param_groups):
            group["lr"] = rate
        batch = [examples[k] for k in _batch_indices(step, len(examples), config)]
        errors = predicted_errors(head, batch)
        loss = entry_loss(errors)
        twist = twist_loss(errors, batch, np.random.default_rng([config.seed, step]), config.twists)
        head.zero_grad()
        (loss + config.twist_weight * twist).backward()
        norm = torch.nn.utils.clip_grad_norm_(head.parameters(), config.clip)
        if not bool(torch.isfinite(norm)):
            raise DataError(f"training broke down at step {step}: loss {float(loss):.3g}, gradient {float(norm):.3g}")
        for optimiser in optimisers:
            optimiser.step()
        step += 1
        _update_average(average, head, min(config.average, step / (step + 20)))
        losses.append(float(loss.detach()))
        report(step, losses[-1])
        if step % config.evaluate_every == 0 or step == config.steps:
            error = _averaged_mae(head, average, held_out)
            curve.append({"step": step, "train_mae": float(np.mean(losses)), "held_out_mae": error})
            losses.clear()
            state = {"head": head.state_dict(), "average": average, "step": step, "curve": curve}
            with atomic_path(state_file) as temporary:
                torch.save(state | {"optimisers": [optimiser.state_dict() for optimiser in optimisers]}, temporary)
            write_text(folder / "curve.json", json.dumps(curve, indent=1))
    head.load_state_dict(average)
    head.eval()
    return curve


def make_optimisers(head: HessianHead, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of a head, AdamW for the rest, with steps of the same size (arXiv 2502.16982, eq. 4)."""
    rate, decay = config.learning_rate, config.weight_decay
    matrices = [parameter for parameter in head.parameters() if parameter.ndim == 2]
    others = [parameter for parameter in head.parameters() if parameter.ndim != 2]
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate, weight_decay=decay, betas=(0.9, 0.98)),
    ]


def predicted_errors(head: HessianHead, batch: Sequence[Example]) -> list[Tensor]:
    """Predicted minus labelled rows of every structure, eV/Å², each [k, 3, n, 3]."""
    structures, features = collate(batch)
    return row_errors(head(features, structures), batch)


@torch.no_grad()
def mean_absolute_error(head: HessianHead, examples: Sequence[Example], batch: int = 16) -> float:
    """Mean over structures of the mean absolute error of their labelled rows, eV/Å², without gradients."""
    parts = [examples[start : start + batch] for start in range(0, len(examples), batch)]
    return sum(float(entry_loss(predicted_errors(head, part))) * len(part) for part in parts) / len(examples)


def learning_rate(step: int, config: TrainConfig) -> float:
    """Linear rise, a plateau, and half a cosine down to zero over the last share of the steps."""
    rise = min(1.0, (step + 1) / max(config.warmup, 1))
    start = config.steps * (1 - config.decay)
    fall = max(0.0, (step - start) / (config.steps - start))
    return config.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * fall))


def fit_normalisation(head: HessianHead, examples: Sequence[Example], seed: int) -> None:
    """Sets the head's feature scales and block sizes from a sample of the examples."""
    chosen = np.random.default_rng(seed).permutation(len(examples))[:NORMALISATION_SAMPLE]
    sample = [examples[k] for k in chosen]
    head.fit_normalisation(NodeFeatures.concatenate([e.features for e in sample]))
    head.block_scale.fit(*sample_block_sizes(sample))


def _batch_indices(step: int, count: int, config: TrainConfig) -> list[int]:
    """The examples of a step: consecutive places in a permutation that changes from pass to pass."""
    places = range(step * config.batch, (step + 1) * config.batch)
    indices = []
    for epoch in sorted({place // count for place in places}):
        order = np.random.default_rng([config.seed, epoch]).permutation(count)
        indices += [int(order[place % count]) for place in places if place // count == epoch]
    return indices


@torch.no_grad()
def _update_average(average: dict[str, Tensor], head: HessianHead, decay: float) -> None:
    for name, value in head.state_dict().items():
        average[name].lerp_(value, 1 - decay)


def _averaged_mae(head: HessianHead, average: dict[str, Tensor], held_out: Sequence[Example]) -> float:
    """Held-out error of the averaged weights; the head's own come back afterwards."""
    own: dict[str, Any] = {name: value.clone() for name, value in head.state_dict().items()}
    head.load_state_dict(average)
    error = mean_absolute_error(head, held_out)
    head.load_state_dict(own)
    return error
