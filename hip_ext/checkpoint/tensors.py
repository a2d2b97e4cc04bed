"""Tensors in safetensors files, whose header is compared with what is expected before any of them is read."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from hip_ext import strict_json
from hip_ext.checkpoint.files import opened
from hip_ext.errors import CheckpointError

LARGEST_HEADER, MOST_DIMENSIONS = 2 << 20, 8
"""Bytes of a header (a model of ten thousand tensors has 1 MB), and dimensions of a tensor."""

FLOATING = frozenset({torch.float32, torch.float64})
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}

Shape = tuple[int, ...]


class Wanted(NamedTuple):
    """What a tensor has to be: its shape, and the dtypes that it may have."""

    shape: Shape
    dtypes: frozenset[torch.dtype]


def read_tensors(
    folder: Path, name: str, wanted: Callable[[dict[str, Shape]], Mapping[str, Wanted]], digest: str | None
) -> dict[str, Tensor]:
    """Reads exactly the tensors that are wanted.

    Args:
        folder: of the checkpoint.
        name: of the file in it.
        wanted: told the shapes that the header claims (which no file may be large enough for), gives all tensors that
            the file must have.
        digest: sha256 of the file, in hexadecimal digits, where it is known.

    Raises:
        CheckpointError: the file is missing, damaged or tampered with, or its tensors are not those.
    """
    path = folder / name
    with opened(folder, name) as (file, size):
        header = _header(path, file, size)
        _compare(path, header, wanted({key: entry.shape for key, entry in header.items()}))
        length = file.tell() + sum(math.prod(shape) * dtype.itemsize for dtype, shape in header.values())
        if size != length:
            raise _damaged(path, f"{size} bytes long, {length} expected")
        file.seek(0)
        data = file.read(length)
    if digest is not None and hashlib.sha256(data).hexdigest() != digest:
        raise _damaged(path, "its sha256 is not the one in config.json")
    try:
        tensors = safetensors.torch.load(data)
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise _damaged(path, str(error)) from None
    spoilt = _not_finite(tensors)
    if spoilt is not None:
        raise CheckpointError(f"{path}: {spoilt} has values that are not finite: the checkpoint is damaged")
    return tensors


def as_claimed(found: Mapping[str, Shape]) -> dict[str, Wanted]:
    """Wants whatever the header claims: for tensors of a model that is not at hand."""
    return {name: Wanted(shape, frozenset(DTYPES.values())) for name, shape in found.items()}


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Writes tensors, those that share memory each in full; returns the sha256 of the file.

    Raises:
        CheckpointError: some have values that are not finite, which nobody could read again.
    """
    spoilt = _not_finite(tensors)
    if spoilt is not None:
        raise CheckpointError(
            f"{spoilt} has values that are not finite: nothing is written, go back to earlier weights"
        )
    # Only a tensor that owns all of its memory, and shares it with none, can be written.
    owned = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    data = safetensors.torch.save(owned, metadata={"format": "pt"})
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def _not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    floating = ((name, value) for name, value in tensors.items() if value.is_floating_point())
    return next((name for name, value in floating if not bool(torch.isfinite(value).all())), None)


class _Entry(NamedTuple):
    dtype: torch.dtype
    shape: Shape


def _header(path: Path, file: BinaryIO, size: int) -> dict[str, _Entry]:
    """Names, dtypes and shapes that a file claims to have; it is left at the first byte behind them."""
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, LARGEST_HEADER):
        raise _damaged(path, f"a header of {length} bytes in a file of {size}")
    try:
        found = strict_json.parse(file.read(length))
    except ValueError as error:
        raise _damaged(path, f"header: {error}") from None
    if not isinstance(found, dict):
        raise _damaged(path, "the header is not a JSON object")
    return {name: _entry(path, name, value) for name, value in found.items() if name != "__metadata__"}


def _entry(path: Path, name: str, value: Any) -> _Entry:
    shape = value.get("shape") if isinstance(value, dict) else None
    if not isinstance(shape, list) or len(shape) > MOST_DIMENSIONS or not all(type(n) is int and n >= 0 for n in shape):
        raise _damaged(path, f"the header has no shape for {name[:80]!r}")
    dtype = DTYPES.get(value["dtype"]) if isinstance(value.get("dtype"), str) else None
    if dtype is None:
        raise _damaged(path, f"the header has no dtype that is known for {name[:80]!r}")
    return _Entry(dtype, tuple(shape))


def _compare(path: Path, found: Mapping[str, _Entry], wanted: Mapping[str, Wanted]) -> None:
    missing, extra = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if missing or extra:
        name, what = (missing[0], "lacks") if missing else (extra[0], "has the unknown")
        raise CheckpointError(f"{path} {what} tensor {name[:80]!r}: it does not belong to its config.json")
    for name, (dtype, shape) in found.items():
        expected = wanted[name]
        if shape != expected.shape or dtype not in expected.dtypes:
            kinds = " or ".join(sorted(map(str, expected.dtypes)))
            raise CheckpointError(f"{path}: {name} is {dtype} {shape}, expected {kinds} {expected.shape}")


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{path} is damaged ({' '.join(reason.split())[:300]}): get the checkpoint again")
