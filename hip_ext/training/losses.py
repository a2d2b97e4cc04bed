"""What a head is trained to make small, from labelled rows of Hessians.

The mean absolute error of the entries is dominated by stiff bonds. What users look at first, the lowest modes, are
motions in which large parts of a molecule turn against each other, and along which the contributions of all those
entries nearly cancel. `twist_loss` therefore asks for H·u as well, for random motions u of that kind.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hip_ext.training.dataset import Example


def entry_loss(errors: Sequence[Tensor]) -> Tensor:
    """Mean over structures of the mean absolute error of their labelled rows, eV/Å²; errors are [k, 3, n, 3] each."""
    return torch.stack([error.abs().mean() for error in errors]).mean()


def twist_loss(errors: Sequence[Tensor], examples: Sequence[Example], rng: np.random.Generator, count: int) -> Tensor:
    """Mean over structures and `count` random twists u (largest displacement 1) of mean |ΔH·u|, eV/Å²."""
    losses = []
    for error, example in zip(errors, examples, strict=True):
        fields = torch.as_tensor(twists(example.record.positions, rng, count), dtype=error.dtype, device=error.device)
        losses.append(torch.einsum("kxny,cny->ckx", error, fields).abs().mean())
    return torch.stack(losses).mean()


def twists(positions: NDArray[np.float64], rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Smooth motions in which one half of a structure turns against the other, [count, n, 3], at most 1 long.

    u(x) = f(n·(x − c)/1 Å) a × (x − c), with c the middle of a random pair of neighbours and n its direction. The axis
    a is n (a torsion) or random (a bend), the profile f is tanh, or 1 for a rotation of the whole.
    """
    fields = []
    for _ in range(count):
        first = int(rng.integers(len(positions)))
        distance = np.linalg.norm(positions - positions[first], axis=1)
        distance[first] = np.inf
        second = int(rng.choice(np.flatnonzero(distance < 1.25 * distance.min() + 0.3)))
        centre = (positions[first] + positions[second]) / 2
        direction = (positions[second] - positions[first]) / distance[second]
        axis = direction if rng.random() < 0.5 else rng.normal(size=3)
        arm = positions - centre
        profile = 1.0 if rng.random() < 0.25 else np.tanh(arm @ direction)[:, None]
        field = profile * np.cross(axis, arm)
        fields.append(field / max(np.linalg.norm(field, axis=1).max(), 1e-6))
    return np.array(fields)
