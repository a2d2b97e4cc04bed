"""The Hessian head as a head of fairchem: `module: hip_ext.plugins.fairchem.head.DirectHessianHead` in its YAML.

Its short name in fairchem's registry is "hip_direct_hessian", known once this module has been imported.
"""

from __future__ import annotations

from typing import Any

import torch
from fairchem.core.common.registry import registry
from fairchem.core.models.base import HeadInterface
from fairchem.core.models.uma.escn_moe import eSCNMDMoeBackbone
from fairchem.core.units.mlip_unit.api.inference import MergeMoleConsistencyError
from torch import Tensor, nn

from hip_ext.backbones.fairchem_inputs import check_not_empty
from hip_ext.blocks import HessianBlocks
from hip_ext.checkpoint import new_head
from hip_ext.errors import BackboneError, ConfigError
from hip_ext.features import NodeFeatures, Widths
from hip_ext.head import HeadConfig
from hip_ext.inversion import polar_part
from hip_ext.plugins.fairchem.embedding import features_of, inverted, structures_of, unnoticed
from hip_ext.plugins.fairchem.layout import DIRECT, ERROR, HESSIAN, LABELS, padded


@registry.register_model("hip_direct_hessian")
class DirectHessianHead(nn.Module, HeadInterface):
    """Predicts Hessians from the node embeddings of an eSCN-MD, eSEN or UMA backbone.

    Args:
        backbone: gives `node_embedding` with l up to 2 or more, or `node_features` as a backbone of hip_ext does.
        tasks: names of the tasks that it answers, such as ["omol_direct_hessian"]; None in a model without
            `pass_through_head_outputs`, which names what a head gives after the head.
        config: hyper-parameters of the `HessianHead`, as a dictionary.

    Attributes:
        head: the `hip_ext.HessianHead`, the only part with weights.

    Raises:
        BackboneError: the backbone gives no equivariant features up to l = 2.
        ConfigError: a hyper-parameter is unknown or out of range, or a task's name could be taken for fairchem's own.
    """

    def __init__(self, backbone: Any, tasks: list[str] | None = None, config: dict[str, Any] | None = None) -> None:
        super().__init__()
        if not isinstance(getattr(backbone, "sphere_channels", None), int) or getattr(backbone, "lmax", 0) < 2:
            raise BackboneError(
                f"{type(backbone).__name__} gives no equivariant features up to l = 2: the Hessian head needs an "
                f"eSCN-MD, eSEN or UMA backbone with lmax of at least 2, found {getattr(backbone, 'lmax', 'none')}"
            )
        for name in tasks or ():
            check_task_name(name)
        self.tasks = None if tasks is None else list(tasks)
        widths: Widths = getattr(backbone, "widths", (backbone.sphere_channels,) * 3)
        self.head = new_head(widths, HeadConfig.from_dict(dict(config or {})))
        # In a list, so that neither state_dict nor parameters() sees the backbone a second time, while deepcopy and
        # pickle, which know what they have copied already, still give a copied head the copied backbone.
        self._owner: list[Any] = [backbone]

    @property
    def backbone(self) -> Any:
        """The backbone that the head belongs to now, also after the model has exchanged it (`merge_mole`)."""
        owner = self._owner[0]
        return owner.backbone if hasattr(owner, "output_heads") else owner

    def follow(self, model: nn.Module) -> None:
        """Takes the backbone of a model from now on, whichever it has at the time."""
        self._owner = [model]

    def prepare_for_inference(self, data: Any, settings: Any) -> DirectHessianHead:
        """Called by fairchem once, after the backbone has prepared itself.

        Raises:
            MergeMoleConsistencyError: the backbone was merged and this head cannot know where the new one is; fairchem
                then goes on with the model as it was before merging.
        """
        if settings.merge_mole and isinstance(self._owner[0], eSCNMDMoeBackbone):
            raise MergeMoleConsistencyError(
                "a Hessian head follows merged experts only in a model with "
                "_target_: hip_ext.plugins.fairchem.model.HessianHydraModel"
            )
        return self

    @torch.compiler.disable
    def forward(self, data: Any, emb: dict[str, Tensor]) -> dict[str, Any]:
        """Hessians of a batch.

        Args:
            data: `AtomicData`, with labels (`layout.LABELS`) where the error is wanted as well.
            emb: with `node_embedding` [N, (l_max + 1)², C].

        Returns:
            For each task (or bare, without tasks) a dictionary: the padded matrices [B, 3n_max, 3n_max] in eV/Å² as
            `hessian` and, the same tensor, as `direct_hessian`; with labels the mean absolute error of each structure
            [B] in eV/Å², 0 for those without one.
        """
        matrices = self.blocks(data, emb).dense_list()
        hessian = padded(matrices)
        out = {HESSIAN: hessian, DIRECT: hessian}
        if LABELS in data:
            errors = zip(matrices, data[LABELS], strict=True)
            # Zero times the matrix: every weight takes part in every step, which data-parallel training relies on.
            out[ERROR] = torch.stack([(h - y).abs().mean() if y is not None else 0 * h.sum() for h, y in errors])
        return out if self.tasks is None else dict.fromkeys(self.tasks, out)

    def blocks(self, data: Any, emb: dict[str, Tensor]) -> HessianBlocks:
        """The Hessian of a batch as blocks; with a graph only in training.

        Raises:
            StructureError: the batch is empty.
        """
        check_not_empty(len(data["natoms"]), len(data["pos"]))
        owner = self._owner[0]
        if not hasattr(owner, "output_heads") and owner.regress_config.hessian:
            raise BackboneError(
                "the autograd Hessian and the direct one have one name in a plain HydraModel: load the checkpoint with "
                "_target_: hip_ext.plugins.fairchem.model.HessianHydraModel in its model config"
            )
        with torch.set_grad_enabled(self.training and torch.is_grad_enabled()):
            features = self.features(data, emb)
            return self.head(features, structures_of(data, features.scalars.dtype))

    def features(self, data: Any, emb: dict[str, Any]) -> NodeFeatures:
        """O(3) features: from the batch's embedding and one more pass over the inverted batch, if parity is missing."""
        backbone = self.backbone
        learns = torch.is_grad_enabled() and any(p.requires_grad for p in backbone.parameters())
        dtype = next(self.head.parameters()).dtype
        plain = _node_features(emb, dtype)
        if plain.scalars.shape[0] != data["pos"].shape[0]:
            raise BackboneError("the Hessian head needs all atoms on one device: switch graph parallelism off")
        plain = plain if learns else plain.detach()
        if plain.parity == "o3":
            return plain
        with torch.set_grad_enabled(learns), unnoticed(backbone, plain.scalars.device):
            of_inverted = _node_features(backbone(inverted(data)), dtype)
        return polar_part(plain, of_inverted)


def check_task_name(name: str) -> None:
    """Raises ConfigError for a task name that fairchem could take for its own autograd Hessian's."""
    if not name.endswith(DIRECT):
        raise ConfigError(f"the task of a direct Hessian is named '…{DIRECT}', such as 'omol_{DIRECT}', found {name!r}")


def _node_features(emb: dict[str, Any], dtype: torch.dtype) -> NodeFeatures:
    return emb["node_features"].to(dtype) if "node_features" in emb else features_of(emb["node_embedding"], dtype)
