"""A block of messages in the manner of EquiformerV2 (arXiv 2306.12059), as HIP puts one before its readout.

Node features x are [N, 9, C], see `hip_style.sphere`. Messages are made in the frames of their edges.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, pad, silu

from hip_ext.edges import Edges

from .sphere import BY_ORDER, LinearSO2, LinearSO3, sphere_product


class MessageBlock(nn.Module):
    """A transformer block: attention over all other atoms of the molecule, then products on each atom.

    Args:
        channels, hidden, radial, invariants, basis: as in `EdgeMessage`.
        heads: of the attention, each with `hidden` / `heads` channels.
    """

    def __init__(self, channels: int, hidden: int, radial: int, invariants: int, basis: int, heads: int) -> None:
        super().__init__()
        c, h, self.heads = channels, hidden, heads
        self.before = NormSO3(c)
        self.message = EdgeMessage(c, h, radial, invariants, basis, attention=h * heads)
        self.weigh = nn.Linear(h, 1, bias=False)
        self.attention_norm = nn.LayerNorm(h)
        self.gather = LinearSO3(h, c)
        self.between = NormSO3(c)
        self.widen = LinearSO3(c, 2 * c)
        self.invariants = nn.Sequential(nn.Linear(c, 2 * c), nn.SiLU(), nn.Linear(2 * c, c))
        self.narrow = LinearSO3(c, c)

    def forward(self, x: Tensor, known: Tensor, edges: Edges, turn: Tensor) -> Tensor:
        """The node features after the block, [N, 9, C]."""
        message, attention = self.message(self.before(x), known, edges, turn)
        score = self.weigh(leaky_relu(self.attention_norm(attention.unflatten(1, (self.heads, -1))), 0.2)).squeeze(2)
        weight = softmax_by_centre(score, edges).repeat_interleave(message.shape[2] // self.heads, dim=1)
        message = turn.transpose(1, 2) @ (message * weight[:, None])
        total = message.new_zeros(len(x), 9 * message.shape[2]).index_add(0, edges.centre, message.flatten(1))
        x = x + self.gather(total.view(len(x), 9, -1))
        y = self.between(x)
        y = self.narrow(sphere_product(*self.widen(y).chunk(2, dim=2))) + pad(self.invariants(y[:, :1]), (0, 0, 0, 8))
        return x + y


class EdgeMessage(nn.Module):
    """What both atoms of an edge say in its frame: SO(2) convolution, activation, SO(2) convolution.

    Args:
        channels: C per atom and degree.
        hidden: per edge and degree.
        radial: made of the distance and what is known of both atoms, they weight what goes into the first convolution.
        invariants: what is known of each atom beforehand, its element among it.
        basis: number of Gaussians.
        attention: invariants to make besides.
    """

    def __init__(
        self, channels: int, hidden: int, radial: int, invariants: int, basis: int, attention: int = 0
    ) -> None:
        super().__init__()
        c, self.hidden = channels, hidden
        self.ends = nn.ModuleList(nn.Linear(invariants, radial) for _ in range(2))
        self.distance = nn.Linear(basis, radial)
        self.weights = nn.Sequential(nn.LayerNorm(radial), nn.SiLU(), nn.Linear(radial, 6 * 2 * c))
        self.first = LinearSO2(2 * c, 2 * hidden, hidden + attention)
        self.second = LinearSO2(hidden, hidden)

    def forward(self, x: Tensor, known: Tensor, edges: Edges, turn: Tensor) -> tuple[Tensor, Tensor]:
        """Messages in the edge frames, [E, 9, hidden], and invariants, [E, attention]."""
        flat = x.flatten(1)
        both = torch.cat(
            [flat.index_select(0, atoms).view(-1, 9, x.shape[2]) for atoms in (edges.centre, edges.neighbour)], dim=2
        )
        start, end = (mix(known) for mix in self.ends)
        ends = start.index_select(0, edges.centre) + end.index_select(0, edges.neighbour)
        weights = self.weights(edges.with_both(ends, self.distance(edges.basis))).view(len(both), 6, -1)
        # One for each l and |m|, so that those like cos(mφ) and like sin(mφ) share theirs.
        zero, one, two = weights.split((3, 2, 1), dim=1)
        hidden, invariants = self.first((turn @ both) * torch.cat((zero, one, one, two, two), dim=1))
        hidden = sphere_product(*hidden.chunk(2, dim=2), order=BY_ORDER)
        scalars, attention = invariants.split((self.hidden, invariants.shape[1] - self.hidden), dim=1)
        return self.second(hidden + pad(silu(scalars)[:, None], (0, 0, 0, 8)))[0], attention


class NormSO3(nn.Module):
    """A layer norm for l = 0, and for all the rest together division by their root mean square."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scalars = nn.LayerNorm(channels)
        self.vectors = nn.Parameter(torch.ones(channels))
        self.tensors = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """The normalised features, [N, 9, C]."""
        rest = x[:, 1:]
        rest = rest * torch.rsqrt(rest.pow(2).mean((1, 2), keepdim=True) + 1e-5)
        one, two = rest.split((3, 5), dim=1)
        return torch.cat((self.scalars(x[:, :1]), one * self.vectors, two * self.tensors), dim=1)


def softmax_by_centre(score: Tensor, edges: Edges) -> Tensor:
    """Weights of each atom's edges that add up to 1, [E, H]."""
    place = edges.centre[:, None].expand_as(score)
    nodes = score.new_zeros(edges.num_atoms, score.shape[1])
    largest = nodes.scatter_reduce(0, place, score.detach(), "amax", include_self=False)
    weight = torch.exp(score - largest.index_select(0, edges.centre))
    return weight / nodes.index_add(0, edges.centre, weight).index_select(0, edges.centre)
