"""Message passing in Cartesian l ≤ 2 algebra: scalars s, vectors v and symmetric traceless tensors T on every atom.

Every product below is written for true parity (v polar, T even): s·r̂, T r̂ and T v are vectors, r̂ r̂ᵀ, v r̂ᵀ, v vᵀ and
T T are tensors once their trace and antisymmetric part are taken off.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from hip_ext.edges import Edges


@dataclass(frozen=True)
class NodeState:
    """The head's own node features: s [N, S], v [3, N, C], T [3, 3, N, C]; channels last: mixing is a matmul."""

    scalars: Tensor
    vectors: Tensor
    tensors: Tensor


def symmetric_traceless(matrix: Tensor) -> Tensor:
    """(M + Mᵀ)/2 − tr(M)/3·1 of matrices [3, 3, N, C]."""
    symmetric = (matrix + matrix.transpose(0, 1)) * 0.5
    diagonal = symmetric.diagonal(dim1=0, dim2=1)
    diagonal.sub_(diagonal.sum(-1, keepdim=True) / 3)
    return symmetric


def turn(tensors: Tensor, vectors: Tensor) -> Tensor:
    """T v of symmetric T [3, 3, N, C] and v [3, N, C] or [3, N, 1], as Σ_x T_xy v_x, [3, N, C]."""
    turned = tensors[0] * vectors[0]
    for x in (1, 2):
        turned = turned.addcmul_(tensors[x], vectors[x])
    return turned


class MessageLayer(nn.Module):
    """One round of messages over the edges, then products on each atom.

    Args:
        scalars, channels: widths S and C of the node state.
        basis: R of the edges.
        mean_neighbours: divides the sum over neighbours (through its square root).
    """

    def __init__(self, scalars: int, channels: int, basis: int, mean_neighbours: float) -> None:
        super().__init__()
        self.scale = mean_neighbours**-0.5
        self.sizes = [scalars] + [channels] * 6
        self.from_centre = nn.Linear(scalars, scalars)
        self.from_neighbour = nn.Linear(scalars, scalars, bias=False)
        self.from_distance = nn.Linear(basis, scalars, bias=False)
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
        s, v, t, r = state.scalars, state.vectors, state.tensors, edges.unit
        weight = edges.fade * self.scale
        hidden = self._hidden(s, edges) * weight
        # The filter is linear: what it makes of a sum of messages is the sum of what it makes of them. So the widest
        # part of it, that of the scalars, acts on atoms and not on edges.
        scalars = s + self._filtered(edges.total(hidden), edges.total(weight), slice(0, self.sizes[0]))
        factors = self._filtered(hidden, weight, slice(self.sizes[0], None))
        along, carry_v, turned, across, carry_t, mixed = factors.split(self.channels, dim=1)
        vj = edges.at_neighbour(v)
        # Both tensor products with r̂ share one outer product: (a r̂ + b v_j) ⊗ r̂. T_j is symmetric and traceless
        # already, so it may go through the projection with them.
        tj = edges.at_neighbour(t)
        outer = torch.addcmul(across * r, mixed, vj)[:, None] * r
        tensors = t + symmetric_traceless(edges.total(outer.addcmul_(carry_t, tj)))
        vectors = torch.addcmul(along * r, carry_v, vj).addcmul_(turned, turn(tj, r))
        return NodeState(scalars, v + edges.total(vectors), tensors)

    def _hidden(self, scalars: Tensor, edges: Edges) -> Tensor:
        """What both atoms and the distance of an edge say together, [E, S]."""
        hidden = edges.at_centre(self.from_centre(scalars)).add_(edges.at_neighbour(self.from_neighbour(scalars)))
        return silu(edges.with_both(hidden, self.from_distance(edges.basis)))

    def _filtered(self, hidden: Tensor, weight: Tensor, rows: slice) -> Tensor:
        """Some rows of the filter: W (w h) + w b of weighted hidden features w h [M, S] and weights w [M, 1]."""
        return torch.addcmul(linear(hidden, self.filter.weight[rows]), weight, self.filter.bias[rows])

    def _update(self, state: NodeState) -> NodeState:
        s, v, t = state.scalars, state.vectors, state.tensors
        v1, v2, v3 = self.mix_vectors(v).split(self.channels, dim=-1)
        t1, t2, t3 = self.mix_tensors(t).split(self.channels, dim=-1)
        tv = turn(t1, v1)
        found = torch.cat((s, (v1 * v2).sum(0), (t1 * t2).sum((0, 1)), (v2 * tv).sum(0)), dim=1)
        ds, a, b, c, d, e, f = self.invariants(found).split(self.sizes, dim=1)
        v = torch.addcmul(v, a, v3).addcmul_(b, tv).addcmul_(c, v1)
        # v1 v2ᵀ and T1 T2 with their factors, in one projection.
        product, ft = (e * v1)[:, None] * v2, f * t1
        for z in range(3):
            product = product.addcmul_(ft[:, z, None], t2[z])
        return NodeState(s + ds, v, torch.addcmul(t, d, t3) + symmetric_traceless(product))
