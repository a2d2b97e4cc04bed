"""What a model says about a batch, and how far that is from the labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from hip_ext.backbones.base import Backbone
from hip_ext.blocks import HessianBlocks
from hip_ext.features import NodeFeatures
from hip_ext.head import HessianHead
from hip_ext.inversion import predicted_blocks
from hip_ext.structures import Structures
from hip_ext.training.batches import Batch
from hip_ext.training.losses import energy_loss, entry_errors, entry_loss, force_loss, product_loss, subspace_loss
from hip_ext.training.settings import LossSettings

CachedFeatures = Callable[[Sequence[int], Structures], NodeFeatures]
"""Features of records by number, and of the same records as structures."""


class Objective(nn.Module):
    """Energy, forces and Hessian of a batch, and their losses.

    Args:
        backbone: frozen, or with parameters that want gradients.
        head: on its features.
        loss: weights.
        coverage: share of records that have each label. A label that one record in ten has counts ten times where it
            is there, so that the mean over steps is the mean over records that have it.
        references: energies per element, eV, [119], taken off the labels.
        trained: whether the backbone is trained; if not, its features come from a cache.
    """

    references: Tensor

    def __init__(
        self,
        backbone: Backbone,
        head: HessianHead,
        loss: LossSettings,
        coverage: dict[str, float],
        references: Tensor,
        trained: bool,
    ) -> None:
        super().__init__()
        self.head, self.loss, self.coverage, self.trained = head, loss, coverage, trained
        self.register_buffer("references", references)
        # A frozen backbone is kept out of the module: nobody shall look for gradients in it, or broadcast its buffers.
        self.model = backbone.model if trained else None
        self._backbone = [backbone]

    @property
    def backbone(self) -> Backbone:
        """The backbone."""
        return self._backbone[0]

    def forward(self, batch: Batch, features: CachedFeatures | None) -> dict[str, Tensor]:
        """Losses of every structure, each [B], 0 where it has no such label; see `hip_ext.training.losses`.

        Args:
            batch: structures and labels.
            features: of the frozen backbone; None where it is trained.
        """
        structures, weights = batch.structures, self.loss
        found: dict[str, Tensor] = {}
        if self.trained:
            energy, forces, node_features = self._evaluated(structures)
            if weights.energy:
                known = batch.known["energy"]
                label = batch.energy - self._references_of(structures)
                found["energy"] = energy_loss(energy, label, known, structures)
            if forces is not None:
                found["forces"] = force_loss(forces, batch.forces, batch.known["forces"], structures)
        else:
            assert features is not None
            node_features = features(batch.indices, structures)
        if weights.hessian.any:
            found |= self.hessian_losses(predicted_blocks(self.head, self.backbone, node_features, structures), batch)
        return found

    def hessian_losses(self, blocks: HessianBlocks, batch: Batch) -> dict[str, Tensor]:
        """Losses of predicted blocks, each [B]; "mae" is the plain one, whatever the weights."""
        structures, weights = batch.structures, self.loss.hessian
        systems = structures.num_systems
        found = {"mae": 0.0 * blocks.diagonal.sum().expand(systems)}
        if batch.entries is not None:
            errors = entry_errors(blocks, batch.entries)
            weighted = partial(
                entry_loss, errors, batch.entries, systems, diagonal=weights.diagonal, off_diagonal=weights.off_diagonal
            )
            found["mae"] = entry_loss(errors, batch.entries, systems)
            if weights.mae:
                found["weighted_mae"] = weighted(power=1)
            if weights.mse:
                found["mse"] = weighted(power=2)
        if weights.products and batch.products is not None:
            found["products"] = product_loss(blocks, batch.products, structures)
        if weights.twists and batch.twists is not None:
            found["twists"] = product_loss(blocks, batch.twists, structures)
        if weights.subspace and batch.subspace is not None:
            found["subspace"] = subspace_loss(blocks, batch.subspace, structures)
        return found

    def total(self, found: dict[str, Tensor], batch_size: int) -> Tensor:
        """The weighted sum of all losses over the structures of a pass, divided by those of a step."""
        hessian = self.loss.hessian
        weights = {
            "energy": (self.loss.energy, "energy"),
            "forces": (self.loss.forces, "forces"),
            "weighted_mae": (hessian.mae, "hessian"),
            "mse": (hessian.mse, "hessian"),
            "products": (hessian.products, "products"),
            "twists": (hessian.twists, "hessian"),
            "subspace": (hessian.subspace, "complete"),
        }
        parts = [
            found[name].sum() * (weight / (batch_size * max(self.coverage[label], 1e-3)))
            for name, (weight, label) in weights.items()
            if name in found
        ]
        if "mae" in found:
            # Without any weight, so that every parameter of the head has a gradient, if only zero, in every process.
            parts.append(0.0 * found["mae"].sum())
        return torch.stack(parts).sum()

    def _evaluated(self, structures: Structures) -> tuple[Tensor, Tensor | None, NodeFeatures]:
        """Energy, forces where they are trained, and features, from one pass that can be differentiated."""
        wanted = torch.is_grad_enabled()
        with torch.enable_grad():
            inputs = self.backbone.prepare(structures)
            positions = inputs["positions"].requires_grad_(bool(self.loss.forces))
            energy, features = self.backbone.energy_and_features(inputs)
            if not self.loss.forces:
                return energy, None, features
            (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=wanted)
        return energy, -gradient, features

    def _references_of(self, structures: Structures) -> Tensor:
        of_atom = self.references[structures.numbers]
        return of_atom.new_zeros(structures.num_systems).index_add(0, structures.batch, of_atom)
