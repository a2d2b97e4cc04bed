"""A Hessian readout in the manner of HIP (arXiv 2509.21624), on node features up to l = 2.

    features ── a block of messages on the complete graph ──> node state x ── edge messages ──> M_ij;   x_i ──> D_i
    H_ij = M_ij + M_jiᵀ,    H_ii = D_i + D_iᵀ

Written from the paper's description, to be compared with `hip_ext.head`: messages are made of both ends of an edge in
the edge's own frame, weighted by what Gaussians of the distance and the scalars of both ends say, without an envelope;
one channel each of l = 0, 1, 2 makes a 3×3 block. The diagonal is read off the nodes; no rule ties it to the rest.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from hip_ext.blocks import HessianBlocks
from hip_ext.edges import Edges
from hip_ext.features import NodeFeatures, Widths, tensor_from_real_l2
from hip_ext.head import HessianHead
from hip_ext.pairs import pair_graph
from hip_ext.radial import BlockScale, GaussianBasis
from hip_ext.structures import Structures
from hip_ext.sum_rules import cross_matrix

from .messages import EdgeMessage, MessageBlock, NormSO3
from .sphere import DEGREES, LinearSO3, edge_frames, wigner

OUTLIER = 8.0
"""As in `hip_ext.head`: no scalar feature counts for more standard deviations than this."""


class HipStyleConfig(BaseModel):
    """Sizes of a `HipStyleHead`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: int = Field(32, description="per atom and degree")
    hidden: int = Field(16, description="per edge and degree; a multiple of the heads")
    radial: int = Field(64, description="invariants per edge that weight its messages")
    heads: int = Field(4, description="of the attention")
    reach: float = Field(20.0, description="of the Gaussians, Å; the graph has no limit")
    spacing: float = Field(0.16, description="between Gaussians, Å, which are twice as wide")
    scale: Literal["constant", "distance"] = Field(
        "constant", description="usual size of an off-diagonal block: one number, or ours, a function of the distance"
    )


class HipStyleHead(nn.Module):
    """Predicts the Hessian of a batch of molecules from node features; called as a `HessianHead` is.

    Args:
        widths: channels (C0, C1, C2) of the features.
        config: sizes.
    """

    scalar_mean: Tensor
    scalar_scale: Tensor
    vector_scale: Tensor
    tensor_scale: Tensor
    pair_scale: Tensor
    diagonal_scale: Tensor

    def __init__(self, widths: Widths, config: HipStyleConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or HipStyleConfig()
        c = config.channels
        self.register_buffer("scalar_mean", torch.zeros(widths[0]))
        for name, width in zip(("scalar_scale", "vector_scale", "tensor_scale"), widths, strict=True):
            self.register_buffer(name, torch.ones(width))
        self.register_buffer("pair_scale", torch.tensor(1.0))
        self.register_buffer("diagonal_scale", torch.tensor(1.0))
        self.radial = GaussianBasis(0.0, config.reach, config.spacing)
        self.radial.width *= 2
        self.mix = nn.ModuleList((nn.Linear(widths[0], c), *(nn.Linear(w, c, bias=False) for w in widths[1:])))
        sizes = (c, config.hidden, config.radial, widths[0], self.radial.size)
        self.block = MessageBlock(*sizes, heads=config.heads)
        self.norm = NormSO3(c)
        self.message = EdgeMessage(*sizes)
        self.edge_read = LinearSO3(config.hidden, 1)
        self.node_read = LinearSO3(c, 1)
        self.block_scale = BlockScale()

    # The same entrance as ours: unit variance for every channel of the features.
    fit_normalisation = HessianHead.fit_normalisation

    @torch.no_grad()
    def fit_scale(self, distance: Tensor, pair_norm: Tensor, diagonal_norm: Tensor) -> None:
        """Sets the usual size of a block from the Frobenius norms of samples, eV/Å², [P] and [D], P with distances."""
        self.block_scale.fit(distance, pair_norm)
        self.pair_scale.copy_(pair_norm.pow(2).mean().sqrt() / 3)
        self.diagonal_scale.copy_(diagonal_norm.pow(2).mean().sqrt() / 3)

    def forward(self, features: NodeFeatures, structures: Structures) -> HessianBlocks:
        """Predicts the blocks of every molecule, eV/Å²."""
        pairs = pair_graph(structures, math.inf)
        edges = Edges.of(pairs, self.radial(pairs.distance), torch.ones_like(pairs.distance), structures.num_atoms)
        turn = wigner(edge_frames(edges.unit.squeeze(2).T))
        x, known = self._entrance(features)
        x = self.norm(self.block(x, known, edges, turn))
        message, _ = self.message(x, known, edges, turn)
        ij, ji = matrix_of(self.edge_read(turn.transpose(1, 2) @ message)).chunk(2)
        diagonal = matrix_of(self.node_read(x))
        scale = self.pair_scale if self.config.scale == "constant" else self.block_scale(pairs.distance)[:, None, None]
        pair = scale * (ij + ji.transpose(1, 2))
        return HessianBlocks(pair, self.diagonal_scale * (diagonal + diagonal.transpose(1, 2)), pairs, structures.ptr)

    def _entrance(self, features: NodeFeatures) -> tuple[Tensor, Tensor]:
        """Node features x, [N, 9, C], and the normalised scalars that they are made of, [N, C0]."""
        scalars = OUTLIER * torch.tanh((features.scalars - self.scalar_mean) * (self.scalar_scale / OUTLIER))
        vectors = (features.vectors * self.vector_scale[:, None]).transpose(1, 2)[:, [1, 2, 0]]
        basis = tensor_from_real_l2(torch.eye(5).to(scalars))
        tensors = torch.einsum("aij,ncij,c->nac", basis, features.tensors, self.tensor_scale)
        parts = (scalars[:, None], vectors, tensors)
        return torch.cat([mix(part) for mix, part in zip(self.mix, parts, strict=True)], dim=1), scalars


def matrix_of(x: Tensor) -> Tensor:
    """The 3×3 matrices of one channel: l = 0 a multiple of 1, l = 1 antisymmetric, l = 2 symmetric and traceless.

    These are the Clebsch–Gordan products of two vectors read backwards, each of unit norm: [M, 9, 1] to [M, 3, 3].
    """
    scalar, vector, tensor = (x[:, part, 0] for part in DEGREES)
    one = torch.eye(3).to(x)
    skew = cross_matrix(vector[:, [2, 0, 1]]) / math.sqrt(2)
    return scalar[:, :, None] * one / math.sqrt(3) + skew + tensor_from_real_l2(tensor)
