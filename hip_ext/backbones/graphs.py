"""Our pair graph in the words of MACE and its relatives, so3krates-torch among them.

Each pair becomes two edges; the vector of an edge is r[edge_index[1]] − r[edge_index[0]] + shifts, where
shifts = unit_shifts · cell.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hip_ext.pairs import PairGraph
from hip_ext.structures import Structures


@dataclass(frozen=True)
class DirectedEdges:
    """The E = 2P directed edges of a pair graph.

    Attributes:
        index: both atoms of each edge, int64 [2, E].
        unit_shifts: lattice shifts of the second atom as real numbers, [E, 3].
        shifts: the same in Å, [E, 3].
    """

    index: Tensor
    unit_shifts: Tensor
    shifts: Tensor


def directed_edges(graph: PairGraph, structures: Structures, dtype: torch.dtype) -> DirectedEdges:
    """Both directions of every pair, with real numbers in `dtype`."""
    centre, neighbour, shift, _ = graph.directed()
    cell = structures.cell[structures.batch[centre]]
    unit_shifts = shift.to(cell.dtype)
    shifts = torch.einsum("ek,ekx->ex", unit_shifts, cell)
    return DirectedEdges(torch.stack((centre, neighbour)), unit_shifts.to(dtype), shifts.to(dtype))


def boxed_cell(structures: Structures, scale: float) -> Tensor:
    """The cell with a long Cartesian vector along every direction that is not periodic, Å, [B, 3, 3].

    This is the box that MACE puts around an open structure; its volume is the one that the stress is divided by. The
    vectors are (1 + the largest coordinate in Å) · `scale` long.
    """
    largest = structures.positions.detach().abs().amax(dim=-1)
    extent = largest.new_zeros(structures.num_systems).scatter_reduce(0, structures.batch, largest, "amax")
    box = (extent + 1.0)[:, None, None] * scale * torch.eye(3, dtype=largest.dtype, device=largest.device)
    return torch.where(structures.pbc[:, :, None], structures.cell, box)
