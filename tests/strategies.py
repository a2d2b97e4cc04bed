"""Random structures, node features and heads for the property tests, all in float64.

Hypothesis draws seeds and sizes; numbers come from a generator with that seed, so that a failure names its seed.
"""

from __future__ import annotations

import numpy as np
import torch
from ase import Atoms
from ase.neighborlist import neighbor_list
from hypothesis import strategies as st
from torch import Tensor

from hip_ext.features import NodeFeatures, Widths
from hip_ext.head import HeadConfig, HessianHead
from hip_ext.structures import Structures

WIDTHS: Widths = (5, 3, 2)
SMALL = {"scalars": 6, "channels": 3, "hidden": 7, "pair_channels": 2, "coordinates": 3}

seeds = st.integers(0, 2**31 - 1)
periodicities = st.sampled_from([(1, 1, 1), (1, 1, 0), (0, 1, 1), (1, 0, 1), (0, 0, 1), (1, 0, 0), (0, 1, 0)])


def random_molecule(atoms: int, seed: int, gap: float = 0.9) -> Atoms:
    """Atoms of H, C, N, O in a ball in which no two are nearer than `gap` Å."""
    random = np.random.default_rng(seed)
    positions: list[np.ndarray] = []
    radius = 0.8 + 0.8 * atoms ** (1 / 3)
    while len(positions) < atoms:
        trial = random.uniform(-radius, radius, 3)
        if all(np.linalg.norm(trial - p) > gap for p in positions):
            positions.append(trial)
    return Atoms(random.choice([1, 6, 7, 8], atoms), np.array(positions))


def random_crystal(atoms: int, seed: int, pbc: tuple[int, ...] = (1, 1, 1), gap: float = 0.9) -> Atoms:
    """Atoms in a skewed, left- or right-handed cell 2 to 5 Å wide; many lie outside it, and see their own images."""
    random = np.random.default_rng(seed)
    while True:
        rows = np.diag(random.uniform(2.0, 5.0, 3)) + np.tril(random.uniform(-2.0, 2.0, (3, 3)), -1)
        rows = (rows * random.choice([-1, 1], 3)[:, None])[random.permutation(3)]
        rows = rows @ np.linalg.qr(random.normal(size=(3, 3)))[0]
        found = Atoms(random.choice([1, 6, 7, 8], atoms), random.normal(size=(atoms, 3)) * 6, cell=rows, pbc=pbc)
        if not len(neighbor_list("i", found, gap)):
            return found


@st.composite
def crystals(draw: st.DrawFn) -> Atoms:
    """Crystals, slabs and wires of one to four atoms."""
    return random_crystal(draw(st.integers(1, 4)), draw(seeds), draw(periodicities))


def random_features(atoms: int, seed: int, widths: Widths = WIDTHS) -> NodeFeatures:
    """Normally distributed features: scalars, vectors, and symmetric traceless tensors."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    tensors = normal(atoms, widths[2], 3, 3)
    tensors = (tensors + tensors.transpose(-1, -2)) / 2
    trace = tensors.diagonal(dim1=-2, dim2=-1).sum(-1)
    tensors = tensors - trace[..., None, None] * torch.eye(3, dtype=torch.float64) / 3
    return NodeFeatures(normal(atoms, widths[0]), normal(atoms, widths[1], 3), tensors)


def chosen(features: NodeFeatures, rows: list[int] | Tensor) -> NodeFeatures:
    """The features of some atoms, in the order given."""
    return NodeFeatures(features.scalars[rows], features.vectors[rows], features.tensors[rows], features.parity)


def joined(*parts: NodeFeatures) -> NodeFeatures:
    """The features of several structures, one after the other."""
    return NodeFeatures(*(torch.cat([getattr(p, name) for p in parts]) for name in ("scalars", "vectors", "tensors")))


def random_head(widths: Widths = WIDTHS, seed: int = 0, **changes: object) -> HessianHead:
    """A small head in float64 all of whose parameters, biases included, are random."""
    config = HeadConfig.from_dict({**SMALL, "cutoff": 3.0, **changes})
    head = HessianHead(widths, config).double().eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for parameter in head.parameters():
        fan_in = parameter.shape[-1] if parameter.dim() > 1 else 4
        parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.6 / fan_in**0.5)
    return head


def two_body_only(head: HessianHead) -> HessianHead:
    """The same head with all latent curvatures zero."""
    for parameter in head.curvature.parameters():
        parameter.zero_()
    return head


def three_body_only(head: HessianHead) -> HessianHead:
    """The same head with all coefficients of the pair blocks zero."""
    for parameter in head.blocks.parameters():
        parameter.zero_()
    return head


def matrices(head: HessianHead, features: NodeFeatures, atoms: Atoms | list[Atoms]) -> list[Tensor]:
    """The predicted matrix of every structure, each [3n, 3n]."""
    return head(features, Structures.from_ase(atoms)).dense_list()


def matrix(head: HessianHead, features: NodeFeatures, atoms: Atoms) -> Tensor:
    """The predicted matrix of one structure, [3N, 3N]."""
    return matrices(head, features, atoms)[0]


def block_size(head: HessianHead, features: NodeFeatures, atoms: Atoms) -> float:
    """The largest component of any block, before blocks of images are summed, which may cancel them."""
    blocks = head(features, Structures.from_ase(atoms))
    return float(torch.cat((blocks.pair, blocks.diagonal)).abs().max())


def assert_close(found: Tensor, expected: Tensor, relative: float = 1e-10, scale: float | None = None) -> None:
    """Compares with a tolerance relative to the largest expected component, or to a scale of its own."""
    assert found.shape == expected.shape
    size = float(expected.abs().max()) if scale is None else scale
    error = float((found - expected).abs().max()) if found.numel() else 0.0
    assert error <= relative * size, f"differs by {error:.2e}, of {size:.2e}"
