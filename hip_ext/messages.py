"""Message passing in Cartesian l ≤ 2 algebra: scalars s, vectors v and symmetric traceless tensors T on every atom.

Every product below is written for true parity (v polar, T even): s·r̂, T r̂ and T v are vectors, r̂ r̂ᵀ, v r̂ᵀ, v vᵀ and
T T are tensors once their trace and antisymmetric part are taken off.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hip_ext.radial import GaussianBasis, envelope


@dataclass(frozen=True)
class NodeState:
    """The head's own node features: s [N, S], v [N, 3, C], T [N, 3, 3, C]; channels last: mixing is a matmul."""

    scalars: Tensor
    vectors: Tensor
    tensors: Tensor


@dataclass(frozen=True)
class Edges:
    """Directed edges within the message cutoff: centre and neighbour [E], unit vector r̂ [E, 3], distance in Å [E]."""

    centre: Tensor
    neighbour: Tensor
    unit: Tensor
    distance: Tensor


def symmetric_traceless(matrix: Tensor) -> Tensor:
    """(M + Mᵀ)/2 − tr(M)/3·1 of matrices [N, 3, 3, C]."""
    symmetric = (matrix + matrix.transpose(1, 2)) / 2
    trace = symmetric[:, 0, 0] + symmetric[:, 1, 1] + symmetric[:, 2, 2]
    identity = torch.eye(3, dtype=matrix.dtype, device=matrix.device)
    return symmetric - identity[None, :, :, None] * (trace / 3)[:, None, None, :]


def turn(tensors: Tensor, vector: Tensor) -> Tensor:
    """T r for symmetric T [E, 3, 3, C] and r [E, 3], as rᵀ T because the sum is faster that way, [E, 3, C]."""
    return (tensors * vector[:, :, None, None]).sum(1)


class MessageLayer(nn.Module):
    """One round of messages over the edges, then products on each atom.

    Args:
        scalars, channels: widths S and C of the node state.
        cutoff: reach of a message, Å.
        spacing: of the radial basis, Å.
        mean_neighbours: divides the sum over neighbours (through its square root).
    """

    def __init__(self, scalars: int, channels: int, cutoff: float, spacing: float, mean_neighbours: float) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.scale = mean_neighbours**-0.5
        self.sizes = [scalars] + [channels] * 6
        self.radial = GaussianBasis(0.5, cutoff, spacing)
        self.from_centre = nn.Linear(scalars, scalars)
        self.from_neighbour = nn.Linear(scalars, scalars, bias=False)
        self.from_distance = nn.Linear(self.radial.size, scalars, bias=False)
        self.filter = nn.Linear(scalars, sum(self.sizes))
        self.mix_vectors = nn.Linear(channels, 3 * channels, bias=False)
        self.mix_tensors = nn.Linear(channels, 3 * channels, bias=False)
        found = scalars + 3 * channels
        self.invariants = nn.Sequential(
            nn.LayerNorm(found), nn.Linear(found, scalars), nn.SiLU(), nn.Linear(scalars, scalars + 6 * channels)
        )
        self.channels = channels

    def forward(self, state: NodeState, edges: Edges) -> NodeState:
        """The state after one round."""
        return self._update(self._gather(state, edges))

    def _gather(self, state: NodeState, edges: Edges) -> NodeState:
        s, v, t = state.scalars, state.vectors, state.tensors
        i, j, unit = edges.centre, edges.neighbour, edges.unit
        scalar, along, carry_v, turned, across, carry_t, mixed = self._weights(s, edges).split(self.sizes, dim=1)
        vj, tj = v.index_select(0, j), t.index_select(0, j)
        vectors = along[:, None] * unit[:, :, None] + carry_v[:, None] * vj + turned[:, None] * turn(tj, unit)
        # Both tensor products with r̂ share one outer product: (a r̂ + b v_j) ⊗ r̂. T_j is symmetric and traceless
        # already, so it may go through the projection with them.
        outer = (across[:, None] * unit[:, :, None] + mixed[:, None] * vj)[:, :, None] * unit[:, None, :, None]
        tensors = torch.zeros_like(t).index_add(0, i, outer.addcmul_(carry_t[:, None, None], tj))
        return NodeState(s.index_add(0, i, scalar), v.index_add(0, i, vectors), t + symmetric_traceless(tensors))

    def _weights(self, scalars: Tensor, edges: Edges) -> Tensor:
        """The learned factor of every term of every message, [E, S + 6C]."""
        # `index_select` takes rows several times faster than an index in brackets does.
        hidden = self.from_centre(scalars).index_select(0, edges.centre)
        hidden = hidden + self.from_neighbour(scalars).index_select(0, edges.neighbour)
        hidden = nn.functional.silu(hidden + self.from_distance(self.radial(edges.distance)))
        return self.filter(hidden) * (envelope(edges.distance, self.cutoff) * self.scale)[:, None]

    def _update(self, state: NodeState) -> NodeState:
        s, v, t = state.scalars, state.vectors, state.tensors
        v1, v2, v3 = self.mix_vectors(v).split(self.channels, dim=-1)
        t1, t2, t3 = self.mix_tensors(t).split(self.channels, dim=-1)
        tv = torch.einsum("nxyc,nyc->nxc", t1, v1)
        vv = symmetric_traceless(v1[:, :, None] * v2[:, None])
        tt = symmetric_traceless(torch.einsum("nxyc,nyzc->nxzc", t1, t2))
        found = torch.cat((s, (v1 * v2).sum(1), (t1 * t2).sum((1, 2)), (v2 * tv).sum(1)), dim=1)
        ds, a, b, c, d, e, f = self.invariants(found).split(self.sizes, dim=1)
        v = v + a[:, None] * v3 + b[:, None] * tv + c[:, None] * v1
        t = t + d[:, None, None] * t3 + e[:, None, None] * vv + f[:, None, None] * tt
        return NodeState(s + ds, v, t)
