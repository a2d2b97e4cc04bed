"""The heads that are compared: ours as it ships, ours with one thing changed, and the HIP-style readout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import yaml
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from hip_ext.blocks import HessianBlocks
from hip_ext.features import NodeFeatures, Widths
from hip_ext.head import HeadConfig, HessianHead
from hip_ext.messages import NodeState
from hip_ext.structures import Structures
from hip_ext.sum_rules import with_acoustic_diagonal

from .head import HipStyleConfig, HipStyleHead

RECIPE = Path(__file__).resolve().parents[2] / "configs/so3lr-organic/recipe.yaml"


def shipped_config() -> HeadConfig:
    """The head of the checkpoint that ships."""
    return HeadConfig.from_dict(yaml.safe_load(RECIPE.read_text(encoding="utf-8"))["head"])


class SymmetricBlocks(HessianHead):
    """Ours with H_ij = H_ijᵀ: the antisymmetric part of every block is dropped."""

    def forward(self, features: NodeFeatures, structures: Structures) -> HessianBlocks:
        """As ours."""
        blocks = super().forward(features, structures)
        return with_acoustic_diagonal((blocks.pair + blocks.pair.transpose(1, 2)) / 2, blocks.graph, blocks.ptr)


class FreeDiagonal(HessianHead):
    """Ours with a diagonal of its own, a·1 + Σ_c (c T + d v vᵀ + e T T) of each atom, and no sum rule."""

    diagonal_scale: Tensor

    def __init__(self, widths: Widths, config: HeadConfig) -> None:
        super().__init__(widths, config)
        self.register_buffer("diagonal_scale", torch.tensor(1.0))
        self.diagonal = nn.Linear(config.scalars, 1 + 3 * config.channels)
        self.messages[-1].register_forward_hook(lambda module, inputs, state: self.__dict__.update(state=state))

    def fit_scale(self, distance: Tensor, pair_norm: Tensor, diagonal_norm: Tensor) -> None:
        """Sets the usual sizes of blocks."""
        self.block_scale.fit(distance, pair_norm)
        self.diagonal_scale.copy_(diagonal_norm.pow(2).mean().sqrt() / 3)

    def forward(self, features: NodeFeatures, structures: Structures) -> HessianBlocks:
        """As ours."""
        with patch("hip_ext.head.without_remainder", lambda pair, *rest: pair):
            blocks = super().forward(features, structures)
        state: NodeState = self.__dict__.pop("state")
        v, t = state.vectors, state.tensors
        a, c, d, e = self.diagonal(self.norm(state.scalars)).split([1] + [self.config.channels] * 3, dim=1)
        matrix = torch.einsum("nc,xync->nxy", c, t) + torch.einsum("nc,xnc,ync->nxy", d, v, v)
        matrix = matrix + torch.einsum("nc,xznc,zync->nxy", e, t, t) + a[:, :, None] * torch.eye(3).to(a)
        matrix = self.diagonal_scale * (matrix + matrix.transpose(1, 2)) / 2
        return HessianBlocks(blocks.pair, matrix, blocks.graph, blocks.ptr)


class UnitScale(HessianHead):
    """Ours with blocks predicted in eV/Å², not in units of the usual size at their distance."""

    def fit_scale(self, distance: Tensor, pair_norm: Tensor, diagonal_norm: Tensor) -> None:
        """Takes the usual size for 1 eV/Å²."""
        self.block_scale.log_scale.zero_()


class Masked(nn.Module):
    """A weight of which some entries are held at zero."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight without these entries."""
        return weight * self.mask


def without_both_atom_products(widths: Widths) -> HessianHead:
    """Ours without v_i v_jᵀ, T_i T_j and the invariants v_i·v_j, T_i:T_j."""
    head = HessianHead(widths, shipped_config())
    reduced = head.config.pair_channels
    layer, mask = head.blocks.coefficients, torch.ones(head.blocks.coefficients.out_features)
    mask[-2 * reduced :] = 0
    register_parametrization(layer, "weight", Masked(mask[:, None]))
    register_parametrization(layer, "bias", Masked(mask))
    shared = torch.ones(6 * reduced)
    shared[-2 * reduced :] = 0
    register_parametrization(head.encode.from_invariants, "weight", Masked(shared))
    return head


def without_three_body(widths: Widths) -> HessianHead:
    """Ours with the curvatures λ of the latent coordinates held at zero."""
    head = HessianHead(widths, shipped_config())
    nn.init.zeros_(head.curvature.weight)
    nn.init.zeros_(head.curvature.bias)
    head.curvature.requires_grad_(False)
    return head


def changed(**values: Any) -> Callable[[Widths], HessianHead]:
    """Ours with other hyper-parameters, unchecked: some are out of the range that a user may choose."""
    return lambda widths: HessianHead(widths, shipped_config().model_copy(update=values))


OURS, HIP_STYLE, HIP_STYLE_SCALED = "ours", "HIP-style", "HIP-style, our scale of distance"

HEADS: dict[str, Callable[[Widths], nn.Module]] = {
    OURS: changed(),
    HIP_STYLE: lambda widths: HipStyleHead(widths),
    HIP_STYLE_SCALED: lambda widths: HipStyleHead(widths, HipStyleConfig(scale="distance")),
}

ABLATIONS: dict[str, Callable[[Widths], nn.Module]] = {
    OURS: changed(),
    "no antisymmetric part": lambda widths: SymmetricBlocks(widths, shipped_config()),
    "no translation rule, a diagonal of its own": lambda widths: FreeDiagonal(widths, shipped_config()),
    "no three-body part": without_three_body,
    "no products of both atoms": without_both_atom_products,
    "no messages": changed(layers=0),
    "blocks in eV/Å², no scale of distance": lambda widths: UnitScale(widths, shipped_config()),
    "radial spacing 0.5 Å instead of 0.16 Å": changed(spacing=0.5),
    "two rounds of messages": changed(layers=2),
    HIP_STYLE: HEADS[HIP_STYLE],
}
