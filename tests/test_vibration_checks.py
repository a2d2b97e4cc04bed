"""Stationary points, and the checks that a result is put to."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from numpy.testing import assert_allclose
from toy_backbone import ToyBackbone

from hip_ext import attach_head
from hip_ext.backbones.frameworks import installed_version
from hip_ext.errors import DataError
from hip_ext.reference import autograd_hessian, hessian_vector_product
from hip_ext.structures import Structures
from hip_ext.vibrations import (
    analyse,
    consistency,
    lowest_mode_check,
    stationary_point,
)
from hip_ext.vibrations.verified import verified_vibrations

needs_pymsym = pytest.mark.skipif(installed_version("pymsym") is None, reason="needs pymsym")


def random_symmetric(n, seed=0):
    matrix = np.random.default_rng(seed).normal(size=(3 * n, 3 * n))
    return matrix + matrix.T


def positive(n, seed=0):
    matrix = np.random.default_rng(seed).normal(size=(3 * n, 3 * n))
    return matrix @ matrix.T + np.eye(3 * n)


def test_kind_of_a_point_depends_on_both_thresholds():
    atoms = molecule("H2O")
    bent = random_symmetric(3)
    order = int((analyse(atoms, bent).frequencies < 0).sum())
    assert order > 0
    weak, strong = np.full((3, 3), 0.01), np.full((3, 3), 1.0)
    assert stationary_point(analyse(atoms, positive(3), forces=weak)).kind == "minimum"
    assert stationary_point(analyse(atoms, bent, forces=weak)).kind == f"saddle point of order {order}"
    point = stationary_point(analyse(atoms, bent, forces=strong))
    assert (point.kind, point.order, point.is_stationary) == ("not stationary", order, False)
    assert_allclose(point.largest_force, 3**0.5)
    assert stationary_point(analyse(atoms, bent, forces=strong), force_limit=2.0).is_stationary
    assert stationary_point(analyse(atoms, bent, forces=weak), threshold=1e5).kind == "minimum"
    unknown = stationary_point(analyse(atoms, bent))
    assert unknown.is_stationary is None and unknown.kind == f"saddle point of order {order}"


@pytest.fixture(scope="module")
def toy():
    return attach_head(ToyBackbone.load(dtype=torch.float64))


@pytest.mark.parametrize("name", ["CH3OH", "CO2", "C2H2", "H2O"])
def test_exact_hessian_passes_every_check_at_any_geometry(toy, name):
    """Rotations too: how the gradient turns is taken into account."""
    atoms = molecule(name)
    atoms.rattle(0.05 if name in ("CH3OH", "H2O") else 0.0, seed=1)
    found = verified_vibrations(toy, atoms, method="autograd")
    assert found.vibrations.force_residual > 0.05
    assert {flag.name: flag.ok for flag in found.flags} == {
        "residual force": False, "translations": True, "rotations": True,
    }  # fmt: skip
    assert_allclose(found.vibrations.defects, 0, atol=1e-9)
    assert not found.ok and found.method == "autograd"


def test_lowest_mode_is_compared_with_one_exact_product(toy):
    atoms = molecule("CH3OH")
    structures = Structures.from_ase(atoms)
    exact = autograd_hessian(toy.backbone, structures).numpy()
    noisy = exact + 0.3 * random_symmetric(6, seed=4)
    vibrations = analyse(atoms, noisy)
    product = hessian_vector_product(toy.backbone, structures, torch.as_tensor(vibrations.lowest_mode)).numpy()
    check = lowest_mode_check(vibrations, product)
    x = vibrations.lowest_mode.ravel()
    found = x @ exact @ x
    assert_allclose(check.exact, np.sign(found) * 521.470898 * abs(found) ** 0.5, rtol=1e-7)
    # The quotient is a bound from above for the lowest exact mode, and an exact eigenvalue lies within the residual.
    assert check.exact >= analyse(atoms, exact).frequencies[0] - 1e-6
    weighted = exact / np.sqrt(np.outer(*[np.repeat(atoms.get_masses(), 3)] * 2))
    assert np.abs(np.linalg.eigvalsh(weighted) - vibrations.eigenvalues[0]).min() <= check.residual + 1e-12
    own = analyse(atoms, exact)
    product = hessian_vector_product(toy.backbone, structures, torch.as_tensor(own.lowest_mode)).numpy()
    same = lowest_mode_check(own, product)
    assert_allclose(same.exact, same.predicted, rtol=1e-9)
    assert consistency(own, same)[-1].ok
    with pytest.raises(DataError, match="H·x must be 6 × 3"):
        lowest_mode_check(own, product[:3])


def test_failed_prediction_is_marked_or_replaced(toy):
    """An untrained head predicts nonsense."""
    atoms = molecule("CH3OH")
    marked = verified_vibrations(toy, atoms)
    assert marked.method == "direct" and not marked.replaced and not marked.ok
    assert any(flag.concerns == "hessian" and not flag.ok for flag in marked.flags)
    replaced = verified_vibrations(toy, atoms, fallback=True)
    exact = autograd_hessian(toy.backbone, Structures.from_ase(atoms)).numpy()
    assert replaced.method == "autograd" and replaced.replaced
    assert_allclose(replaced.hessian, exact, atol=1e-12)
    assert_allclose(replaced.vibrations.frequencies, analyse(atoms, exact).frequencies, rtol=1e-9)
    assert all(flag.ok for flag in replaced.flags if flag.concerns == "hessian")


def test_checks_without_forces_or_modes(toy):
    names = [flag.name for flag in consistency(analyse(molecule("H2O"), positive(3)))]
    assert names == ["translations", "rotations"]
    single = verified_vibrations(toy, Atoms("H", positions=[[0, 0, 0]]))
    assert [flag.name for flag in single.flags] == ["residual force", "translations"]
    unmade = consistency(analyse(molecule("H2O"), positive(3)), "no second derivatives")[-1]
    assert not unmade.ok and unmade.value is None and "no second derivatives" in unmade.text


def test_flags_are_plain_values():
    flags = consistency(analyse(molecule("H2O"), positive(3), forces=np.zeros((3, 3))))
    json.dumps([asdict(flag) for flag in flags], allow_nan=False)
