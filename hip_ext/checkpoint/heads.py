"""The head of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from hip_ext.checkpoint.schema import WEIGHTS, CheckpointConfig
from hip_ext.checkpoint.tensors import Shape, Wanted, read_tensors
from hip_ext.errors import CheckpointError
from hip_ext.features import Widths
from hip_ext.head import HeadConfig, HessianHead

LARGEST_SIZE, MOST_LAYERS = 1 << 24, 64
"""No head is that wide or that deep."""


def new_head(widths: Widths, config: HeadConfig | None) -> HessianHead:
    """A head in single precision, whatever torch's default.

    The grids of its radial functions are not stored, so a head that is loaded must make the same ones again.

    Args:
        widths: channels (C0, C1, C2) of the features.
        config: hyper-parameters.
    """
    with _single_precision():
        return HessianHead(widths, config)


def read_head(folder: str | Path, config: CheckpointConfig) -> HessianHead:
    """Builds the head of a checkpoint in its own dtype, with exactly the tensors of model.safetensors.

    Raises:
        CheckpointError: the file is missing, truncated or tampered with, or its tensors are not those of the head.
    """
    folder, dtype = Path(folder), getattr(torch, config.dtype)

    def wanted(found: dict[str, Shape]) -> Mapping[str, Wanted]:
        shapes = _shapes(folder / WEIGHTS, found, config)
        return {name: Wanted(shape, frozenset({dtype})) for name, shape in shapes.items()}

    tensors = read_tensors(folder, WEIGHTS, wanted, config.sha256.get(WEIGHTS))
    with torch.random.fork_rng(devices=[]):
        head = new_head(config.backbone.features.widths, config.head).to(dtype)
    head.load_state_dict(tensors)
    return head.eval()


@contextmanager
def _single_precision() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _shapes(path: Path, found: dict[str, Shape], config: CheckpointConfig) -> dict[str, Shape]:
    """The tensors of the head that a config describes, without memory: absurd sizes fail here, not on allocation."""
    head, widths = config.head, config.backbone.features.widths
    # Every size is that of some tensor, and every layer has one, so a config that asks for more is not of this file.
    sizes = [*widths, head.scalars, head.channels, head.hidden, head.pair_channels, head.coordinates]
    largest = max((n for shape in found.values() for n in shape), default=0)
    try:
        if max(*sizes, (head.cutoff - 0.5) / head.spacing) <= min(largest, LARGEST_SIZE) and head.layers <= MOST_LAYERS:
            with torch.device("meta"):
                return {name: tuple(value.shape) for name, value in new_head(widths, head).state_dict().items()}
    except (RuntimeError, TypeError, ValueError, OverflowError):  # torch's, for sizes whose product is beyond bounds
        pass
    raise CheckpointError(f"{path} does not belong to its config.json, which describes a much larger head")
