"""What a backbone hands to the head: node features up to l = 2, in Cartesian form.

A rotation R acts on a scalar as s, on a vector as R v and on a tensor as R T Rᵀ; with parity "o3" the same holds
for reflections, so that every vector is polar and every tensor is even.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Parity = Literal["o3", "so3"]
Widths = tuple[int, int, int]


@dataclass(frozen=True)
class NodeFeatures:
    """Equivariant features of the N atoms of a batch.

    Attributes:
        scalars: invariants, shape [N, C0].
        vectors: polar vectors in the order x, y, z, shape [N, C1, 3].
        tensors: symmetric traceless matrices, shape [N, C2, 3, 3].
        parity: "o3" when reflections act as stated above, "so3" when the backbone promises rotations only.
    """

    scalars: Tensor
    vectors: Tensor
    tensors: Tensor
    parity: Parity = "o3"

    def __post_init__(self) -> None:
        n = self.scalars.shape[0]
        expected = {
            "scalars": (n, self.scalars.shape[-1]),
            "vectors": (n, self.vectors.shape[1], 3),
            "tensors": (n, self.tensors.shape[1], 3, 3),
        }
        for name, shape in expected.items():
            if tuple(getattr(self, name).shape) != shape:
                raise ValueError(f"NodeFeatures.{name} has shape {tuple(getattr(self, name).shape)}, expected {shape}")

    @property
    def widths(self) -> Widths:
        """Channels per degree (C0, C1, C2)."""
        return self.scalars.shape[1], self.vectors.shape[1], self.tensors.shape[1]

    def to(self, *args: object, **kwargs: object) -> NodeFeatures:
        """The same features on another device or in another dtype, as `Tensor.to`."""
        parts = (self.scalars, self.vectors, self.tensors)
        scalars, vectors, tensors = (x.to(*args, **kwargs) for x in parts)  # type: ignore[call-overload]
        return NodeFeatures(scalars, vectors, tensors, self.parity)

    @classmethod
    def concatenate(cls, parts: Sequence[NodeFeatures]) -> NodeFeatures:
        """The features of several batches, one after the other."""
        return cls(
            torch.cat([part.scalars for part in parts]),
            torch.cat([part.vectors for part in parts]),
            torch.cat([part.tensors for part in parts]),
            parts[0].parity,
        )

    def detach(self) -> NodeFeatures:
        """The same features, cut from the graph that made them."""
        return NodeFeatures(self.scalars.detach(), self.vectors.detach(), self.tensors.detach(), self.parity)


def tensor_from_real_l2(components: Tensor) -> Tensor:
    """Turns l = 2 components into symmetric traceless matrices of the same norm.

    Args:
        components: [..., 5] in the order (xy, yz, 3z²−r², xz, x²−y²), orthonormal up to one common factor: the real
            spherical harmonics with z as polar axis. For the e3nn order, whose polar axis is y, permute the axes
            with `tensor_from_e3nn_l2`.

    Returns:
        [..., 3, 3] with Frobenius norm equal to the norm of the components.
    """
    xy, yz, z2, xz, x2y2 = (components / math.sqrt(2.0)).unbind(-1)
    z2 = z2 / math.sqrt(3.0)
    rows = (
        torch.stack((x2y2 - z2, xy, xz), dim=-1),
        torch.stack((xy, -x2y2 - z2, yz), dim=-1),
        torch.stack((xz, yz, 2 * z2), dim=-1),
    )
    return torch.stack(rows, dim=-2)


def tensor_from_e3nn_l2(components: Tensor) -> Tensor:
    """Turns l = 2 components in e3nn's order into symmetric traceless matrices of the same norm.

    e3nn (0.4 to 0.6), MACE and fairchem order them as (xz, xy, 2y²−x²−z², yz, z²−x²): the real harmonics of the
    cyclically renamed axes (x, y, z) → (z, x, y).
    """
    xz, xy, y2, yz, z2x2 = (components / math.sqrt(2.0)).unbind(-1)
    y2 = y2 / math.sqrt(3.0)
    rows = (
        torch.stack((-z2x2 - y2, xy, xz), dim=-1),
        torch.stack((xy, 2 * y2, yz), dim=-1),
        torch.stack((xz, yz, z2x2 - y2), dim=-1),
    )
    return torch.stack(rows, dim=-2)
