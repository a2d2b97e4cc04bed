"""Envelope, radial basis and block sizes."""

from __future__ import annotations

import math

import pytest
import torch
from strategies import random_head

from hip_ext.radial import BlockScale, GaussianBasis, envelope


def derivatives(r: float, cutoff: float, order: int) -> list[float]:
    """The envelope and its derivatives at one distance, by autograd."""
    x = torch.tensor(r, dtype=torch.float64, requires_grad=True)
    values = [envelope(x, cutoff)]
    for _ in range(order):
        values.append(torch.autograd.grad(values[-1], x, create_graph=True)[0])
    return [v.item() for v in values]


def test_envelope_starts_at_one_and_ends_with_two_derivatives():
    cutoff = 4.3
    assert derivatives(0.0, cutoff, 5) == pytest.approx([1, 0, 0, 0, 0, 0], abs=1e-12)
    assert derivatives(cutoff, cutoff, 2) == [0, 0, 0]
    assert derivatives(cutoff + 0.7, cutoff, 2) == [0, 0, 0]
    for gap in (1e-3, 1e-4, 1e-5):
        value, first, second = derivatives(cutoff - gap, cutoff, 2)
        # (1 − x)³·p(p + 1)(p + 2)/6 to leading order, p = 6.
        assert value == pytest.approx(56 * (gap / cutoff) ** 3, rel=20 * gap)
        assert first == pytest.approx(-168 * gap**2 / cutoff**3, rel=20 * gap)
        assert second == pytest.approx(336 * gap / cutoff**3, rel=20 * gap)


@pytest.mark.parametrize("power", [3, 6, 8])
def test_envelope_is_the_polynomial_of_the_paper(power):
    x = torch.linspace(0, 1, 301, dtype=torch.float64)
    p = power
    paper = 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1) - p * (p + 1) / 2 * x ** (p + 2)
    torch.testing.assert_close(envelope(5.0 * x, 5.0, power), paper, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_envelope_is_never_negative_and_never_rises(dtype):
    """A weight below zero, were it by rounding, would make the graph Laplacian of the sum rule indefinite."""
    values = envelope(torch.linspace(4.9, 5.01, 200001, dtype=dtype), 5.0)
    assert (values >= 0).all() and (values[:-1000] > 0).any()
    assert (values[1:] <= values[:-1] * (1 + 1e-3)).all()


def test_infinite_cutoff_takes_nothing_away():
    assert (envelope(torch.tensor([0.5, 1e6]), math.inf) == 1).all()


def test_basis_is_finer_than_its_spacing():
    for start, stop, spacing in ((0.5, 5.0, 0.16), (0.5, 4.33, 0.2), (0.0, 3.0, 0.1)):
        basis = GaussianBasis(start, stop, spacing).double()
        steps = basis.centres.diff()
        assert steps.max() <= spacing + 1e-6 and basis.size == len(basis.centres)
        assert float(basis.centres[0]) == start and float(basis.centres[-1]) == pytest.approx(stop)
    r = torch.linspace(0.4, 6, 50, dtype=torch.float64)
    expected = torch.stack([torch.exp(-((r - c) ** 2) / (2 * basis.width**2)) for c in basis.centres], 1)
    torch.testing.assert_close(basis(r), expected, rtol=1e-12, atol=0)


def test_the_basis_of_a_head_resolves_bond_lengths():
    for cutoff in (2.6, 5.0, 7.3):
        bases = [m for m in random_head(cutoff=cutoff, spacing=0.2, layers=2).modules() if isinstance(m, GaussianBasis)]
        assert len(bases) == 1
        assert all(float(b.centres.diff().max()) < 0.2 + 1e-6 and b.centres[0] == 0.5 for b in bases)


def test_block_scale_fit_keeps_the_root_mean_square_of_each_bin():
    generator = torch.Generator().manual_seed(0)
    scale = BlockScale(6.0, 0.25).double()
    distance = 0.9 + 5 * torch.rand(5000, generator=generator, dtype=torch.float64)
    norm = 3 * torch.rand(5000, generator=generator, dtype=torch.float64) * torch.exp(-distance)
    scale.fit(distance, norm)
    for k, centre in enumerate(scale.grid.tolist()):
        inside = (distance - centre).abs() < 0.125 * (1 - 1e-9)
        if inside.any():
            rms = float((norm[inside] / 3).pow(2).mean().sqrt())
            assert math.exp(float(scale.log_scale[k])) == pytest.approx(rms, rel=1e-10)


def test_block_scale_reproduces_a_smooth_decay():
    """An exponential is a line in log s, which normalised Gaussians reproduce away from the ends."""
    scale = BlockScale(8.0).double()
    grid = scale.grid.clone()
    scale.fit(grid, 3 * 20 * torch.exp(-1.3 * grid))
    r = torch.linspace(2.0, 7.0, 101, dtype=torch.float64)
    torch.testing.assert_close(scale(r), 20 * torch.exp(-1.3 * r), rtol=1e-3, atol=0)
    scale.fit(grid, torch.full_like(grid, 6.0))
    torch.testing.assert_close(scale(torch.linspace(0.3, 20, 50).double()), torch.full((50,), 2.0).double())


def test_bins_without_a_sample_take_the_nearest_one():
    scale = BlockScale(4.0, 0.25).double()
    scale.fit(torch.tensor([1.0, 3.0]).double(), torch.tensor([30.0, 0.3]).double())
    sizes = torch.exp(scale.log_scale)
    torch.testing.assert_close(sizes[scale.grid < 1.9], torch.full_like(sizes[scale.grid < 1.9], 10.0))
    torch.testing.assert_close(sizes[scale.grid > 2.1], torch.full_like(sizes[scale.grid > 2.1], 0.1))


def test_block_scale_is_positive_and_smooth_before_any_fit():
    scale = BlockScale(5.0).double()
    r = torch.linspace(0.2, 9.0, 500, dtype=torch.float64)
    assert (scale(r) > 0.01).all() and (scale(r).diff() <= 1e-12).all()
