"""Any backbone of hip_ext as a backbone of fairchem: a trained MACE or SO3LR under fairchem's heads.

    backbone: {model: hip_ext.plugins.fairchem.borrowed_backbone.HipExtBackbone, kind: mace, source: my.model}

Its short name in fairchem's registry is "hip_ext_backbone", known once this module has been imported.

A checkpoint of fairchem holds all weights, those of the borrowed model among them, but no architecture that is not in
its config. So the model is built anew from `source` whenever a checkpoint is loaded, then takes the weights of the
checkpoint. That also holds the fingerprint of the source, and another source is refused, as it could have the same
shapes and compute something else. Where the file has moved:
`load_predict_unit(…, overrides={"backbone": {"source": "new/place.model"}})`.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from ase import Atoms
from fairchem.core.common import gp_utils
from fairchem.core.common.registry import registry
from fairchem.core.models.base import BackboneInterface
from torch import Tensor, nn

from hip_ext.backbones import Backbone, load_backbone
from hip_ext.backbones.fairchem_models import import_fairchem
from hip_ext.backbones.fingerprint import fingerprint
from hip_ext.errors import BackboneError
from hip_ext.features import NodeFeatures
from hip_ext.plugins.fairchem.embedding import structures_of
from hip_ext.structures import Structures, total_charge, unpaired_electrons


class Potential(NamedTuple):
    """The borrowed model and the batch that it was called for, so that a head can ask for the model's own energy."""

    adapter: Backbone
    structures: Structures


@registry.register_model("hip_ext_backbone")
class HipExtBackbone(nn.Module, BackboneInterface):
    """A backbone of hip_ext with what fairchem asks of its own.

    Frozen, it serves any head. To train its weights too, train its own energy and forces among the tasks: behind the
    features lie weights that no other head reaches, and fairchem's data-parallel training wants a gradient of each.

    Args:
        kind: registry name of the adapter, such as "mace" or "so3lr".
        source: which model of that kind: a file or a released name; None for the default of the adapter. A `.model`
            file is a pickle, which runs code when it is read: naming one means trusting it.
        options: further options of the adapter, such as `{head: omol}` of a multi-head MACE.
        regress_forces: whether a head takes forces as gradients of an energy that it makes of the features
            (fairchem's MLP_EFS_Head). The model's own forces (`own_energy.OwnEnergyHead`) and direct heads need none.
        hidden_channels: width that fairchem's own heads take for their hidden layers.

    Attributes:
        adapter: the backbone of hip_ext, built in torch's default dtype like every module of fairchem.
        widths: channels per degree that are not padding, (C0, C1, C2).
        parity: what the features promise under reflections: with "o3" no inverted copy is needed.
        sphere_channels: C of `node_embedding`, the largest of the widths.

    Raises:
        BackboneError: there is no such backbone, option or model.
        MissingDependencyError: its framework is not installed.
    """

    lmax = 2
    fingerprint: Tensor

    def __init__(
        self,
        kind: str,
        source: str | None = None,
        options: dict[str, Any] | None = None,
        regress_forces: bool = False,
        hidden_channels: int = 128,
    ) -> None:
        super().__init__()
        self.adapter = _load(kind, source, dict(options or {}))
        self.widths, self.parity = self.adapter.widths, self.adapter.parity
        self.sphere_channels, self.hidden_channels = max(self.widths), hidden_channels
        config = import_fairchem("fairchem.core.models.uma.escn_md").GradRegressConfig
        self.regress_config = config(forces=regress_forces)
        self.register_buffer("fingerprint", torch.tensor(list(bytes.fromhex(self.adapter.source.fingerprint))).byte())
        self.register_load_state_dict_post_hook(_recognise)

    @torch.compiler.disable
    def forward(self, data: Any) -> dict[str, Any]:
        """Features of a batch.

        Args:
            data: `AtomicData`.

        Returns:
            `node_embedding` [N, 9, C] as eSCN-MD gives it: l = 0, 1, 2 one after the other, l = 1 as x, y, z and l = 2
            in e3nn's order, degrees with fewer channels filled up with zeros; `batch` [N]; `node_features`, the same
            as `NodeFeatures` without the zeros and with their parity; and `potential`, for the model's own energy.

        Raises:
            BackboneError: the model does not know an element, or runs in parallel over the graph.
        """
        if gp_utils.initialized():
            raise BackboneError(f"the {self.adapter.kind} backbone runs on one device: switch graph parallelism off")
        structures = structures_of(data, self.adapter.dtype)
        inputs = self.adapter.prepare(structures)
        differentiable = self.regress_config.forces
        if differentiable:
            data["pos"].requires_grad_(True)
            inputs["positions"] = data["pos"].to(self.adapter.dtype)
        # Frameworks ask for gradients with respect to positions in passing; where nothing reads them no graph is built.
        graph = differentiable or (torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters()))
        with torch.set_grad_enabled(graph):
            features = self.adapter.features(inputs)
        return {
            "node_embedding": embedding_of(features),
            "node_features": features,
            "batch": data["batch"],
            "potential": Potential(self.adapter, structures),
        }

    @classmethod
    def build_inference_settings(cls, settings: Any) -> dict[str, Any]:
        """No changes of the config. The settings, a copy of the user's, lose what a borrowed model cannot do."""
        if settings.compile or settings.merge_mole:
            logging.info("a borrowed backbone is neither compiled nor merged")
            settings.compile = settings.merge_mole = False
        return {}

    def get_default_untrained_tasks(self, checkpoint_tasks: dict[str, Any], inference_settings: Any) -> list[Any]:
        """None beyond those that are asked for."""
        return []

    def validate_tasks(self, dataset_to_tasks: dict[str, list[Any]]) -> None:
        """A borrowed model has no embedding of data sets: tasks can have any."""

    def prepare_for_inference(self, data: Any, settings: Any) -> HipExtBackbone:
        """Nothing to prepare."""
        return self

    def on_predict_check(self, data: Any) -> None:
        """Nothing is fixed by an earlier prediction."""

    def validate_atoms_data(self, atoms: Atoms, task_name: str) -> None:
        """Puts charge and multiplicity where fairchem reads them, from wherever `Structures.from_ase` finds them.

        Raises:
            StructureError: no electron count allows them, or the structure cannot be used.
        """
        Structures.from_ase(atoms)
        atoms.info |= {"charge": int(total_charge(atoms)), "spin": int(unpaired_electrons(atoms)) + 1}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        stored = state_dict.get(f"{prefix}fingerprint")
        if stored is not None and not torch.equal(stored.cpu(), self.fingerprint.cpu()):
            raise BackboneError(
                f"the checkpoint was made with {self.adapter.kind} weights of fingerprint {_readable(stored)}, found "
                f"{_readable(self.fingerprint)} at {self.adapter.source.name!r}: give the source that it was made with"
            )
        super()._load_from_state_dict(state_dict, prefix, *args)


def embedding_of(features: NodeFeatures) -> Tensor:
    """The features in fairchem's layout, [N, 9, C] with C the largest of their widths.

    Degrees with fewer channels end in zeros. Unlike a learned mixture, this has no weights and loses nothing: a head
    that cuts the zeros off has the very features that the same head has outside fairchem, and can be moved there.
    """
    t = features.tensors
    components = torch.stack(
        (
            math.sqrt(2.0) * t[..., 0, 2],
            math.sqrt(2.0) * t[..., 0, 1],
            math.sqrt(1.5) * t[..., 1, 1],
            math.sqrt(2.0) * t[..., 1, 2],
            (t[..., 2, 2] - t[..., 0, 0]) / math.sqrt(2.0),
        ),
        dim=1,
    )
    channels = max(features.widths)
    degrees = (features.scalars.unsqueeze(1), features.vectors.transpose(1, 2), components)
    return torch.cat([nn.functional.pad(x, (0, channels - x.shape[-1])) for x in degrees], dim=1)


def _load(kind: str, source: str | None, options: dict[str, Any]) -> Backbone:
    try:
        return load_backbone(kind, source, dtype=torch.get_default_dtype(), **options)
    except BackboneError as error:
        if source is None or Path(source).is_file() or not Path(source).suffix:
            raise
        moved = 'load_predict_unit(..., overrides={"backbone": {"source": "..."}})'
        raise BackboneError(f"{error}; for a checkpoint whose source has moved: {moved}") from None


def _recognise(backbone: HipExtBackbone, _: Any) -> None:
    """After weights have been loaded: trained ones are not those of the source any more, and must not pass for them."""
    found = fingerprint(backbone.adapter.model)
    if found != backbone.adapter.source.fingerprint:
        backbone.adapter.source = dataclasses.replace(backbone.adapter.source, name="in-memory", fingerprint=found)


def _readable(fingerprint: Tensor) -> str:
    return bytes(fingerprint.tolist()).hex()[:12]
