"""What is made small: one number for every structure, 0 where it has no such label.

    entries    mean |ΔH_ab| or ΔH_ab² of the labelled entries, diagonal blocks weighted apart
    products   mean |ΔH·v| along labelled probes, or along random twists within the labelled rows
    subspace   mean |V ᵀH V − Λ|, V and Λ the lowest modes and eigenvalues of the labelled Hessian (HIP, arXiv
               2509.21624, without mass weighting there); nothing is differentiated through an eigensolver
    energy     |ΔE| per atom
    forces     mean |ΔF|

A mean over structures of these is not dominated by large molecules, whose Hessians have most of all entries.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hip_ext.blocks import HessianBlocks
from hip_ext.structures import Structures
from hip_ext.training.batches import EntryLabels, ProductLabels, SubspaceLabels


def entry_errors(blocks: HessianBlocks, labels: EntryLabels) -> Tensor:
    """Predicted minus labelled entries, eV/Å², [M]."""
    return blocks.flat().index_select(0, labels.place) - labels.value


def entry_loss(
    errors: Tensor,
    labels: EntryLabels,
    systems: int,
    *,
    power: int = 1,
    diagonal: float = 1.0,
    off_diagonal: float = 1.0,
) -> Tensor:
    """Mean of |ΔH|^power over the labelled entries of each structure, [B].

    Args:
        errors: ΔH of the labelled entries, eV/Å², [M].
        labels: whose they are.
        systems: B.
        power: 1 for the absolute error, 2 for its square.
        diagonal: factor of the entries in diagonal blocks.
        off_diagonal: factor of the others.
    """
    size = errors.abs() if power == 1 else errors.square()
    if diagonal != off_diagonal:
        size = torch.where(labels.diagonal, diagonal * size, off_diagonal * size)
    elif diagonal != 1.0:
        size = diagonal * size
    return size.new_zeros(systems).index_add(0, labels.structure, size * labels.share)


def product_loss(blocks: HessianBlocks, labels: ProductLabels, structures: Structures) -> Tensor:
    """Mean |ΔH·v| over the known components of each structure, [B]."""
    error = (blocks.matvec(labels.vectors) - labels.values).abs().sum(1)
    return _per_structure((error * labels.share).sum(1), structures)


def subspace_loss(blocks: HessianBlocks, labels: SubspaceLabels, structures: Structures) -> Tensor:
    """Mean |VᵀHV − Λ| over the K × K entries of each structure, eV/Å²/amu, [B]."""
    images = blocks.matvec(labels.modes)
    projected = _per_structure(torch.einsum("nxk,nxl->nkl", labels.modes, images), structures)
    return (projected - torch.diag_embed(labels.values)).abs().sum((1, 2)) * labels.share


def energy_loss(energy: Tensor, label: Tensor, known: Tensor, structures: Structures) -> Tensor:
    """|ΔE| per atom, eV, [B]."""
    return (energy - label).abs() / _sizes(structures) * known


def force_loss(forces: Tensor, label: Tensor, known: Tensor, structures: Structures) -> Tensor:
    """Mean |ΔF| over the components of each structure, eV/Å, [B]."""
    return _per_structure((forces - label).abs().mean(1), structures) / _sizes(structures) * known


def _per_structure(values: Tensor, structures: Structures) -> Tensor:
    """Sums over the atoms of each structure, [N, ...] to [B, ...]."""
    return values.new_zeros(structures.num_systems, *values.shape[1:]).index_add(0, structures.batch, values)


def _sizes(structures: Structures) -> Tensor:
    return structures.ptr[1:] - structures.ptr[:-1]
