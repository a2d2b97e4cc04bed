"""The three-body part of a Hessian: the curvature of latent internal coordinates around every atom.

An energy E = Σ_k F(q_k) of coordinates q_k around each atom k has ∂²E/∂r_i ∂r_j = Σ_k Σ_c λ_kc g_kci g_kcjᵀ + (terms in
second derivatives of q), with g_kci = ∂q_kc/∂r_i: the Wilson B-matrix form of force constants. Here the head predicts
the gradients g of C coordinates per atom on its neighbours, and their curvatures λ. Since q_k does not change when all
atoms move together, g_kk = −Σ_i g_ki, and the sum of these blocks over a row is zero by construction; since it does not
change when they turn together, Σ_i r_ki × g_ki = 0, so that these blocks do not resist a rotation of the molecule
either.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hip_ext.pairs import PairGraph


@dataclass(frozen=True)
class Triplets:
    """Pairs of members of each atom's neighbourhood (the atom itself included), matched with the pair graph.

    The members of a neighbourhood are sorted by atom and lattice shift, so that of two members the first is also the
    first atom of their pair in the graph.

    Attributes:
        slot: the row of each edge in a padded table of N·M members, int64 [E].
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
    home = shift.new_zeros(num_atoms, 3)
    # One integer stands for an image of an atom. It is linear in the shift: a difference of two of them tells which
    # image of one atom another one sees, as long as no component of a difference is longer than `reach`.
    reach = torch.cat((graph.shift, 2 * shift, home)).abs().amax()
    span = 2 * reach + 1
    digits = torch.stack((span * span, span, torch.ones_like(span)))
    images = span**3
    owner, atom = torch.cat((atoms, centre)), torch.cat((atoms, neighbour))
    image = (torch.cat((home, shift)) * digits).sum(1)
    order = torch.argsort((owner * num_atoms + atom) * images + image)
    owner, atom, image = owner[order], atom[order], image[order]
    counts = torch.bincount(owner, minlength=num_atoms)
    rank = torch.arange(len(owner), device=owner.device) - (counts.cumsum(0) - counts)[owner]
    most = int(counts.max())
    row = owner * most + rank
    slot = torch.empty_like(row).index_copy_(0, order, row)

    # The member pairs are listed row after row: the n-th pair of a row joins it with the n-th row behind it.
    later = counts[owner] - 1 - rank
    left = torch.repeat_interleave(later)
    start = later.cumsum(0) - later
    step = torch.arange(len(row), device=row.device) + 1 - start
    right = torch.arange(len(left), device=row.device) + step.index_select(0, left)
    target = (atom * num_atoms * images - image).index_select(0, left) + (atom * images + image).index_select(0, right)
    known = (graph.first * num_atoms + graph.second) * images + (graph.shift * digits).sum(1)
    known, which = torch.sort(known)
    place = torch.searchsorted(known, target)
    # One key that nothing has, for what is greater than all others.
    found = torch.nonzero(torch.cat((known, known.new_tensor([-1]))).index_select(0, place) == target).squeeze(1)
    block = (row * 3 * most).index_select(0, left) + rank.index_select(0, right)
    pair = which.index_select(0, place.index_select(0, found))
    return Triplets(slot[num_atoms:], slot[:num_atoms], most, block.index_select(0, found), pair)


def torque_free(gradients: Tensor, vector: Tensor, weight: Tensor, centre: Tensor, num_atoms: int) -> Tensor:
    """Takes out of every coordinate's gradient what a rotation about its centre would feel, [E, 3, C].

    g_ki ← g_ki − w_ki α_k × r_ki with α_k = I_k⁻¹ Σ_i r_ki × g_ki and I_k = Σ_i w_ki (r_ki² 1 − r_ki r_kiᵀ).

    Args:
        gradients: g on each edge, [E, 3, C].
        vector: from the centre to the neighbour, Å, [E, 3].
        weight: how much of the correction an edge takes, positive, zero at the cutoff, [E].
        centre: the atom k of each edge, [E].
        num_atoms: N.
    """
    torque = gradients.new_zeros(num_atoms, *gradients.shape[1:]).index_add(0, centre, _cross(vector, gradients))
    square = (vector * vector).sum(1)
    identity = torch.eye(3, dtype=vector.dtype, device=vector.device)
    moment = weight[:, None, None] * (square[:, None, None] * identity - vector[:, :, None] * vector[:, None])
    inertia = vector.new_zeros(num_atoms, 3, 3).index_add(0, centre, moment)
    # Neighbours on one line have no moment about it, and no torque either: a small shift keeps the inverse finite.
    trace = inertia.diagonal(dim1=1, dim2=2).sum(1)
    shift = torch.where(trace > 0, trace * torch.finfo(vector.dtype).eps * 128, torch.ones_like(trace))
    turning = torch.linalg.solve(inertia + shift[:, None, None] * identity, torque)
    return gradients + _cross(weight[:, None] * vector, turning.index_select(0, centre))


def curvature_blocks(gradients: Tensor, curvature: Tensor, triplets: Triplets, num_pairs: int) -> Tensor:
    """Σ_k Σ_c λ_kc g_kci g_kcjᵀ for every pair of the graph, [P, 3, 3].

    Args:
        gradients: g on each edge, in the order of the edges given to `find_triplets`, [E, 3, C].
        curvature: λ, eV/Å² where g has no unit, [N, C].
        triplets: from `find_triplets`.
        num_pairs: P.
    """
    (n, channels), most = curvature.shape, triplets.members
    table = gradients.new_zeros(n * most, 3, channels).index_add(0, triplets.slot, gradients)
    own = -table.view(n, most, 3, channels).sum(1)
    table = table.index_add(0, triplets.own, own).view(n, most * 3, channels)
    product = (table * curvature[:, None]) @ table.transpose(1, 2)
    # The three rows of a block (a, b) are three numbers each, M such triples apart.
    rows = triplets.block[:, None] + most * torch.arange(3, device=product.device)
    blocks = product.view(-1, 3).index_select(0, rows.flatten()).view(-1, 9)
    return product.new_zeros(num_pairs, 9).index_add(0, triplets.pair, blocks).view(num_pairs, 3, 3)


def _cross(vector: Tensor, matrix: Tensor) -> Tensor:
    """The products r × g for r [E, 3] and every column g of [E, 3, C]; faster than `torch.linalg.cross`."""
    x, y, z = vector[:, :, None].unbind(1)
    a, b, c = matrix.unbind(1)
    return torch.stack((y * c - z * b, z * a - x * c, x * b - y * a), dim=1)
