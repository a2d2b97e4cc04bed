"""What a head looks like on disk: a folder laid out as a Hub repository.

    config.json         schema version, head hyper-parameters, dtype, units, and which backbone it belongs to
    model.safetensors   the head's weights, nothing of the backbone
    README.md           model card

Reading is strict: every key is known, every tensor is there in its shape, nothing is unpickled. Writing is atomic: the
folder is complete or unchanged.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hip_ext.errors import CheckpointError
from hip_ext.head import HeadConfig, HessianHead
from hip_ext.suggest import did_you_mean

SCHEMA = 1
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
LARGEST_CONFIG, LARGEST_WEIGHTS = 1 << 20, 1 << 30
"""Files beyond these sizes (bytes) are refused unread: no head is that large."""


class BackboneRecord(BaseModel):
    """The backbone that a head was made for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str = Field(description="registry name of the adapter")
    name: str = Field(description="the model's name, or the file that it came from")
    fingerprint: str = Field(pattern="^[0-9a-f]{64}$", description="sha256 of the backbone's weights")
    options: dict[str, Any] = Field(default_factory=dict, description="what else decides about its numbers")
    parity: Literal["o3", "so3"]
    widths: tuple[int, int, int] = Field(description="features per degree: scalars, vectors, tensors")


class CheckpointConfig(BaseModel):
    """The contents of config.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["hip-ext head"] = "hip-ext head"
    schema_version: int = SCHEMA
    hip_ext_version: str
    dtype: Literal["float32", "float64"]
    units: dict[str, str] = Field(default_factory=lambda: {"hessian": "eV/Å^2", "length": "Å"})
    head: HeadConfig
    backbone: BackboneRecord
    elements: list[int] = Field(default_factory=list, description="atomic numbers seen in training; empty: none")
    training: dict[str, Any] = Field(default_factory=dict, description="data, cost and recipe")
    metrics: dict[str, Any] = Field(default_factory=dict, description="measured errors")


def write_checkpoint(folder: str | Path, config: CheckpointConfig, head: HessianHead, card: str) -> None:
    """Writes a checkpoint, replacing an older one of the same folder as a whole.

    Raises:
        CheckpointError: the folder holds something else, or cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / CONFIG).is_file())):
        raise CheckpointError(f"{folder} exists and is not a checkpoint: choose another folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    except OSError as error:
        raise CheckpointError(f"cannot write {folder}: {error.strerror}") from None
    try:
        tensors = {name: value.detach().cpu().contiguous() for name, value in head.state_dict().items()}
        save_file(tensors, temporary / WEIGHTS, metadata={"format": "pt"})
        (temporary / CONFIG).write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (temporary / CARD).write_text(card, encoding="utf-8")
        temporary.chmod(0o755)
        if folder.exists():
            old = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.old."))
            folder.rename(old / folder.name)
            temporary.rename(folder)
            shutil.rmtree(old)
        else:
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_config(folder: str | Path) -> CheckpointConfig:
    """Reads and validates config.json.

    Raises:
        CheckpointError: it is missing, not JSON, has an unknown key or value, or a newer schema.
    """
    path = Path(folder) / CONFIG
    try:
        if path.stat().st_size > LARGEST_CONFIG:
            raise CheckpointError(f"{path} is {path.stat().st_size} bytes long: not a hip-ext config")
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path} is not valid JSON: the checkpoint is damaged, get it again") from None
    version = values.get("schema_version") if isinstance(values, dict) else None
    if isinstance(version, int) and version > SCHEMA:
        raise CheckpointError(f"{path} has schema {version}, this hip-ext reads up to {SCHEMA}: pip install -U hip-ext")
    try:
        return CheckpointConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        known = {*CheckpointConfig.model_fields, *HeadConfig.model_fields, *BackboneRecord.model_fields}
        hint = did_you_mean(str(first["loc"][-1]), known) if first["type"] == "extra_forbidden" else ""
        raise CheckpointError(f"{path}: {key}: {first['msg']}{hint}") from None


def read_head(folder: str | Path, config: CheckpointConfig) -> HessianHead:
    """Builds the head of a checkpoint in its own dtype, with exactly the tensors of model.safetensors.

    Raises:
        CheckpointError: the file is missing, truncated or tampered with, or its tensors are not those of the head.
    """
    path = Path(folder) / WEIGHTS
    try:
        if path.stat().st_size > LARGEST_WEIGHTS:
            raise CheckpointError(f"{path} is {path.stat().st_size} bytes long: no head is that large")
        tensors = load_file(path)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from None
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged ({error}): get the checkpoint again") from None
    # Built without memory first: a config with huge sizes must fail on its shapes, not on the allocation.
    with torch.device("meta"):
        shapes = HessianHead(config.backbone.widths, config.head).state_dict()
    _check_tensors(path, tensors, shapes, getattr(torch, config.dtype))
    head = HessianHead(config.backbone.widths, config.head).to(getattr(torch, config.dtype))
    head.load_state_dict(tensors)
    return head.eval()


def _check_tensors(path: Path, found: dict[str, Tensor], expected: dict[str, Tensor], dtype: torch.dtype) -> None:
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or extra:
        name, what = (missing[0], "lacks") if missing else (extra[0], "has the unknown")
        raise CheckpointError(f"{path} {what} tensor {name!r}: it does not belong to its config.json")
    for name, value in found.items():
        if value.shape != expected[name].shape or value.dtype != dtype:
            raise CheckpointError(
                f"{path}: {name} is {value.dtype} {tuple(value.shape)}, expected {dtype} {tuple(expected[name].shape)}"
            )
        if not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"{path}: {name} has values that are not finite: the checkpoint is damaged")
