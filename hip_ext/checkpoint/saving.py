"""From a model to a checkpoint: what is known about it, and which tensors go with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import torch
from packaging.requirements import Requirement
from torch import Tensor

from hip_ext.backbones.base import Backbone
from hip_ext.backbones.fingerprint import fingerprint
from hip_ext.backbones.frameworks import installed_version
from hip_ext.card import model_card
from hip_ext.checkpoint.schema import BackboneRecord, CheckpointConfig, FeatureRecord, TunedRecord
from hip_ext.checkpoint.tuning import tensors_of
from hip_ext.checkpoint.upgrades import name_means
from hip_ext.checkpoint.writing import target, write_checkpoint
from hip_ext.errors import CheckpointError
from hip_ext.version import version

if TYPE_CHECKING:
    from hip_ext.model import HessianModel


def save_model(
    model: HessianModel, folder: str | Path, *, whole_backbone: bool, license: str | None, name: str | None = None
) -> None:
    """Writes the checkpoint of a model; see `HessianModel.save_pretrained`. `name` is that on its card.

    Raises:
        CheckpointError: the folder holds something else, or cannot be written; or a licence is missing; or the weights
            are not finite.
    """
    license = license or model.license
    if whole_backbone and license is None:
        raise CheckpointError("a whole backbone is written under the licence that allows it: give license='…'")
    tensors = _backbone_tensors(model, whole_backbone)
    config = CheckpointConfig(
        hip_ext_version=version(),
        dtype="float64" if next(model.head.parameters()).dtype == torch.float64 else "float32",
        license=license or ("other" if tensors else "mit"),
        head=model.head.config,
        backbone=_record(model, tensors, whole_backbone),
        elements=model.elements,
        training=model.training_record,
        metrics=model.metrics,
    )
    card = model_card(name or target(folder).name, config)
    write_checkpoint(folder, config, model.head.state_dict(), card, tensors)


def _backbone_tensors(model: HessianModel, whole: bool) -> dict[str, Tensor]:
    present = tensors_of(model.backbone.model)
    if whole:
        return present
    changed = model.tuning.changed if model.tuning else frozenset()
    unknown = sorted(changed - present.keys())
    if unknown:
        raise CheckpointError(f"the tuned backbone has no tensor {unknown[0]!r}: names are those of its state dict")
    return {name: value for name, value in present.items() if name in changed}


def _record(model: HessianModel, tensors: dict[str, Tensor], whole: bool) -> BackboneRecord:
    backbone = model.backbone
    source = model.tuning.base if model.tuning else backbone.source
    meaning = cast('Literal["release", "file", "memory"]', name_means(source.name))
    tuned = TunedRecord(fingerprint=fingerprint(backbone.model), tensors=len(tensors), whole=whole) if tensors else None
    return BackboneRecord(
        kind=source.kind,
        name=source.name,
        source=meaning,
        revision=_distribution(backbone) if meaning == "release" else None,
        fingerprint=source.fingerprint,
        options=dict(source.options),
        features=FeatureRecord(widths=backbone.widths, parity=backbone.parity),
        tuned=tuned,
    )


def _distribution(backbone: Backbone) -> str | None:
    """The installed package whose loader gives the released weights, with its version."""
    if not backbone.requirement:
        return None
    return f"{Requirement(backbone.requirement).name} {installed_version(backbone.requirement)}"
