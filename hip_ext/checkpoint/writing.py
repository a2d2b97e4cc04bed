"""Writes a checkpoint: complete, or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from hip_ext import strict_json
from hip_ext.checkpoint.config import LARGEST_CONFIG, parse_config
from hip_ext.checkpoint.files import read_all
from hip_ext.checkpoint.replacement import replacing
from hip_ext.checkpoint.schema import BACKBONE, CARD, CONFIG, FORMAT, WEIGHTS, CheckpointConfig
from hip_ext.checkpoint.tensors import write_tensors
from hip_ext.errors import CheckpointError

FILES = (CONFIG, WEIGHTS, BACKBONE, CARD)


def write_checkpoint(
    folder: str | Path,
    config: CheckpointConfig,
    head: Mapping[str, Tensor],
    card: str,
    backbone: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes a checkpoint, replacing an older one in the same folder as a whole.

    Args:
        folder: new, empty, or that of an older checkpoint.
        config: all but the digests of the other files, which are added.
        head: the tensors of the head.
        card: README.md.
        backbone: the tensors of backbone.safetensors, where the config says that there are some.

    Raises:
        CheckpointError: the folder holds something else or cannot be written, or the config could not be read again.
    """
    folder = target(folder)
    try:
        if folder.exists() and not _may_be_replaced(folder):
            raise CheckpointError(f"{folder} exists and is not a checkpoint of hip-ext: choose another folder")
        with replacing(folder, FILES) as new:
            digests = {WEIGHTS: write_tensors(new / WEIGHTS, head)}
            if backbone:
                digests[BACKBONE] = write_tensors(new / BACKBONE, backbone)
            text = config.model_copy(update={"sha256": digests}).model_dump_json(indent=2) + "\n"
            parse_config(text.encode("utf-8"), str(folder / CONFIG))
            (new / CONFIG).write_text(text, encoding="utf-8")
            (new / CARD).write_text(card, encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"cannot write {folder}: {error.strerror or error}") from None


def target(folder: str | Path) -> Path:
    """Where a folder really is, also if a link leads there.

    Raises:
        CheckpointError: this can be no name of a folder.
    """
    try:
        return Path(os.path.realpath(folder))
    except ValueError as error:
        raise CheckpointError(f"cannot write {str(folder)!r}: {error}") from None


def is_ours(folder: Path) -> bool:
    """Whether the config.json in a folder is that of a checkpoint, of whatever schema."""
    try:
        values = strict_json.parse(read_all(folder, CONFIG, LARGEST_CONFIG))
    except ValueError:  # also where it cannot be read
        return False
    return isinstance(values, dict) and values.get("format") == FORMAT


def _may_be_replaced(folder: Path) -> bool:
    """Whether a folder is empty or holds a checkpoint: many programs keep a config.json, so the name is not enough."""
    try:
        return not any(folder.iterdir()) or is_ours(folder)
    except OSError:
        return False
