"""What the head makes small: Σ_b w_b mean|H_b − H_b^ref| / B over the B labelled structures of a batch, eV/Å²."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hip_ext.errors import DataError
from hip_ext.plugins.mace.model import DIRECT_HESSIAN


class HessianLoss(nn.Module):
    """The error of the Hessian alone.

    Args:
        weight: factor of the whole.
    """

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, ref: Any, pred: dict[str, Tensor], ddp: bool | None = None) -> Tensor:
        """The loss of a batch; a batch without a label has none, but still a graph to differentiate.

        Args:
            ref: MACE's batch, with labels as in `hip_ext.plugins.mace.labels`.
            pred: results of the model.
            ddp: part of MACE's signature of a loss; training is in one process here.

        Raises:
            DataError: the error is not a finite number, because training broke down.
        """
        errors = structure_errors(ref, pred[DIRECT_HESSIAN])
        if not bool(torch.isfinite(errors).all()):
            raise DataError("training broke down, the Hessian is no longer finite: try a smaller --hessian_lr")
        weights = ref.weight[ref.hessian_labelled]
        mean = (weights * errors).sum() / max(len(errors), 1) + 0.0 * pred[DIRECT_HESSIAN].sum()
        return self.weight * mean

    def extra_repr(self) -> str:
        """What is logged."""
        return f"hessian_weight={self.weight:.3f}"


class JointLoss(nn.Module):
    """One of MACE's losses plus the error of the Hessian.

    Args:
        base: MACE's loss.
        weight: factor of the Hessian's error.
    """

    def __init__(self, base: nn.Module, weight: float) -> None:
        super().__init__()
        self.base = base
        self.hessian = HessianLoss(weight)

    def forward(self, ref: Any, pred: dict[str, Tensor], ddp: bool | None = None) -> Tensor:
        """The loss of a batch; arguments as in `HessianLoss.forward`."""
        return self.base(ref, pred, ddp) + self.hessian(ref, pred, ddp)


def structure_errors(ref: Any, hessian: Tensor) -> Tensor:
    """The mean absolute error of every labelled structure of a batch.

    Args:
        ref: MACE's batch.
        hessian: predictions for all its structures, [Σ (3n)²], eV/Å².

    Returns:
        [number of labelled structures], eV/Å².
    """
    entries = 9 * (ref.ptr[1:] - ref.ptr[:-1]) ** 2
    labelled: Tensor = ref.hessian_labelled
    difference = hessian[torch.repeat_interleave(labelled, entries)] - ref.hessian
    entries = entries[labelled]
    owner = torch.repeat_interleave(torch.arange(len(entries), device=entries.device), entries)
    return difference.new_zeros(len(entries)).index_add(0, owner, difference.abs()) / entries
