"""A backbone that was trained together with its head: the tensors in which it differs from the one it began as.

base (fetched by name, recognised by its fingerprint) + changed tensors = tuned backbone (recognised by another)
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from hip_ext.backbones.base import Backbone, BackboneSource
from hip_ext.backbones.fingerprint import fingerprint
from hip_ext.checkpoint.schema import BACKBONE, CheckpointConfig, TunedRecord
from hip_ext.checkpoint.tensors import FLOATING, Shape, Wanted, read_tensors
from hip_ext.errors import CheckpointError


@dataclass(frozen=True)
class Tuning:
    """What training has changed in a backbone.

    Attributes:
        base: what the backbone was before; its name and fingerprint say where to find it again.
        changed: names of the tensors that differ now, in the state dict of the backbone's own module.
    """

    base: BackboneSource
    changed: frozenset[str]

    @classmethod
    def between(cls, base: Backbone, tuned: Backbone, earlier: Tuning | None = None) -> Tuning:
        """Compares a backbone with what it became.

        Args:
            base: as it was.
            tuned: as it is now, of the same architecture.
            earlier: what made `base`, where that was tuned already.

        Raises:
            CheckpointError: they are not of the same architecture.
        """
        changed = frozenset(backbone_delta(tensors_of(base.model), tuned.model))
        return cls(earlier.base, earlier.changed | changed) if earlier else cls(base.source, changed)


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers under the names of the state dict; not copied."""
    return {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def backbone_delta(before: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a model that are not exactly what they were.

    Args:
        before: its state dict at an earlier time; another device or precision makes no difference by itself.
        model: the module as it is now; its tensors are returned, not copied.

    Raises:
        CheckpointError: names or shapes are not those of before: this is another architecture.
    """
    now = tensors_of(model)
    before = {name: value for name, value in before.items() if isinstance(value, Tensor)}
    odd = sorted(now.keys() ^ before.keys()) or sorted(n for n in now if now[n].shape != before[n].shape)
    if odd:
        raise CheckpointError(f"the tuned backbone is of another architecture than its base: they differ in {odd[0]!r}")
    return {name: value for name, value in now.items() if not _same(value, before[name])}


def tuned_backbone(
    backbone: Backbone, folder: Path, config: CheckpointConfig, *, in_place: bool = False
) -> tuple[Backbone, frozenset[str]]:
    """A backbone with the tensors of backbone.safetensors, as the head of that checkpoint expects it.

    Args:
        backbone: the one that was tuned (or, where all tensors are there, one of its architecture), or the result.
        folder: of the checkpoint.
        config: its config.json.
        in_place: change the backbone that is given, which then belongs to nobody else.

    Returns:
        The tuned backbone, and the names of the tensors in which it differs from its base.

    Raises:
        CheckpointError: the file is missing or damaged, or does not belong to this backbone.
    """
    record, found = config.backbone, backbone.source
    assert record.tuned is not None
    tensors = read_tensors(folder, BACKBONE, _wanted(backbone.model, record.tuned), config.sha256.get(BACKBONE))
    if len(tensors) != record.tuned.tensors:
        raise CheckpointError(
            f"{folder / BACKBONE} has {len(tensors)} tensors, config.json says {record.tuned.tensors}: "
            "they do not belong together"
        )
    if found.fingerprint == record.tuned.fingerprint:
        return backbone, frozenset(tensors)
    tuned = backbone if in_place else copy.deepcopy(backbone)
    present = tensors_of(tuned.model)
    with torch.no_grad():
        for name, value in tensors.items():
            present[name].copy_(value)
    after = fingerprint(tuned.model)
    if after != record.tuned.fingerprint:
        raise CheckpointError(
            f"{folder / BACKBONE} makes of {found.kind} {found.name!r} a backbone of fingerprint {after[:12]}, "
            f"expected {record.tuned.fingerprint[:12]}: they do not belong together"
        )
    tuned.source = replace(found, fingerprint=after)
    return tuned, frozenset(tensors)


def _wanted(model: nn.Module, record: TunedRecord) -> Callable[[dict[str, Shape]], Mapping[str, Wanted]]:
    present = {
        name: Wanted(tuple(value.shape), FLOATING if value.dtype in FLOATING else frozenset({value.dtype}))
        for name, value in tensors_of(model).items()
    }

    def wanted(found: dict[str, Shape]) -> Mapping[str, Wanted]:
        return present if record.whole else {name: present[name] for name in found if name in present}

    return wanted


def _same(a: Tensor, b: Tensor) -> bool:
    dtype = torch.promote_types(a.dtype, b.dtype)
    return torch.equal(a.detach().to("cpu", dtype), b.detach().to("cpu", dtype))
