"""Pair blocks from the features of both atoms of a pair.

With r̂ from i to j, y and u vectors made of v_i, v_j, T_i r̂, T_j r̂, and learned coefficients that depend on both atoms
and the distance, a block is

    B_ij = a·1 + b·r̂ r̂ᵀ + y r̂ᵀ + r̂ uᵀ + Σ_c (c_c T_i^c + d_c T_j^c + e_c v_i^c v_j^cᵀ + f_c T_i^c T_j^c).

The products y r̂ᵀ, v vᵀ and T T reach the antisymmetric part under true parity. Coefficients are computed for both
directions of a pair and combined so that B_ji = B_ijᵀ: what is y from one atom is −u from the other, where r̂ has the
other sign.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from hip_ext.edges import Edges
from hip_ext.messages import NodeState, turn


@dataclass(frozen=True)
class PairState:
    """What the readouts know of each edge, both directions of every pair.

    Attributes:
        hidden: invariant features, [E, H].
        lines: v_i, v_j, T_i r̂, T_j r̂ with r̂ and the roles of the atoms as the edge sees them, [3, E, 4C].
        vectors, tensors: v [3, E, C] and T [3, 3, E, C] of the centre.
    """

    hidden: Tensor
    lines: Tensor
    vectors: Tensor
    tensors: Tensor


class PairEncoder(nn.Module):
    """Invariant features of directed pairs.

    Args:
        scalars, channels: widths of the node state.
        hidden: H.
        reduced: vectors and tensors per atom that enter a pair, C.
        basis: R of the edges.
    """

    def __init__(self, scalars: int, channels: int, hidden: int, reduced: int, basis: int) -> None:
        super().__init__()
        self.reduce_vectors = nn.Linear(channels, reduced, bias=False)
        self.reduce_tensors = nn.Linear(channels, reduced, bias=False)
        self.from_first = nn.Linear(scalars, hidden)
        self.from_second = nn.Linear(scalars, hidden, bias=False)
        self.from_distance = nn.Linear(basis, hidden, bias=False)
        self.from_invariants = nn.Linear(6 * reduced, hidden, bias=False)
        self.deepen = nn.Linear(hidden, hidden)

    def forward(self, state: NodeState, edges: Edges) -> PairState:
        """Encodes every edge."""
        r = edges.unit
        v = edges.at_centre(self.reduce_vectors(state.vectors))
        t = edges.at_centre(self.reduce_tensors(state.tensors))
        turned = turn(t, r)
        # Seen from the other atom r̂ changes its sign, and with it every product with one r̂.
        lines = torch.cat((v, edges.reversed(v), turned, -edges.reversed(turned)), dim=2)
        a, p = (v * r).sum(0), (turned * r).sum(0)
        (vi, vj), (ti, tj) = v.chunk(2, dim=1), t.chunk(2, dim=2)
        shared = torch.cat(((vi * vj).sum(0), (ti * tj).sum((0, 1))), dim=1).repeat(2, 1)
        invariants = torch.cat((a, -edges.reversed(a), p, edges.reversed(p), shared), dim=1)
        hidden = edges.at_centre(self.from_first(state.scalars))
        hidden = hidden.add_(edges.at_neighbour(self.from_second(state.scalars)))
        hidden = edges.with_both(hidden, self.from_distance(edges.basis))
        hidden = silu(hidden.addmm_(invariants, self.from_invariants.weight.T))
        return PairState(hidden + silu(self.deepen(hidden)), lines, v, t)


class PairBlocks(nn.Module):
    """The two-body part: the expansion at the top of this module, in units of the usual block size.

    Args:
        hidden: H of the pair state.
        reduced: C of the pair state.
    """

    def __init__(self, hidden: int, reduced: int) -> None:
        super().__init__()
        self.sizes = [2, 4 * reduced, reduced, reduced, reduced, reduced]
        self.coefficients = nn.Linear(hidden, sum(self.sizes))

    def forward(self, pairs: PairState, edges: Edges) -> Tensor:
        """Blocks of the forward directions, [P, 3, 3]."""
        ab, along, own, other, outer, product = self.coefficients(pairs.hidden).split(self.sizes, dim=1)
        # One axis at a time, so that no second array of the size of `lines` is needed.
        y, y_back = torch.stack([(line * along).sum(1) for line in pairs.lines]).chunk(2, dim=1)
        r = edges.unit[:, : y.shape[1], 0]
        a, b = _both(ab).unbind(1)
        (own, own_back), (other, other_back) = own.chunk(2), other.chunk(2)
        (vi, vj), (ti, tj) = pairs.vectors.chunk(2, dim=1), pairs.tensors.chunk(2, dim=2)
        channels = torch.addcmul(ti * (own + other_back), tj, other + own_back)
        channels = channels.addcmul_((vi * _both(outer))[:, None], vj)
        weighted = ti * _both(product)
        for z in range(3):
            channels = channels.addcmul_(weighted[:, z, None], tj[z])
        block = channels.sum(3).addcmul_((y + b * r)[:, None], r).addcmul_(r[:, None], y_back, value=-1)
        block.diagonal(dim1=0, dim2=1).add_(a[:, None])
        return block.permute(2, 0, 1).contiguous()


class LatentGradients(nn.Module):
    """Gradients of latent coordinates on each edge of the message graph (see `hip_ext.latent`).

    Args:
        hidden: H of the pair state.
        reduced: C of the pair state.
        coordinates: latent coordinates per atom.
    """

    def __init__(self, hidden: int, reduced: int, coordinates: int) -> None:
        super().__init__()
        self.sizes = [coordinates, 4 * reduced]
        self.coefficients = nn.Linear(hidden, sum(self.sizes))
        self.mix = nn.Linear(4 * reduced, coordinates, bias=False)

    def forward(self, pairs: PairState, edges: Edges) -> Tensor:
        """The g of every edge, smoothly zero at the cutoff, [3, E, coordinates]."""
        along, weights = (self.coefficients(pairs.hidden) * edges.fade).split(self.sizes, dim=1)
        return torch.addcmul(torch.stack([self.mix(line * weights) for line in pairs.lines]), edges.unit, along)


def _both(coefficients: Tensor) -> Tensor:
    """The sum over both directions of each pair, [E, C] to [P, C]."""
    forward, backward = coefficients.chunk(2)
    return forward + backward
