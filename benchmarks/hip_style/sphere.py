"""What a HIP-like readout needs of SO(3): functions on the sphere up to l = 2, turned, multiplied and mixed.

Features are [..., 9, C]: the l = 0 part, then l = 1 as (y, z, x), then l = 2 as (xy, yz, 3z²−r², xz, x²−y²), all
orthonormal. In the frame of an edge they are sorted by |m| instead: (1, z, 3z²−r²; x, xz; y, yz; x²−y²; xy).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from hip_ext.features import tensor_from_real_l2

DEGREES = (slice(0, 1), slice(1, 4), slice(4, 9))
"""The components of each l."""
BY_ORDER = [0, 2, 6, 3, 7, 1, 5, 8, 4]
"""The components in the order of the edge frames."""
SIZES = (3, 2, 2, 1, 1)
"""How many there have m = 0, cos φ, sin φ, cos 2φ and sin 2φ."""


def edge_frames(unit: Tensor) -> Tensor:
    """Right-handed frames whose third axis is r̂; the first may be any across it; [E, 3] to [E, 3, 3]."""
    axis = nn.functional.one_hot(unit.abs().argmin(1), 3).to(unit)
    first = nn.functional.normalize(axis - (axis * unit).sum(1, keepdim=True) * unit, dim=1)
    return torch.stack((first, torch.linalg.cross(unit, first), unit), dim=1)


def wigner(frames: Tensor) -> Tensor:
    """The matrices that take features into these frames, sorted by |m|, [E, 3, 3] to [E, 9, 9]."""
    basis = tensor_from_real_l2(torch.eye(5).to(frames))
    turned = torch.einsum("eik,bkl,ejl->ebij", frames, basis, frames)
    matrix = frames.new_zeros(len(frames), 9, 9)
    matrix[:, 0, 0] = 1.0
    matrix[:, 1:4, 1:4] = frames[:, [1, 2, 0]][:, :, [1, 2, 0]]
    matrix[:, 4:, 4:] = torch.einsum("aij,ebij->eab", basis, turned)
    return matrix[:, BY_ORDER]


def sphere_grid() -> tuple[Tensor, Tensor]:
    """Harmonics on the points of a grid and back, [G, 9] and [9, G]; exact for products of two functions of l ≤ 2."""
    height, weight = (torch.from_numpy(x) for x in np.polynomial.legendre.leggauss(4))
    angle = torch.arange(7, dtype=torch.float64) * (2 * math.pi / 7)
    z, phi = height.repeat_interleave(7), angle.repeat(4)
    across = (1 - z * z).sqrt()
    point = torch.stack((across * phi.cos(), across * phi.sin(), z), dim=1)
    quadratic = torch.einsum("gi,aij,gj->ga", point, tensor_from_real_l2(torch.eye(5, dtype=torch.float64)), point)
    values = torch.cat((torch.ones(28, 1), math.sqrt(3) * point[:, [1, 2, 0]], math.sqrt(7.5) * quadratic), dim=1)
    return values, (values * weight.repeat_interleave(7)[:, None] / 14).T


def sphere_product(one: Tensor, other: Tensor, order: Sequence[int] = range(9)) -> Tensor:
    """The product of two functions on the sphere, of which the l ≤ 2 part is kept: two [..., 9, C] to one.

    The second-order part of an activation on a grid of the sphere. With products alone a grid of 28 points is exact,
    and so is the equivariance. `order` is that of the components: `BY_ORDER` in the frame of an edge.
    """
    to_grid, from_grid = TO_GRID.to(one)[:, list(order)], FROM_GRID.to(one)[list(order)]
    return from_grid @ ((to_grid @ one) * (to_grid @ other))


TO_GRID, FROM_GRID = sphere_grid()


class LinearSO3(nn.Module):
    """A matrix for each l, with a bias for l = 0: [N, 9, A] to [N, 9, B]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.degrees = nn.ModuleList(nn.Linear(inputs, outputs, bias=degree == 0) for degree in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """The mixed features."""
        return torch.cat([mix(x[..., part, :]) for mix, part in zip(self.degrees, DEGREES, strict=True)], dim=-2)


class LinearSO2(nn.Module):
    """Everything linear that commutes with turns about the axis of the frames (eSCN, arXiv 2302.03655).

    Args:
        inputs, outputs: channels A and B of [E, 9, A] and [E, 9, B].
        extra: invariants to make besides.
    """

    def __init__(self, inputs: int, outputs: int, extra: int = 0) -> None:
        super().__init__()
        self.outputs, self.extra = outputs, extra
        self.zero = nn.Linear(3 * inputs, 3 * outputs + extra)
        # (a + ib)(x + iy): the second half of each makes what is turned by a quarter.
        self.one = nn.Linear(2 * inputs, 4 * outputs, bias=False)
        self.two = nn.Linear(inputs, 2 * outputs, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The features, [E, 9, B], and the invariants, [E, extra]."""
        zero, x1, y1, x2, y2 = (part.flatten(1) for part in x.split(SIZES, dim=1))
        found = self.zero(zero)
        parts = [found[:, self.extra :]]
        for mix, cosine, sine in ((self.one, x1, y1), (self.two, x2, y2)):
            (a, b), (c, d) = mix(cosine).chunk(2, dim=1), mix(sine).chunk(2, dim=1)
            parts += [a - d, b + c]
        return torch.cat(parts, dim=1).view(len(x), 9, self.outputs), found[:, : self.extra]
