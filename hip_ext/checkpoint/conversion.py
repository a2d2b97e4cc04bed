"""A checkpoint rewritten in the present schema, or in another precision; the backbone itself is not needed."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from hip_ext.card import model_card
from hip_ext.checkpoint.config import read_config
from hip_ext.checkpoint.heads import read_head
from hip_ext.checkpoint.schema import BACKBONE, CheckpointConfig
from hip_ext.checkpoint.tensors import as_claimed, read_tensors
from hip_ext.checkpoint.writing import target, write_checkpoint


def convert(source: Path, out: Path, dtype: str | None = None) -> CheckpointConfig:
    """Writes a checkpoint anew: present schema, new card, the same weights.

    Args:
        source: its folder.
        out: folder to write; may be the same.
        dtype: "float32" or "float64"; by default as it is, and then the weights stay the same to the last bit.

    Raises:
        CheckpointError: the checkpoint is damaged, or `out` cannot be written.
    """
    config = read_config(source)
    head = read_head(source, config).state_dict()
    tensors = read_tensors(source, BACKBONE, as_claimed, config.sha256.get(BACKBONE)) if config.backbone.tuned else {}
    if dtype is not None:
        config = config.model_copy(update={"dtype": dtype})
        head, tensors = _cast(head, dtype), _cast(tensors, dtype)
    write_checkpoint(out, config, head, model_card(target(out).name, config), tensors)
    return config


def _cast(tensors: dict[str, Tensor], dtype: str) -> dict[str, Tensor]:
    to = getattr(torch, dtype)
    return {name: value.to(to) if value.is_floating_point() else value for name, value in tensors.items()}
