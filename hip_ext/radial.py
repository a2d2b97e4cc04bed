"""Functions of the distance between two atoms: a smooth envelope, a basis, and the usual size of a Hessian block."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def envelope(distance: Tensor, cutoff: float, power: int = 6) -> Tensor:
    """1 at zero, 0 from the cutoff on, with two continuous derivatives everywhere (DimeNet, arXiv 2003.03123, eq. 8).

    Args:
        distance: Å, any shape.
        cutoff: Å; infinite gives 1 everywhere.
        power: the lowest power p of x = distance/cutoff; the larger, the later the fall.
    """
    if math.isinf(cutoff):
        return torch.ones_like(distance)
    x = (distance / cutoff).clamp(max=1.0)
    # The same polynomial as in the paper with its threefold zero taken out, Σ_k<p (k+1)(k+2)/2 xᵏ being what is left:
    # near the cutoff the expanded form loses all its digits and can turn negative, which no weight may be.
    rest = torch.zeros_like(x)
    for k in reversed(range(power)):
        rest = rest * x + (k + 1) * (k + 2) / 2
    return (1.0 - x) ** 3 * rest


class GaussianBasis(nn.Module):
    """Gaussians on a regular grid from `start` to `stop`, as wide as they are apart.

    Args:
        start, stop: first and last centre, Å.
        spacing: at most this distance between centres, Å; below 0.2 Å to resolve bond lengths.
    """

    centres: Tensor

    def __init__(self, start: float, stop: float, spacing: float) -> None:
        super().__init__()
        self.size = math.ceil((stop - start) / spacing) + 1
        self.register_buffer("centres", torch.linspace(start, stop, self.size), persistent=False)
        self.width = (stop - start) / (self.size - 1)

    def forward(self, distance: Tensor) -> Tensor:
        """[P] distances in Å to [P, size]."""
        offset = distance[:, None] - self.centres
        return torch.exp(offset * offset * (-0.5 / self.width**2))


class BlockScale(nn.Module):
    """The root mean square of an off-diagonal Hessian block as a smooth function of distance, eV/Å².

    log s(r) is interpolated between grid points by normalised Gaussians. Blocks fall by four orders of magnitude from
    a bond to the edge of a molecule; with this factor taken out the network predicts numbers of order one at every
    distance. Until `fit` is called, s(r) = 30·exp(−(r − 1)/0.7) + 0.02, a rough average over organic molecules.
    """

    log_scale: Tensor
    grid: Tensor

    def __init__(self, stop: float = 12.0, spacing: float = 0.25) -> None:
        super().__init__()
        grid = torch.arange(0.5, stop + spacing, spacing)
        self.spacing = spacing
        self.register_buffer("grid", grid, persistent=False)
        self.register_buffer("log_scale", torch.log(30 * torch.exp(-(grid - 1) / 0.7) + 0.02))

    def forward(self, distance: Tensor) -> Tensor:
        """[P] distances in Å to [P] sizes in eV/Å²."""
        near = distance.clamp(max=float(self.grid.shape[0] - 1) * self.spacing + 0.5)
        offset = near[:, None] - self.grid
        weight = torch.softmax(offset * offset * (-0.5 / self.spacing**2), dim=-1)
        return torch.exp(weight @ self.log_scale)

    @torch.no_grad()
    def fit(self, distance: Tensor, block_norm: Tensor) -> None:
        """Sets s(r) to the root mean square of Frobenius norms /3 of sample blocks, bin by bin.

        Args:
            distance: Å, [P].
            block_norm: Frobenius norms of the blocks, eV/Å², [P]. Bins without a sample keep the nearest one's value.
        """
        index = ((distance - self.grid[0]) / self.spacing).round().long().clamp(0, self.grid.shape[0] - 1)
        total = torch.zeros_like(self.grid).index_add(0, index, (block_norm / 3).to(self.grid.dtype) ** 2)
        count = torch.zeros_like(self.grid).index_add(0, index, torch.ones_like(block_norm, dtype=self.grid.dtype))
        filled = torch.nonzero(count > 0).squeeze(1)
        bins = torch.arange(len(self.grid), device=self.grid.device)
        nearest = filled[(bins[:, None] - filled[None, :]).abs().argmin(dim=1)]
        self.log_scale.copy_(torch.log((total / count.clamp(min=1))[nearest].sqrt().clamp(min=1e-4)))
