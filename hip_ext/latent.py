"""The three-body part of a Hessian: the curvature of latent internal coordinates around every atom.

An energy E = Σ_k F(q_k) of coordinates q_k around each atom k has ∂²E/∂r_i ∂r_j = Σ_k Σ_c λ_kc g_kci g_kcjᵀ + (terms in
second derivatives of q), with g_kci = ∂q_kc/∂r_i: the Wilson B-matrix form of force constants. Here the head predicts
the gradients g of C coordinates per atom on its neighbours, and their curvatures λ. Since q_k does not change when all
atoms move together, g_kk = −Σ_i g_ki, and the sum of these blocks over a row is zero by construction; since it does not
change when they turn together, Σ_i r_ki × g_ki = 0, so that these blocks do not resist a rotation of the molecule
either.

The neighbourhoods of all atoms are tables with room for the M members of the largest one, the atom itself included; a
row that no member takes is zero and adds nothing to any sum.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hip_ext.edges import Edges
from hip_ext.pairs import PairGraph
from hip_ext.sum_rules import cross_matrix


@dataclass(frozen=True)
class Triplets:
    """Pairs of members of each atom's neighbourhood (the atom itself included), matched with the pair graph.

    The members of a neighbourhood are sorted by atom and lattice shift, so that of two members the first is also the
    first atom of their pair in the graph.

    Attributes:
        slot: the row of each edge in a table of N·M members, int64 [E].
        own: the row of each atom as a member of its own neighbourhood, int64 [N].
        members: M.
        block: first row of each used member pair in a table of N·M × 3 × M rows, int64 [Q]; its next rows are M apart.
        pair: the pair of the graph to which that block belongs, int64 [Q].
    """

    slot: Tensor
    own: Tensor
    members: int
    block: Tensor
    pair: Tensor


def find_triplets(graph: PairGraph, centre: Tensor, neighbour: Tensor, shift: Tensor, num_atoms: int) -> Triplets:
    """Lists the member pairs of all neighbourhoods whose two ends form a pair of the graph.

    Args:
        graph: the pair graph.
        centre: first atom of the directed edges within the message cutoff, [E].
        neighbour: their second atom, [E].
        shift: lattice shift of the neighbour, [E, 3].
        num_atoms: N.
    """
    atoms = torch.arange(num_atoms, device=centre.device)
    # One integer stands for an image of an atom. It is linear in the shift: a difference of two of them tells which
    # image of one atom another one sees, as long as no component of a difference is longer than `reach`.
    reach = torch.cat((graph.shift, 2 * shift, shift.new_zeros(1, 3))).abs().amax()
    span = 2 * reach + 1
    digits = torch.stack((span * span, span, torch.ones_like(span)))
    images = span**3
    image = torch.cat((torch.zeros_like(atoms), (shift * digits).sum(1)))
    owner, atom = torch.cat((atoms, centre)), torch.cat((atoms, neighbour)) * images
    order = torch.argsort(owner * (num_atoms * images) + atom + image)
    row_owner, as_first, as_second = (x.index_select(0, order) for x in (owner, atom * num_atoms - image, atom + image))
    counts = torch.bincount(centre, minlength=num_atoms) + 1
    ends = counts.cumsum(0)
    most = int(counts.max())
    position = torch.arange(len(order), device=order.device)
    rank = position - (ends - counts).index_select(0, row_owner)
    row = row_owner * most + rank
    slot = torch.empty_like(row).index_copy_(0, order, row)

    # The member pairs are listed row after row: the n-th pair of a row joins it with the n-th row behind it.
    later = ends.index_select(0, row_owner) - 1 - position
    left = torch.repeat_interleave(later)
    behind = position + 1 + later - later.cumsum(0)
    right = behind.index_select(0, left) + torch.arange(len(left), device=left.device)
    target = as_first.index_select(0, left) + as_second.index_select(0, right)
    known = (graph.first * num_atoms + graph.second) * images + (graph.shift * digits).sum(1)
    known, which = torch.sort(known)
    place = torch.searchsorted(known, target)
    # One key that nothing has, for what is greater than all others.
    found = torch.nonzero(torch.cat((known, known.new_tensor([-1]))).index_select(0, place) == target).squeeze(1)
    block = (row * (3 * most)).index_select(0, left) + rank.index_select(0, right)
    pair = which.index_select(0, place.index_select(0, found))
    return Triplets(slot[num_atoms:], slot[:num_atoms], most, block.index_select(0, found), pair)


def neighbourhoods(values: Tensor, triplets: Triplets) -> Tensor:
    """Edge values [3, E, C] as tables of neighbourhoods, [N, 3·M, C], with a row for each member and direction."""
    axes = torch.arange(3, device=values.device)
    rows = (3 * triplets.slot + axes[:, None]).flatten()
    n, most, channels = len(triplets.own), triplets.members, values.shape[2]
    table = values.new_zeros(n * most * 3, channels).index_copy(0, rows, values.reshape(len(rows), channels))
    return table.view(n, most * 3, channels)


def torque_free(gradients: Tensor, edges: Edges, triplets: Triplets) -> Tensor:
    """Takes out of every coordinate's gradient what a rotation about its centre would feel, [N, 3·M, C].

    With K_ki the matrix of r_ki × of each member, g_k ← g_k − w K (Kᵀ w K)⁻¹ Kᵀ g_k, where Kᵀ g is the torque
    Σ_i r_ki × g_ki and Kᵀ w K the inertia Σ_i w_ki (r_ki² 1 − r_ki r_kiᵀ). The weights w = u(r)/r⁴ put the change on
    near neighbours, and with the envelope u take it smoothly to zero at the cutoff.

    Args:
        gradients: g of each neighbourhood, [N, 3·M, C].
        edges: where the neighbours are.
        triplets: their places in the tables.
    """
    cross = cross_matrix(edges.vector.squeeze(2).T).permute(1, 0, 2)
    weight = edges.fade / (edges.vector * edges.vector).sum(0) ** 2
    turns = neighbourhoods(torch.cat((cross, cross * weight), dim=2), triplets)
    turns, weighted = turns.split(3, dim=2)
    torque, inertia = turns.transpose(1, 2) @ gradients, turns.transpose(1, 2) @ weighted
    # Neighbours on one line have no moment about it, and no torque either: a small shift keeps the inverse finite.
    trace = inertia.diagonal(dim1=1, dim2=2).sum(1, keepdim=True)
    shift = torch.where(trace > 0, trace * (torch.finfo(trace.dtype).eps * 128), 1.0)
    inertia.diagonal(dim1=1, dim2=2).add_(shift)
    return torch.baddbmm(gradients, weighted, torch.linalg.solve_ex(inertia, torque)[0], alpha=-1)


def curvature_blocks(gradients: Tensor, curvature: Tensor, triplets: Triplets, num_pairs: int) -> Tensor:
    """Σ_k Σ_c λ_kc g_kci g_kcjᵀ for every pair of the graph, [P, 3, 3].

    Args:
        gradients: g of each neighbourhood, zero on the atom itself, [N, 3·M, C].
        curvature: λ, eV/Å² where g has no unit, [N, C].
        triplets: from `find_triplets`.
        num_pairs: P.
    """
    (n, channels), most = curvature.shape, triplets.members
    own = -gradients.view(n, most, 3 * channels).sum(1)
    gradients = gradients.view(n * most, 3 * channels).index_copy(0, triplets.own, own)
    table = gradients.view(n, most * 3, channels)
    product = (table * curvature[:, None]) @ table.transpose(1, 2)
    # The three rows of a block (a, b) are three numbers each, M such triples apart.
    rows = triplets.block[:, None] + most * torch.arange(3, device=product.device)
    blocks = product.view(-1, 3).index_select(0, rows.flatten()).view(-1, 9)
    return product.new_zeros(num_pairs, 9).index_add(0, triplets.pair, blocks).view(num_pairs, 3, 3)
