"""Both directions of the pairs within the cutoff, and how node values get to them and back.

Everything that has components of space keeps them in front and its channels last: vectors are [3, N, C], tensors
[3, 3, N, C]. A product of a factor per edge and channel with all components is then one run through memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hip_ext.pairs import PairGraph


@dataclass(frozen=True)
class Edges:
    """The E = 2P directed edges of P pairs, all forward ones first: edge P + p is edge p seen from its other end.

    Attributes:
        centre, neighbour: atoms of each edge, int64 [E].
        shift: lattice shift of the neighbour, int64 [E, 3].
        vector: r from centre to neighbour, Å, [3, E, 1].
        unit: r̂, [3, E, 1].
        basis: radial basis of the distance, the same for both directions, [P, R].
        fade: envelope of the distance, [E, 1].
        centre_rows, neighbour_rows: where the atoms of the edges are in a table of up to nine components one below the
            other, [9·N, C]; int64 [9·E].
        num_atoms: N.
    """

    centre: Tensor
    neighbour: Tensor
    shift: Tensor
    vector: Tensor
    unit: Tensor
    basis: Tensor
    fade: Tensor
    centre_rows: Tensor
    neighbour_rows: Tensor
    num_atoms: int

    @classmethod
    def of(cls, pairs: PairGraph, basis: Tensor, fade: Tensor, num_atoms: int) -> Edges:
        """The edges of a pair graph.

        Args:
            pairs: P pairs.
            basis: radial basis of their distances, [P, R].
            fade: envelope of their distances, [P].
            num_atoms: N.
        """
        centre, neighbour = torch.cat((pairs.first, pairs.second)), torch.cat((pairs.second, pairs.first))
        forward = pairs.vector.T
        unit = forward / pairs.distance
        first_row = num_atoms * torch.arange(9, device=centre.device)[:, None]
        return cls(
            centre,
            neighbour,
            torch.cat((pairs.shift, -pairs.shift)),
            torch.cat((forward, -forward), dim=1)[:, :, None],
            torch.cat((unit, -unit), dim=1)[:, :, None],
            basis,
            fade.repeat(2)[:, None],
            (first_row + centre).flatten(),
            (first_row + neighbour).flatten(),
            num_atoms,
        )

    def at_centre(self, values: Tensor) -> Tensor:
        """Node values of the atom from which each edge starts, [..., N, C] to [..., E, C]."""
        return _taken(values, self.centre_rows, len(self.centre))

    def at_neighbour(self, values: Tensor) -> Tensor:
        """Node values of the atom at which each edge ends, [..., N, C] to [..., E, C]."""
        return _taken(values, self.neighbour_rows, len(self.centre))

    def total(self, values: Tensor) -> Tensor:
        """The sum over the edges of each centre, [..., E, C] to [..., N, C]."""
        *components, edges, channels = values.shape
        flat = values.reshape(math.prod(components) * edges, channels)
        table = values.new_zeros(math.prod(components) * self.num_atoms, channels)
        return table.index_add_(0, self.centre_rows[: len(flat)], flat).view(*components, self.num_atoms, channels)

    def with_both(self, values: Tensor, pairs: Tensor) -> Tensor:
        """Edge values plus what both directions of a pair have in common, [E, C] and [P, C] to [E, C]."""
        return (values.unflatten(0, (2, len(pairs))) + pairs).flatten(0, 1)

    def reversed(self, values: Tensor) -> Tensor:
        """The values of each edge's other direction, [..., E, C]."""
        forward, backward = values.chunk(2, dim=-2)
        return torch.cat((backward, forward), dim=-2)


def _taken(values: Tensor, rows: Tensor, edges: int) -> Tensor:
    *components, atoms, channels = values.shape
    count = math.prod(components)
    # Rows of one table: index_select along the first dimension is several times faster than along another.
    table = values.reshape(count * atoms, channels)
    return table.index_select(0, rows[: count * edges]).view(*components, edges, channels)
