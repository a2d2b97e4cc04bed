"""What a head looks like on disk: a folder laid out as a Hub repository.

    config.json           what it is: see `schema`
    model.safetensors     the head's weights
    backbone.safetensors  tensors of a backbone that was trained together with the head; only then
    README.md             model card

Reading is strict: every key is known, every tensor is there in its shape, nothing is unpickled, and what a file claims
is compared with what it may be before memory is spent on it. Writing makes a new folder, which takes the place of the
old one when it is complete; other files of the old one stay.
"""

from hip_ext.checkpoint.config import read_config
from hip_ext.checkpoint.heads import new_head, read_head
from hip_ext.checkpoint.schema import (
    BACKBONE,
    CARD,
    CONFIG,
    SCHEMA,
    WEIGHTS,
    BackboneRecord,
    CheckpointConfig,
    FeatureRecord,
    TunedRecord,
)
from hip_ext.checkpoint.tuning import Tuning, backbone_delta
from hip_ext.checkpoint.writing import write_checkpoint

__all__ = [
    "BACKBONE",
    "CARD",
    "CONFIG",
    "SCHEMA",
    "WEIGHTS",
    "BackboneRecord",
    "CheckpointConfig",
    "FeatureRecord",
    "TunedRecord",
    "Tuning",
    "backbone_delta",
    "new_head",
    "read_config",
    "read_head",
    "write_checkpoint",
]
