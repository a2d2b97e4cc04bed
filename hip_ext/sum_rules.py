"""The exact rules that every Hessian obeys, imposed in closed form.

Translation: Σ_j H_ij = 0 with symmetric H_ii. The diagonal is set to −sym Σ_j H_ij; what is left, the antisymmetric
part A_i of the row sum, is moved into the pairs as H_ij ← H_ij − w_ij (φ_i − φ_j), where φ solves the weighted graph
Laplacian L φ = A. Since Σ_i A_i = 0 over each connected part of the graph, the solution exists; it stays local in the
sense that a part of the graph never hears of another.

Rotation: with U the orthonormalised rigid motions and W = HU known exactly (0 for translations; for a generator L of
rotations H·(L x) = L·g with g the gradient), H ← PHP + WUᵀ + UWᵀ − U(UᵀW)Uᵀ with P = 1 − UUᵀ is the symmetric matrix
closest to H for which HU = W.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hip_ext.blocks import HessianBlocks
from hip_ext.pairs import PairGraph


def without_remainder(pair: Tensor, weight: Tensor, graph: PairGraph, ptr: Tensor) -> Tensor:
    """Takes the antisymmetric part of every row sum Σ_j H_ij out of the pair blocks, [P, 3, 3].

    Args:
        pair: predicted blocks, [P, 3, 3].
        weight: how readily each pair takes up a correction, positive, zero at the cutoff, [P].
        graph: the pairs.
        ptr: atoms of structure b are ptr[b] to ptr[b + 1].
    """
    i, j = graph.first, graph.second
    skew = (pair - pair.transpose(1, 2)).flatten(1) / 2
    # The reversed pair has the transposed block, whose antisymmetric part has the other sign.
    total = skew.new_zeros(int(ptr[-1]), 9).index_add(0, i, skew).index_add(0, j, skew, alpha=-1)
    potential = _laplacian_solve(weight, graph, ptr, total)
    flow = weight[:, None] * (potential.index_select(0, i) - potential.index_select(0, j))
    return pair - flow.view(-1, 3, 3)


def with_acoustic_diagonal(pair: Tensor, graph: PairGraph, ptr: Tensor) -> HessianBlocks:
    """Completes pair blocks whose row sums are symmetric with the diagonal −Σ_j H_ij."""
    total = pair.new_zeros(int(ptr[-1]), 3, 3).index_add(0, graph.first, pair)
    total = total.index_add(0, graph.second, pair.transpose(1, 2))
    return HessianBlocks(pair, -(total + total.transpose(1, 2)) / 2, graph, ptr)


def cross_matrix(axial: Tensor) -> Tensor:
    """The antisymmetric matrices with entries (y,z), (z,x), (x,y) equal to the three components, [..., 3, 3]."""
    x, y, z = axial.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack((zero, z, -y, -z, zero, x, y, -x, zero), -1).unflatten(-1, (3, 3))


def with_rigid_body_rule(hessian: Tensor, positions: Tensor, forces: Tensor) -> Tensor:
    """Imposes the translation and rotation rules on the matrix of one molecule, with the backbone's own forces.

    Args:
        hessian: symmetric, eV/Å², [3N, 3N].
        positions: Å, [N, 3].
        forces: −dE/dx of the potential that the Hessian belongs to, eV/Å, [N, 3].

    Returns:
        The closest symmetric matrix with H·t = 0 for translations t and H·(L x) = L·g for rotations, [3N, 3N].
    """
    motions, products = _rigid_motions(positions - positions.mean(0), -forces)
    # Rigid motions of a linear molecule or a single atom are dependent: keep the directions that carry weight.
    left, strength, right = torch.linalg.svd(motions, full_matrices=False)
    kept = strength > 1e-6 * strength[0]
    basis = left[:, kept]
    image = products @ (right[kept].T / strength[kept])
    inside = hessian - basis @ (basis.T @ hessian)
    inside = inside - (inside @ basis) @ basis.T
    cross = image @ basis.T
    middle = basis @ (basis.T @ image) @ basis.T
    return inside + cross + cross.T - (middle + middle.T) / 2


def _rigid_motions(positions: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Six rigid motions of a molecule and what its exact Hessian makes of them, both [3N, 6]."""
    n = positions.shape[0]
    axes = torch.eye(3, dtype=positions.dtype, device=positions.device)
    shift = axes.repeat(n, 1)
    turn = torch.linalg.cross(axes[None, :, :].expand(n, 3, 3), positions[:, None, :].expand(n, 3, 3), dim=-1)
    twist = torch.linalg.cross(axes[None, :, :].expand(n, 3, 3), gradient[:, None, :].expand(n, 3, 3), dim=-1)
    motions = torch.cat((shift, turn.transpose(1, 2).reshape(3 * n, 3)), dim=1)
    products = torch.cat((torch.zeros_like(shift), twist.transpose(1, 2).reshape(3 * n, 3)), dim=1)
    return motions, products


def _laplacian_solve(weight: Tensor, graph: PairGraph, ptr: Tensor, right: Tensor) -> Tensor:
    """Solves L φ = right for every structure of the batch, [N, K], with L the weighted graph Laplacian.

    L is singular: φ is free up to a constant on each connected part. A small shift of the diagonal, well above
    rounding so that the factorisation cannot fail, picks one solution; the constant drops out of the differences
    φ_i − φ_j, which are all that is used.
    """
    sizes = ptr[1:] - ptr[:-1]
    systems, most = len(sizes), int(sizes.max())
    # The place of each atom among `most` of its structure, and in the table of all structures.
    start = torch.repeat_interleave(ptr[:-1], sizes)
    system = torch.repeat_interleave(torch.arange(systems, device=ptr.device), sizes)
    local = torch.arange(len(right), device=ptr.device) - start
    slot = system * most + local
    place = (slot * most).index_select(0, graph.first) + local.index_select(0, graph.second)
    half = weight.new_zeros(systems * most * most).index_add(0, place, -weight).view(systems, most, most)
    laplacian = half + half.transpose(1, 2)
    diagonal = laplacian.diagonal(dim1=1, dim2=2)
    diagonal.zero_()  # of pairs of an atom with its own images
    degree = -laplacian.sum(2)
    floor = torch.finfo(weight.dtype).eps * 128 * degree.amax(dim=1, keepdim=True)
    # Slots without an atom, and atoms without a neighbour, become rows of the identity.
    diagonal.copy_(torch.where(degree > 0, degree + floor, 1.0))
    padded = right.new_zeros(systems * most, right.shape[1]).index_copy(0, slot, right)
    factor = torch.linalg.cholesky_ex(laplacian)[0]
    solution = torch.cholesky_solve(padded.view(systems, most, right.shape[1]), factor)
    return solution.flatten(0, 1).index_select(0, slot)
