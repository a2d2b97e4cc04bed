"""Inversion x → −x, for backbones that promise rotations only: exact O(3) from two evaluations.

Under inversion a scalar and a tensor of a molecule stay as they are, a vector turns round, and a block of the Hessian
stays, since ∂²E/∂x∂y has two factors −1. Features with parity "so3" obey this for the part

    s = (s(x) + s(−x)) / 2,    v = (v(x) − v(−x)) / 2,    T = (T(x) + T(−x)) / 2

and so does H = (H(x) + H(−x)) / 2, made of such features by any head. Together with rotations inversion gives all
reflections: a molecule and its mirror image get the same frequencies.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hip_ext.blocks import HessianBlocks
from hip_ext.errors import StructureError
from hip_ext.features import NodeFeatures
from hip_ext.pairs import PairGraph
from hip_ext.structures import Structures

if TYPE_CHECKING:
    from hip_ext.backbones.base import Backbone
    from hip_ext.head import HessianHead


def predicted_blocks(
    head: HessianHead, backbone: Backbone, features: NodeFeatures, structures: Structures
) -> HessianBlocks:
    """What a head makes of the features; where these have no parity, averaged over the structures and −x.

    Args:
        head: on the backbone's features.
        backbone: gives those of the inverted structures.
        features: of the structures.
        structures: the same atoms.
    """
    blocks = head(features, structures)
    if features.parity == "o3":
        return blocks
    other = inverted(structures)
    return mean_blocks(blocks, head(backbone.features(backbone.prepare(other)), other))


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
        of_inverted: of the same structures at −x; their pairs may come in another order.

    Raises:
        StructureError: the blocks belong to different pairs.
    """
    pair = (blocks.pair + _in_order_of(blocks.graph, of_inverted)) / 2
    return HessianBlocks(pair, (blocks.diagonal + of_inverted.diagonal) / 2, blocks.graph, blocks.ptr)


def _in_order_of(graph: PairGraph, blocks: HessianBlocks) -> Tensor:
    """The pair blocks in the order of another graph of the same pairs, [P, 3, 3].

    Whether an atom on the face of a cell counts as inside is a matter of rounding, and may be another one at −x; then
    the search meets the same pairs in another order.
    """
    wanted, found = _keys(graph), _keys(blocks.graph)
    if wanted.equal(found):
        return blocks.pair
    unique, place = torch.unique(torch.cat((wanted, found)), dim=0, return_inverse=True)
    here, there = place.split([len(wanted), len(found)])
    if not len(wanted) == len(found) == len(unique):
        raise StructureError("the blocks of the inverted structures belong to other pairs: average those of x and −x")
    row = torch.empty_like(there).index_copy_(0, there, torch.arange(len(there), device=there.device))
    return blocks.pair.index_select(0, row.index_select(0, here))


def _keys(graph: PairGraph) -> Tensor:
    """What a pair is known by, whatever its vector: both atoms and the shift, int64 [P, 5]."""
    return torch.cat((graph.first[:, None], graph.second[:, None], graph.shift), dim=1)
