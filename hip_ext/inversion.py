"""Inversion x → −x, for backbones that promise rotations only: exact O(3) from two evaluations.

Under inversion a scalar and a tensor of a molecule stay as they are, a vector turns round, and a block of the Hessian
stays, since ∂²E/∂x∂y has two factors −1. Features with parity "so3" obey this for the part

    s = (s(x) + s(−x)) / 2,    v = (v(x) − v(−x)) / 2,    T = (T(x) + T(−x)) / 2

and so does H = (H(x) + H(−x)) / 2, made of such features by any head. Together with rotations inversion gives all
reflections: a molecule and its mirror image get the same frequencies.
"""

from __future__ import annotations

from dataclasses import replace

from hip_ext.blocks import HessianBlocks
from hip_ext.features import NodeFeatures
from hip_ext.structures import Structures


def inverted(structures: Structures) -> Structures:
    """The structures at −x, their cells −A: atoms, lattice shifts and pairs keep their order."""
    return replace(structures, positions=-structures.positions, cell=-structures.cell)


def polar_part(features: NodeFeatures, of_inverted: NodeFeatures) -> NodeFeatures:
    """The part of the features that reflections act on as on scalars, polar vectors and even tensors.

    Args:
        features: of the structures.
        of_inverted: of the same structures at −x.

    Returns:
        Features of the same widths with parity "o3".
    """
    return NodeFeatures(
        (features.scalars + of_inverted.scalars) / 2,
        (features.vectors - of_inverted.vectors) / 2,
        (features.tensors + of_inverted.tensors) / 2,
        parity="o3",
    )


def mean_blocks(blocks: HessianBlocks, of_inverted: HessianBlocks) -> HessianBlocks:
    """The average of two predictions of one Hessian, on the graph of the first.

    Args:
        blocks: of the structures.
        of_inverted: of the same structures at −x, whose pairs come in the same order.

    Raises:
        ValueError: the blocks belong to different pairs.
    """
    graph, other = blocks.graph, of_inverted.graph
    same = [(graph.first, other.first), (graph.second, other.second), (graph.shift, other.shift)]
    if not all(a.equal(b) for a, b in same):
        raise ValueError("the blocks of the inverted structures belong to other pairs")
    pair, diagonal = (blocks.pair + of_inverted.pair) / 2, (blocks.diagonal + of_inverted.diagonal) / 2
    return HessianBlocks(pair, diagonal, graph, blocks.ptr)
