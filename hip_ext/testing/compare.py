"""Comparisons of features and numbers, each relative to the largest number of its kind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from hip_ext.backbones.base import Backbone
from hip_ext.features import NodeFeatures
from hip_ext.structures import Structures


def assert_close(found: Any, expected: Any, relative: float = 1e-10) -> None:
    """Asserts |found − expected| ≤ relative · max |expected| everywhere; with 0, that they are equal bit for bit."""
    found, expected = (x.detach().cpu() if isinstance(x, torch.Tensor) else x for x in (found, expected))
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    scale = np.abs(expected).max() if expected.size else 1.0
    np.testing.assert_allclose(found, expected, rtol=0, atol=relative * scale)


def assert_same_features(found: NodeFeatures, expected: NodeFeatures, relative: float = 1e-10) -> None:
    """Compares degree by degree, relative to the largest component of the degree."""
    for name in ("scalars", "vectors", "tensors"):
        a, b = getattr(found, name), getattr(expected, name)
        assert a.shape == b.shape
        scale = float(b.abs().max()) if b.numel() else 1.0
        assert float((a - b).abs().max() if b.numel() else 0.0) <= relative * scale, name


def features_of(backbone: Backbone, atoms: Atoms | list[Atoms]) -> NodeFeatures:
    """The features of one structure or of a batch, without gradients."""
    with torch.no_grad():
        return backbone.features(backbone.prepare(Structures.from_ase(atoms)))


def framework_results(calculator: Calculator, atoms: Atoms, properties: list[str]) -> dict[str, Any]:
    """What a framework's own calculator finds, computed anew; it may change the default dtype meanwhile."""
    with default_dtype(torch.float64):
        calculator.calculate(atoms, properties, all_changes)
    return dict(calculator.results)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Torch's default dtype for the length of the block: frameworks build and evaluate models under it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
