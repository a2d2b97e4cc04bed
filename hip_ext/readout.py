"""Pair blocks from the features of both atoms of a pair.

With r̂ from i to j, u and y vectors made of v_i, v_j, T_i r̂, T_j r̂, and learned coefficients that depend on both atoms
and the distance, a block is

    B_ij = a·1 + b·r̂ r̂ᵀ + y r̂ᵀ + r̂ uᵀ + Σ_c (c_c T_i^c + d_c T_j^c + e_c v_i^c v_j^cᵀ + f_c T_i^c T_j^c).

The products y r̂ᵀ, v vᵀ and T T reach the antisymmetric part under true parity. Coefficients are computed for both
directions of a pair and combined so that B_ji = B_ijᵀ.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hip_ext.messages import NodeState, turn
from hip_ext.pairs import PairGraph
from hip_ext.radial import GaussianBasis


@dataclass(frozen=True)
class PairState:
    """What the readouts know of each pair, forward directions first.

    Attributes:
        hidden: invariant features of both directions, [2P, H].
        unit: r̂ of the forward direction, [P, 3].
        vectors: v_i, v_j, T_i r̂, T_j r̂ of the forward direction, [P, 3, 4C].
        first, second: v [P, 3, C] and T [P, 3, 3, C] of the two atoms.
    """

    hidden: Tensor
    unit: Tensor
    vectors: Tensor
    first: tuple[Tensor, Tensor]
    second: tuple[Tensor, Tensor]


class PairEncoder(nn.Module):
    """Invariant features of directed pairs.

    Args:
        scalars, channels: widths of the node state.
        hidden: H.
        reduced: vectors and tensors per atom that enter a pair, C.
        cutoff: last centre of the radial basis, Å.
        spacing: of the radial basis, Å.
    """

    def __init__(self, scalars: int, channels: int, hidden: int, reduced: int, cutoff: float, spacing: float) -> None:
        super().__init__()
        self.radial = GaussianBasis(0.5, cutoff, spacing)
        self.reduce_vectors = nn.Linear(channels, reduced, bias=False)
        self.reduce_tensors = nn.Linear(channels, reduced, bias=False)
        self.from_first = nn.Linear(scalars, hidden)
        self.from_second = nn.Linear(scalars, hidden, bias=False)
        self.from_distance = nn.Linear(self.radial.size, hidden, bias=False)
        self.from_invariants = nn.Linear(6 * reduced, hidden, bias=False)
        self.deepen = nn.Linear(hidden, hidden)

    def forward(self, state: NodeState, graph: PairGraph) -> PairState:
        """Encodes every pair of the graph in both directions."""
        i, j = graph.first, graph.second
        unit = graph.vector / graph.distance[:, None]
        v, t = self.reduce_vectors(state.vectors), self.reduce_tensors(state.tensors)
        vi, vj, ti, tj = v.index_select(0, i), v.index_select(0, j), t.index_select(0, i), t.index_select(0, j)
        turned_i, turned_j = turn(ti, unit), turn(tj, unit)
        along = unit[:, :, None]
        a, b = (vi * along).sum(1), (vj * along).sum(1)
        p, q = (turned_i * along).sum(1), (turned_j * along).sum(1)
        shared = (vi * vj).sum(1), (ti * tj).sum((1, 2))
        # Seen from the other atom r̂ changes its sign, and with it every product with one r̂.
        invariants = torch.cat((torch.cat((a, b, p, q, *shared), 1), torch.cat((-b, -a, q, p, *shared), 1)))
        left, right = self.from_first(state.scalars), self.from_second(state.scalars)
        nodes = left.index_select(0, torch.cat((i, j))) + right.index_select(0, torch.cat((j, i)))
        radial = self.from_distance(self.radial(graph.distance)).repeat(2, 1)
        hidden = nn.functional.silu(nodes + radial + self.from_invariants(invariants))
        hidden = hidden + nn.functional.silu(self.deepen(hidden))
        return PairState(hidden, unit, torch.cat((vi, vj, turned_i, turned_j), dim=2), (vi, ti), (vj, tj))


class PairBlocks(nn.Module):
    """The two-body part: the expansion at the top of this module, in units of the usual block size.

    Args:
        hidden: H of the pair state.
        reduced: C of the pair state.
    """

    def __init__(self, hidden: int, reduced: int) -> None:
        super().__init__()
        self.sizes = [2, 4 * reduced, 2 * reduced, reduced, reduced]
        self.coefficients = nn.Linear(hidden, sum(self.sizes))

    def forward(self, pairs: PairState) -> Tensor:
        """Blocks of the forward directions, [P, 3, 3]."""
        forward, backward = self.coefficients(pairs.hidden).chunk(2)
        lines, along, tensors, outer, product = (forward + backward).split(self.sizes, dim=1)
        forward_along = forward.split(self.sizes, dim=1)[1]
        backward_along = along - forward_along
        f1, f2 = forward.split(self.sizes, dim=1)[2].chunk(2, dim=1)
        b1, b2 = (tensors - torch.cat((f1, f2), 1)).chunk(2, dim=1)
        unit, (vi, ti), (vj, tj) = pairs.unit, pairs.first, pairs.second
        y = (pairs.vectors * forward_along[:, None]).sum(2)
        # The mirrored term is r̂ uᵀ with the roles of the atoms exchanged and both signs of r̂ changed.
        b_vj, b_vi, b_tj, b_ti = backward_along.chunk(4, dim=1)
        u = (pairs.vectors * torch.cat((-b_vi, -b_vj, b_ti, b_tj), 1)[:, None]).sum(2)
        block = y[:, :, None] * unit[:, None] + unit[:, :, None] * u[:, None]
        block = block + lines[:, 1, None, None] * unit[:, :, None] * unit[:, None]
        block = block + lines[:, 0, None, None] * torch.eye(3, dtype=unit.dtype, device=unit.device)
        block = block + (ti * (f1 + b2)[:, None, None]).sum(3) + (tj * (f2 + b1)[:, None, None]).sum(3)
        block = block + (vi * outer[:, None]) @ vj.transpose(1, 2)
        # T_j is symmetric, so that T_i T_j is one matrix product over (axis, channel).
        return block + (ti * product[:, None, None]).flatten(2) @ tj.flatten(2).transpose(1, 2)


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

    def forward(self, pairs: PairState) -> Tensor:
        """The g of every directed pair, all from the first atom, then all from the second, [2P, 3, coordinates]."""
        along, weights = self.coefficients(pairs.hidden).split(self.sizes, dim=1)
        unit = pairs.unit
        vi, vj, ti, tj = pairs.vectors.chunk(4, dim=2)
        vectors = torch.cat((torch.cat((vi, vj, ti, tj), 2), torch.cat((vj, vi, -tj, -ti), 2)))
        units = torch.cat((unit, -unit))
        return along[:, None] * units[:, :, None] + self.mix(vectors * weights[:, None])
