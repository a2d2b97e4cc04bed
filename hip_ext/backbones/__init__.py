"""Backbones: trained interatomic potentials, each behind one small adapter.

Example::

    backbone = load_backbone("mace", "mace_off:small", dtype=torch.float64)
    features = backbone.features(backbone.prepare(Structures.from_ase(atoms)))
"""

from hip_ext.backbones.base import Backbone, BackboneSource, Evaluation
from hip_ext.backbones.registry import (
    BackboneStatus,
    availability,
    backbone_class,
    backbone_kinds,
    load_backbone,
    register_backbone,
)

__all__ = [
    "Backbone",
    "BackboneSource",
    "BackboneStatus",
    "Evaluation",
    "availability",
    "backbone_class",
    "backbone_kinds",
    "load_backbone",
    "register_backbone",
]
