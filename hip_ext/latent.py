"""The three-body part of a Hessian: the curvature of latent internal coordinates around every atom.

An energy E = Σ_k F(q_k) of coordinates q_k around each atom k has ∂²E/∂r_i ∂r_j = Σ_k Σ_c λ_kc g_kci g_kcjᵀ + (terms in
second derivatives of q), with g_kci = ∂q_kc/∂r_i: the Wilson B-matrix form of force constants. Here the head predicts
the gradients g of C coordinates per atom on its neighbours, and their curvatures λ. Since q_k does not change when all
atoms move together, g_kk = −Σ_i g_ki, and the sum of these blocks over a row is zero by construction.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hip_ext.pairs import PairGraph


@dataclass(frozen=True)
class Triplets:
    """Pairs of members of each atom's neighbourhood (the atom itself included), matched with the pair graph.

    Attributes:
        slot: the row of each edge in a padded table of N·M members, int64 [E]; member 0 is the centre itself.
        members: M.
        block: position of each used member pair in the table of N·M·M blocks, int64 [Q].
        pair: the pair of the graph to which that block belongs, int64 [Q].
        flipped: whether the block belongs to the reversed pair, so that its transpose is added, bool [Q].
    """

    slot: Tensor
    members: int
    block: Tensor
    pair: Tensor
    flipped: Tensor


def find_triplets(graph: PairGraph, centre: Tensor, neighbour: Tensor, shift: Tensor, num_atoms: int) -> Triplets:
    """Lists the member pairs of all neighbourhoods whose two ends form a pair of the graph.

    Args:
        graph: the pair graph.
        centre, neighbour: directed edges within the message cutoff, [E].
        shift: lattice shift of the neighbour, [E, 3].
        num_atoms: N.
    """
    device = centre.device
    order = torch.argsort(centre, stable=True)
    counts = torch.bincount(centre, minlength=num_atoms)
    rank = torch.arange(len(centre), device=device) - (counts.cumsum(0) - counts)[centre[order]]
    most = int(counts.max()) + 1 if len(centre) else 1
    slot = torch.empty_like(centre)
    slot[order] = centre[order] * most + rank + 1
    atom = torch.full((num_atoms * most,), -1, device=device)
    atom[slot] = neighbour
    atom[torch.arange(num_atoms, device=device) * most] = torch.arange(num_atoms, device=device)
    image = shift.new_zeros(num_atoms * most, 3)
    image[slot] = shift
    a, b = torch.triu_indices(most, most, offset=1, device=device)
    atom, image = atom.view(num_atoms, most), image.view(num_atoms, most, 3)
    used = torch.nonzero((atom[:, a] >= 0) & (atom[:, b] >= 0))
    k, a, b = used[:, 0], a[used[:, 1]], b[used[:, 1]]
    pair, flipped = _lookup(graph, atom[k, a], atom[k, b], image[k, b] - image[k, a], num_atoms)
    found = torch.nonzero(pair >= 0).squeeze(1)
    block = (k * most + a) * most + b
    return Triplets(slot, most, block[found], pair[found], flipped[found])


def curvature_blocks(gradients: Tensor, curvature: Tensor, triplets: Triplets, num_pairs: int) -> Tensor:
    """Σ_k Σ_c λ_kc g_kci g_kcjᵀ for every pair of the graph, [P, 3, 3].

    Args:
        gradients: g on each edge, in the order of the edges given to `find_triplets`, [E, 3, C].
        curvature: λ, eV/Å² where g has no unit, [N, C].
        triplets: from `find_triplets`.
        num_pairs: P.
    """
    n, channels = curvature.shape
    table = gradients.new_zeros(n * triplets.members, 3, channels).index_add(0, triplets.slot, gradients)
    table = table.view(n, triplets.members, 3, channels)
    own = table[:, :1] - table.sum(1, keepdim=True)
    table = torch.cat((own, table[:, 1:]), dim=1).view(n, triplets.members * 3, channels)
    product = (table * curvature[:, None]) @ table.transpose(1, 2)
    blocks = product.view(n, triplets.members, 3, triplets.members, 3).transpose(2, 3).reshape(-1, 9)
    # Transposing a flipped block is a permutation of its nine entries.
    chosen = blocks[triplets.block]
    turned = chosen.view(-1, 3, 3).transpose(1, 2).reshape(-1, 9)
    chosen = torch.where(triplets.flipped[:, None], turned, chosen)
    return blocks.new_zeros(num_pairs, 9).index_add(0, triplets.pair, chosen).view(num_pairs, 3, 3)


def _lookup(graph: PairGraph, i: Tensor, j: Tensor, shift: Tensor, num_atoms: int) -> tuple[Tensor, Tensor]:
    """Rows of the graph that hold the pairs (i, j, shift), −1 where there is none, and whether they are reversed."""
    x, y, z = shift.unbind(-1)
    negative = (x < 0) | ((x == 0) & ((y < 0) | ((y == 0) & (z < 0))))
    flipped = (i > j) | ((i == j) & negative)
    first, second = torch.where(flipped, j, i), torch.where(flipped, i, j)
    wanted = torch.where(flipped[:, None], -shift, shift)
    if len(graph.first) == 0:
        return torch.full_like(i, -1), flipped
    reach = torch.cat((graph.shift, wanted)).abs().amax()
    span = 2 * reach + 1

    def key(a: Tensor, b: Tensor, s: Tensor) -> Tensor:
        s = s + reach
        return (((a * num_atoms + b) * span + s[:, 0]) * span + s[:, 1]) * span + s[:, 2]

    keys, order = torch.sort(key(graph.first, graph.second, graph.shift))
    target = key(first, second, wanted)
    place = torch.searchsorted(keys, target).clamp(max=len(keys) - 1)
    return torch.where(keys[place] == target, order[place], torch.full_like(place, -1)), flipped
