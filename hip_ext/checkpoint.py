"""What a head looks like on disk: a folder laid out as a Hub repository.

    config.json         schema version, head hyper-parameters, dtype, units, and which backbone it belongs to
    model.safetensors   the head's weights, nothing of the backbone
    README.md           model card

Reading is strict: every key is known, every tensor is there in its shape, nothing is unpickled. Writing goes to a new
folder, which takes the place of the old one when it is complete; other files of the old one move with it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hip_ext.errors import CheckpointError
from hip_ext.features import Widths
from hip_ext.head import HeadConfig, HessianHead
from hip_ext.suggest import first_problem

SCHEMA = 1
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
LARGEST_CONFIG, LARGEST_WEIGHTS = 1 << 20, 1 << 30
"""Files beyond these sizes (bytes) are refused unread: no head is that large."""


Width = Annotated[int, Field(ge=0)]


class BackboneRecord(BaseModel):
    """The backbone that a head was made for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str = Field(pattern=r"^[\w.-]+$", description="registry name of the adapter")
    name: str = Field(description="the model's name, or the file that it came from")
    fingerprint: str = Field(pattern="^[0-9a-f]{64}$", description="sha256 of the backbone's weights")
    options: dict[str, Any] = Field(default_factory=dict, description="what else decides about its numbers")
    parity: Literal["o3", "so3"]
    widths: tuple[Width, Width, Width] = Field(description="features per degree: scalars, vectors, tensors")


class CheckpointConfig(BaseModel):
    """The contents of config.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["hip-ext head"] = "hip-ext head"
    schema_version: int = Field(SCHEMA, ge=1)
    hip_ext_version: str
    dtype: Literal["float32", "float64"]
    units: dict[str, str] = Field(default_factory=lambda: {"hessian": "eV/Å^2", "length": "Å"})
    head: HeadConfig
    backbone: BackboneRecord
    elements: list[Annotated[int, Field(ge=1, le=118)]] = Field(
        default_factory=list, description="atomic numbers seen in training; empty: none"
    )
    training: dict[str, Any] = Field(default_factory=dict, description="data, cost and recipe")
    metrics: dict[str, Any] = Field(default_factory=dict, description="measured errors")


def write_checkpoint(folder: str | Path, config: CheckpointConfig, head: HessianHead, card: str) -> None:
    """Writes a checkpoint, replacing an older one in the same folder as a whole.

    Raises:
        CheckpointError: the folder holds something else, or cannot be written.
    """
    folder = Path(folder).resolve()
    if folder.exists() and not _may_be_replaced(folder):
        raise CheckpointError(f"{folder} exists and is not a checkpoint of hip-ext: choose another folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as work:
            new = Path(work) / "new"
            new.mkdir()
            tensors = {name: value.detach().cpu().contiguous() for name, value in head.state_dict().items()}
            save_file(tensors, new / WEIGHTS, metadata={"format": "pt"})
            (new / CONFIG).write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
            (new / CARD).write_text(card, encoding="utf-8")
            # safetensors makes files that nobody else can read.
            (new / WEIGHTS).chmod((new / CONFIG).stat().st_mode)
            _put_in_place(new, folder, Path(work) / "old")
    except OSError as error:
        raise CheckpointError(f"cannot write {folder}: {error.strerror or error}") from None
    except SafetensorError as error:
        raise CheckpointError(f"cannot write {folder}: {error}") from None


def read_config(folder: str | Path) -> CheckpointConfig:
    """Reads and validates config.json.

    Raises:
        CheckpointError: it is missing, not JSON, has an unknown key or value, or a newer schema.
    """
    path = Path(folder) / CONFIG
    try:
        size = path.stat().st_size
        text = path.read_bytes() if size <= LARGEST_CONFIG else b""
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    if size > LARGEST_CONFIG:
        raise CheckpointError(f"{path} is {size} bytes long: not a hip-ext config")
    try:
        values = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path} is not valid JSON: the checkpoint is damaged, get it again") from None
    version = values.get("schema_version") if isinstance(values, dict) else None
    if isinstance(version, int) and version > SCHEMA:
        raise CheckpointError(f"{path} has schema {version}, this hip-ext reads up to {SCHEMA}: pip install -U hip-ext")
    try:
        return CheckpointConfig.model_validate(values)
    except ValidationError as error:
        known = {*CheckpointConfig.model_fields, *HeadConfig.model_fields, *BackboneRecord.model_fields}
        raise CheckpointError(f"{path}: {first_problem(error, known)}") from None


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
    dtype = getattr(torch, config.dtype)
    _check_tensors(path, tensors, _expected_shapes(path, tensors, config), dtype)
    head = new_head(config.backbone.widths, config.head).to(dtype)
    head.load_state_dict(tensors)
    return head.eval()


def new_head(widths: Widths, config: HeadConfig | None) -> HessianHead:
    """A head in single precision, whatever torch's default.

    The grids of its radial functions are not stored, so a head that is loaded must make the same ones again.

    Args:
        widths: channels (C0, C1, C2) of the features.
        config: hyper-parameters.
    """
    with _single_precision():
        return HessianHead(widths, config)


@contextmanager
def _single_precision() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _may_be_replaced(folder: Path) -> bool:
    """Whether a folder is empty or holds a checkpoint: many programs keep a config.json, so the name is not enough."""
    try:
        if not any(folder.iterdir()):
            return True
        path = folder / CONFIG
        values = json.loads(path.read_text(encoding="utf-8")) if path.stat().st_size <= LARGEST_CONFIG else None
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and values.get("format") == CheckpointConfig.model_fields["format"].default


def _put_in_place(new: Path, folder: Path, old: Path) -> None:
    """Exchanges a folder for a new one; if that fails, the old one is back where it was."""
    if not folder.exists():
        new.rename(folder)
        return
    folder.rename(old)
    try:
        new.rename(folder)
    except BaseException:
        old.rename(folder)
        raise
    for path in old.iterdir():
        if path.name not in (CONFIG, WEIGHTS, CARD):
            path.rename(folder / path.name)


def _expected_shapes(path: Path, found: dict[str, Tensor], config: CheckpointConfig) -> dict[str, Tensor]:
    """The tensors of the head that a config describes, without memory: absurd sizes fail here, not on allocation."""
    head, widths = config.head, config.backbone.widths
    # Every size is that of some tensor, and every layer has one, so a config that asks for more is not of this file.
    sizes = [*widths, head.scalars, head.channels, head.hidden, head.pair_channels, head.coordinates]
    largest, numbers = max(*sizes, head.cutoff / head.spacing), sum(value.numel() for value in found.values())
    try:
        if largest <= numbers and head.layers <= len(found):
            with torch.device("meta"):
                return new_head(widths, head).state_dict()
    except (RuntimeError, TypeError, ValueError):  # torch's, for sizes whose product is beyond all bounds
        pass
    raise CheckpointError(f"{path} does not belong to its config.json, which describes a much larger head")


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
