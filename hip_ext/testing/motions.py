"""Rotations and reflections x → Q x, of structures and of features."""

from __future__ import annotations

import torch
from ase import Atoms
from torch import Tensor

from hip_ext.features import NodeFeatures


def random_orthogonal(seed: int, determinant: int) -> Tensor:
    """A random element of O(3), [3, 3] in float64, with determinant 1 or −1."""
    generator = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    q = q * torch.sign(torch.diagonal(r))
    return q * (determinant * torch.sign(torch.linalg.det(q)))


def turned(features: NodeFeatures, q: Tensor) -> NodeFeatures:
    """The features as they must be after x → Q x, with Q in O(3): s, Q v and Q T Qᵀ."""
    vectors = torch.einsum("xy,ncy->ncx", q, features.vectors)
    tensors = torch.einsum("xa,ncab,yb->ncxy", q, features.tensors, q)
    return NodeFeatures(features.scalars, vectors, tensors, features.parity)


def turned_atoms(atoms: Atoms, q: Tensor) -> Atoms:
    """The structure and its lattice after x → Q x."""
    moved = atoms.copy()
    moved.positions = atoms.positions @ q.numpy().T
    moved.cell = atoms.cell.array @ q.numpy().T
    return moved
