"""A MACE model with a Hessian head, as MACE's trainer wants it: one module from a batch to a dictionary of results.

The energy model is held, not subclassed, so that it can be taken out again exactly as it is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hip_ext.backbones.borrowed import outputs_of
from hip_ext.backbones.mace import MACEBackbone
from hip_ext.features import NodeFeatures
from hip_ext.head import HessianHead
from hip_ext.structures import Structures

DIRECT_HESSIAN = "direct_hessian"
"""Name of the head's result, [Σ (3n)²], eV/Å²; MACE's own "hessian" is the one by differentiation."""


class JointMACE(nn.Module):
    """Energy model and head, both trained: the loss of the Hessian reaches the energy model through its features.

    Args:
        backbone: around the energy model.
        head: made for its features.
    """

    def __init__(self, backbone: MACEBackbone, head: HessianHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    @property
    def energy_model(self) -> Any:
        """MACE's own module."""
        return self.backbone.model

    def forward(self, data: dict[str, Tensor], training: bool = False, **wanted: bool) -> dict[str, Tensor | None]:
        """MACE's results for a batch, and the direct Hessian.

        Args:
            data: MACE's batch as a dictionary.
            training: whether the results will be differentiated.
            wanted: what MACE shall compute: `compute_force` and the like.
        """
        structures = structures_of(self.energy_model, data)
        with outputs_of(self.energy_model.interactions) as outputs:
            results: dict[str, Tensor | None] = self.energy_model(data, training=training, **wanted)
        features = self.backbone.collected(outputs)
        return results | {DIRECT_HESSIAN: self.hessian(features if training else features.detach(), structures)}

    def hessian(self, features: NodeFeatures, structures: Structures) -> Tensor:
        """The direct Hessians of a batch row by row, [Σ (3n)²], eV/Å²."""
        return self.head(features, structures).flat()


class FrozenMACE(JointMACE):
    """Energy model and head, of which the head alone is trained: energies and forces are known and not computed."""

    def forward(self, data: dict[str, Tensor], training: bool = False, **wanted: bool) -> dict[str, Tensor | None]:
        """The direct Hessian of a batch, and nothing else; arguments as in `JointMACE.forward`."""
        structures = structures_of(self.energy_model, data)
        with torch.no_grad():
            features = self.backbone.features(data)
        return {DIRECT_HESSIAN: self.hessian(features.detach(), structures)}


def structures_of(model: Any, data: dict[str, Tensor]) -> Structures:
    """The structures of one of MACE's batches, positions cut from every graph."""
    pbc = data["pbc"].reshape(-1, 3)
    return Structures(
        numbers=model.atomic_numbers[data["node_attrs"].argmax(dim=1)],
        positions=data["positions"].detach(),
        # MACE puts a box around what is not periodic.
        cell=torch.where(pbc[:, :, None], data["cell"].detach().reshape(-1, 3, 3), 0.0),
        pbc=pbc,
        charge=data["total_charge"].reshape(-1),
        unpaired=data["total_spin"].reshape(-1) - 1,
        ptr=data["ptr"],
        batch=data["batch"],
    )
