"""The Hessian's own pair graph: every pair of atoms within a cutoff, periodic images included, each pair once.

A pair (i, j, S) joins atom i of the home cell to the image of atom j that is S lattice vectors away; its vector is
r = r_j + S·cell − r_i, from `first` to `second`. Of the two ways to write a pair, (i, j, S) and (j, i, −S), the graph
keeps the one with i < j, or, for an atom and its own image, with S lexicographically positive.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hip_ext.errors import StructureError
from hip_ext.structures import Structures

MIN_DISTANCE = 0.15
"""Two atoms closer than this (Å) count as being on one spot."""


@dataclass(frozen=True)
class PairGraph:
    """P undirected pairs in a batch of structures.

    Attributes:
        first, second: atom indices into the batch, int64 [P].
        shift: lattice shift S of the second atom, int64 [P, 3].
        vector: from first to second, Å, [P, 3]; differentiable with respect to the positions.
        distance: length of `vector`, Å, [P].
        cutoff: Å; infinite for all pairs of a molecule.
    """

    first: Tensor
    second: Tensor
    shift: Tensor
    vector: Tensor
    distance: Tensor
    cutoff: float

    def within(self, cutoff: float) -> tuple[PairGraph, Tensor]:
        """The pairs within a shorter cutoff, and their rows in this graph, int64 [P']."""
        rows = torch.nonzero(self.distance < cutoff).squeeze(1)
        first, second, shift, vector, distance = (
            x.index_select(0, rows) for x in (self.first, self.second, self.shift, self.vector, self.distance)
        )
        return PairGraph(first, second, shift, vector, distance, cutoff), rows

    def directed(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Both directions of every pair, all forward ones first: centre, neighbour [2P], shift, vector [2P, 3]."""
        return (
            torch.cat((self.first, self.second)),
            torch.cat((self.second, self.first)),
            torch.cat((self.shift, -self.shift)),
            torch.cat((self.vector, -self.vector)),
        )


def pair_graph(structures: Structures, cutoff: float) -> PairGraph:
    """Finds all pairs of atoms closer than `cutoff`.

    Args:
        structures: molecules, crystals or a mixture; atoms need not lie inside their cell.
        cutoff: Å; `math.inf` takes all pairs, for structures without periodic directions only.

    Raises:
        StructureError: two atoms are on one spot, or all pairs of a periodic structure were asked for.
    """
    if math.isinf(cutoff) and bool(structures.pbc.any()):
        raise StructureError("all pairs of a periodic structure were asked for: give a finite cutoff")
    molecular = _home_cell_pairs(structures)
    first, second, shift = molecular
    if bool(structures.pbc.any()):
        images = [_image_pairs(structures, b, cutoff) for b in range(structures.num_systems) if structures.pbc[b].any()]
        keep = ~structures.pbc[structures.batch[first]].any(-1)
        parts = [(first[keep], second[keep], shift[keep]), *images]
        first, second, shift = (torch.cat(column) for column in zip(*parts, strict=True))
    vector = pair_vectors(structures, first, second, shift)
    distance = torch.linalg.vector_norm(vector, dim=-1)
    if bool((distance < MIN_DISTANCE).any()):
        p = int(distance.argmin())
        a, b = int(first[p]), int(second[p])
        start = int(structures.ptr[structures.batch[a]])
        raise StructureError(
            f"two atoms on one spot: atoms {a - start} and {b - start} are {float(distance[p]):.3f} Å apart"
        )
    graph = PairGraph(first, second, shift, vector, distance, math.inf)
    return graph if math.isinf(cutoff) else graph.within(cutoff)[0]


def pair_vectors(structures: Structures, first: Tensor, second: Tensor, shift: Tensor) -> Tensor:
    """r_j + S·cell − r_i for each pair, Å, [P, 3]."""
    positions = structures.positions
    vector = positions.index_select(0, second) - positions.index_select(0, first)
    if not bool(structures.pbc.any()):
        return vector
    cell = structures.cell[structures.batch[first]]
    return vector + torch.einsum("pk,pkx->px", shift.to(vector.dtype), cell)


def _home_cell_pairs(structures: Structures) -> tuple[Tensor, Tensor, Tensor]:
    """All pairs i < j of each structure, without images; memory is Σ n², never (Σ n)²."""
    ends = structures.ptr[1:].index_select(0, structures.batch)
    atoms = torch.arange(structures.num_atoms, device=ends.device)
    later = ends - 1 - atoms
    first = torch.repeat_interleave(later)
    # The partners of an atom are the ones behind it: the n-th of its pairs joins it with the n-th.
    behind = atoms + 1 + later - later.cumsum(0)
    second = behind.index_select(0, first) + torch.arange(len(first), device=ends.device)
    return first, second, first.new_zeros(len(first), 3)


def _image_pairs(structures: Structures, system: int, cutoff: float) -> tuple[Tensor, Tensor, Tensor]:
    """The pairs of one periodic structure, image by image, so that memory stays at n² a step."""
    lo, hi = int(structures.ptr[system]), int(structures.ptr[system + 1])
    positions = structures.positions[lo:hi].detach()
    pbc = structures.pbc[system]
    cell = _completed_cell(structures.cell[system], pbc)
    inverse = torch.linalg.inv(cell)
    home = torch.where(pbc, torch.floor(positions @ inverse), 0.0)
    wrapped = positions - home @ cell
    # The planes of lattice vector k are 1/|k-th column of the inverse| apart; wrapped atoms differ by less than one.
    reach = torch.where(pbc, torch.floor(cutoff * torch.linalg.vector_norm(inverse, dim=0)) + 1, 0.0).long().tolist()
    ranges = [torch.arange(-r, r + 1, device=positions.device) for r in reach]
    found = []
    for shift in torch.cartesian_prod(*ranges):
        delta = wrapped[None, :] + shift.to(cell.dtype) @ cell - wrapped[:, None]
        i, j = torch.nonzero((delta * delta).sum(-1) < cutoff**2, as_tuple=True)
        true_shift = shift + (home[i] - home[j]).long()
        keep = (i < j) | ((i == j) & _positive(true_shift))
        found.append((i[keep] + lo, j[keep] + lo, true_shift[keep]))
    first, second, shifts = (torch.cat(column) for column in zip(*found, strict=True))
    return first, second, shifts


def _completed_cell(cell: Tensor, pbc: Tensor) -> Tensor:
    """The cell with unit vectors, orthogonal to the rest, along the directions that are not periodic."""
    rows = cell * pbc[:, None]
    # Rows of V that belong to zero singular values span the orthogonal complement of the lattice vectors.
    complement = torch.linalg.svd(rows)[2][int(pbc.sum()) :]
    rows[~pbc] = complement
    return rows


def _positive(shift: Tensor) -> Tensor:
    """Whether each shift, int64 [P, 3], is lexicographically greater than zero."""
    x, y, z = shift.unbind(-1)
    return (x > 0) | ((x == 0) & ((y > 0) | ((y == 0) & (z > 0))))
