"""Node features: shapes, and the two orders in which frameworks write l = 2."""

from __future__ import annotations

import math

import pytest
import torch
from strategies import random_features

from hip_ext.features import NodeFeatures, tensor_from_e3nn_l2, tensor_from_real_l2


def random_vectors(n: int = 20) -> torch.Tensor:
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def dyads(r: torch.Tensor) -> torch.Tensor:
    """r rᵀ − r²/3, whose Frobenius norm is √(2/3) r²."""
    square = (r * r).sum(-1)[:, None, None]
    return r[:, :, None] * r[:, None, :] - square * torch.eye(3, dtype=r.dtype) / 3


def test_real_harmonics_become_dyads():
    r = random_vectors()
    x, y, z = r.unbind(-1)
    root = math.sqrt(3.0)
    harmonics = (root * x * y, root * y * z, (2 * z * z - x * x - y * y) / 2, root * x * z, root * (x * x - y * y) / 2)
    components = torch.stack(harmonics, -1)
    found = tensor_from_real_l2(components)
    torch.testing.assert_close(found, math.sqrt(1.5) * dyads(r), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.norm(dim=(-2, -1)), components.norm(dim=-1), rtol=1e-12, atol=0)


def test_e3nn_harmonics_become_dyads():
    # e3nn 0.4 reads its constants with torch.load, which wants to be told that they hold slices.
    with torch.serialization.safe_globals([slice]):
        o3 = pytest.importorskip("e3nn.o3", reason="needs e3nn")
    r = random_vectors()
    components = o3.spherical_harmonics(2, r, normalize=False, normalization="norm")
    found = tensor_from_e3nn_l2(components)
    torch.testing.assert_close(found, math.sqrt(1.5) * dyads(r), rtol=0, atol=1e-12)


@pytest.mark.parametrize("convert", [tensor_from_real_l2, tensor_from_e3nn_l2])
def test_l2_keeps_norms_and_angles(convert):
    """The five tensors of unit components are symmetric, traceless and orthonormal."""
    basis = convert(torch.eye(5, dtype=torch.float64))
    torch.testing.assert_close(basis, basis.transpose(-1, -2), rtol=0, atol=0)
    torch.testing.assert_close(basis.diagonal(dim1=-2, dim2=-1).sum(-1), torch.zeros(5).double(), rtol=0, atol=1e-15)
    gram = torch.einsum("aij,bij->ab", basis, basis)
    torch.testing.assert_close(gram, torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-15)
    assert convert(torch.zeros(4, 7, 5)).shape == (4, 7, 3, 3)


def test_shapes_are_checked():
    good = random_features(4, 0)
    assert good.widths == (5, 3, 2)
    for name, bad in {
        "vectors": (good.scalars, good.vectors[:3], good.tensors),
        "tensors": (good.scalars, good.vectors, good.tensors[..., :2]),
        "scalars": (good.scalars[:, :, None], good.vectors, good.tensors),
    }.items():
        with pytest.raises(ValueError, match=f"NodeFeatures.{name} has shape"):
            NodeFeatures(*bad)


def test_degrees_may_be_absent():
    assert random_features(3, 0, (2, 0, 0)).widths == (2, 0, 0)


def test_to_and_detach_keep_the_parity():
    made = random_features(3, 0)
    other = NodeFeatures(made.scalars.requires_grad_(True), made.vectors, made.tensors, "so3")
    single = other.to(torch.float32)
    assert {single.scalars.dtype, single.vectors.dtype, single.tensors.dtype} == {torch.float32}
    assert single.parity == other.detach().parity == "so3"
    assert not other.detach().scalars.requires_grad
