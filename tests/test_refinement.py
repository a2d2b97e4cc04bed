"""Refined Hessians: the update's algebra, the search's promises, and both with exact products of real potentials."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.constraints import FixAtoms
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.transform import Rotation
from strategies import random_crystal, random_molecule, seeds
from toy_backbone import ToyBackbone

from hip_ext import HeadConfig, HessianCalculator, HessianModel, attach_head, from_pretrained
from hip_ext.cli.options import DEFAULT_MODEL
from hip_ext.errors import BackboneError, ConfigError, DataError, StructureError
from hip_ext.reference import HessianProducts, autograd_hessian
from hip_ext.refinement import SOFT, TOLERANCE, estimate_error, refine, refine_matrix, with_products
from hip_ext.refinement.error import error_from_products, random_signs
from hip_ext.refinement.search import lowest_modes
from hip_ext.shipped import shipped_checkpoints
from hip_ext.structures import Structures
from hip_ext.vibrations import analyse, rigid_modes

SMALL = HeadConfig(scalars=8, channels=4, hidden=8, pair_channels=2, coordinates=4, cutoff=3.0)
TOY = ToyBackbone()


@pytest.fixture(scope="module")
def model() -> HessianModel:
    return attach_head(ToyBackbone(), SMALL)


def symmetric(random: np.random.Generator, n: int) -> np.ndarray:
    matrix = random.normal(size=(n, n))
    return (matrix + matrix.T) / 2


def exact_and_gradient(atoms: Atoms, backbone: ToyBackbone = TOY) -> tuple[np.ndarray, np.ndarray]:
    structures = Structures.from_ase(atoms, dtype=torch.float64)
    return autograd_hessian(backbone, structures).numpy(), -backbone.evaluate(structures).forces.numpy()


def from_matrix(hessian: np.ndarray):
    return lambda vectors: (vectors.reshape(len(vectors), -1) @ hessian).reshape(vectors.shape)


def noisy(hessian: np.ndarray, seed: int, size: float = 0.3) -> np.ndarray:
    return hessian + size * symmetric(np.random.default_rng(seed), len(hessian))


# The update


@given(n=st.integers(1, 12), part=st.floats(0, 1), seed=seeds)
def test_update_is_symmetric_exact_where_asked_and_closest(n, part, seed):
    random = np.random.default_rng(seed)
    exact, predicted = symmetric(random, n), symmetric(random, n)
    directions = np.linalg.qr(random.normal(size=(n, n)))[0][:, : round(part * n)]
    directions = directions @ (np.eye(directions.shape[1]) + np.triu(random.uniform(size=(directions.shape[1],) * 2)))
    found = with_products(predicted, directions, exact @ directions)
    assert_array_equal(found, found.T)
    assert_allclose(found @ directions, exact @ directions, rtol=0, atol=1e-11 * n)
    # Pythagoras: the exact matrix is one of those with these products, and the change is orthogonal to all of them.
    left = np.linalg.norm(exact - predicted) ** 2
    assert_allclose(np.linalg.norm(exact - found) ** 2 + np.linalg.norm(found - predicted) ** 2, left, rtol=1e-9)


@given(n=st.integers(2, 10), seed=seeds)
def test_products_one_by_one_and_together_are_the_same(n, seed):
    random = np.random.default_rng(seed)
    exact, predicted = symmetric(random, n), symmetric(random, n)
    basis = np.linalg.qr(random.normal(size=(n, n)))[0]
    one_by_one = predicted
    for k in range(n):
        together = with_products(predicted, basis[:, : k + 1], exact @ basis[:, : k + 1])
        one_by_one = with_products(one_by_one, basis[:, k : k + 1], exact @ basis[:, k : k + 1])
        assert_allclose(one_by_one, together, rtol=0, atol=1e-11)
    assert_allclose(one_by_one, exact, rtol=0, atol=1e-11)


def test_noise_of_products_is_made_symmetric():
    """In float32 VᵀAV is not quite symmetric; the result is, and no further from each product than the noise."""
    random = np.random.default_rng(0)
    exact, noise = symmetric(random, 9), 1e-4 * random.normal(size=(9, 4))
    basis = np.linalg.qr(random.normal(size=(9, 9)))[0][:, :4]
    found = with_products(symmetric(random, 9), basis, exact @ basis + noise)
    assert_array_equal(found, found.T)
    assert np.linalg.norm(found @ basis - exact @ basis) <= np.linalg.norm(noise)


def test_update_refuses_what_is_no_update():
    matrix, vectors = np.eye(4), np.eye(4)[:, :2]
    with pytest.raises(DataError, match=r"expected, found \(4, 4\), \(4, 2\) and \(4, 3\)"):
        with_products(matrix, vectors, np.zeros((4, 3)))
    with pytest.raises(DataError, match="the 2 directions are not independent"):
        with_products(matrix, np.ones((4, 2)), np.ones((4, 2)))
    with pytest.raises(DataError, match="not independent"):
        with_products(matrix, np.zeros((4, 1)), np.zeros((4, 1)))
    with pytest.raises(DataError, match="must be finite"):
        with_products(matrix, vectors * np.nan, vectors)


# The search


@settings(deadline=None)
@given(n=st.integers(1, 14), seed=seeds, noise=st.floats(0, 0.5), modes=st.integers(1, 4), block=st.integers(1, 3))
def test_search_gives_upper_bounds_and_counts_its_products(n, seed, noise, modes, block):
    random = np.random.default_rng(seed)
    exact = symmetric(random, n)
    asked = []

    def multiply(vectors):
        asked.append(vectors.shape[1])
        return exact @ vectors

    found = lowest_modes(exact + noise * symmetric(random, n), multiply, products=n, modes=modes, block=block)
    made = found.directions.shape[1]
    assert (sum(asked), len(asked)) == (made, found.passes) and max(asked) <= block
    assert_allclose(found.directions.T @ found.directions, np.eye(made), atol=1e-12)
    assert_allclose(found.products, exact @ found.directions, atol=1e-12)
    levels = np.linalg.eigvalsh(exact)
    assert (found.values >= levels[:made] - 1e-10).all() and (found.gains >= -1e-10).all()
    assert found.exact(TOLERANCE)[: min(modes, n)].all()
    for value, residual in zip(found.values, found.residuals, strict=True):
        assert np.abs(levels - value).min() <= residual + 1e-10


@settings(deadline=None)
@given(n=st.integers(2, 12), seed=seeds)
def test_all_products_make_everything_exact(n, seed):
    random = np.random.default_rng(seed)
    exact = symmetric(random, n)
    found = lowest_modes(symmetric(random, n), lambda v: exact @ v, products=n, tolerance=1e-300)
    if len(found.values) == n:
        assert_allclose(found.values, np.linalg.eigvalsh(exact), atol=1e-10)
    # It ends before only if all that is left is exact by chance, to rounding.
    corrected = with_products(np.zeros((n, n)), found.directions, found.products)
    assert len(found.values) == n or np.abs(corrected - exact).max() < 1e-5


def test_next_direction_is_the_jacobi_davidson_correction():
    random = np.random.default_rng(3)
    exact = symmetric(random, 12)
    predicted = exact + 0.2 * symmetric(random, 12)
    three = lowest_modes(predicted, lambda v: exact @ v, products=3, modes=1, tolerance=1e-14)
    v, y = three.directions, three.products
    values, vectors = np.linalg.eigh(with_products(predicted, v, y))
    guess, shift = vectors[:, 0], values[0]
    outside = np.eye(12) - v @ v.T
    step = outside @ guess
    assert_allclose((outside @ predicted @ outside - shift * np.eye(12)) @ step, -outside @ y @ v.T @ guess, atol=1e-12)
    four = lowest_modes(predicted, lambda v: exact @ v, products=4, modes=1, tolerance=1e-14)
    assert abs(four.directions[:, 3] @ step) == pytest.approx(np.linalg.norm(step), rel=1e-10)


def test_without_knowledge_it_is_lanczos():
    """A prediction that is a multiple of the identity, but for its lowest vector, spans the Krylov space of that."""
    random = np.random.default_rng(4)
    exact, start = symmetric(random, 15), np.eye(15)[:, 0]
    predicted = 50 * (np.eye(15) - 0.5 * np.outer(start, start))
    found = lowest_modes(predicted, lambda v: exact @ v, products=6, modes=1, tolerance=1e-14).directions
    krylov = np.column_stack([np.linalg.matrix_power(exact, k) @ start for k in range(6)])
    basis = np.linalg.qr(krylov)[0]
    assert_allclose(found @ found.T, basis @ basis.T, atol=1e-8)


def test_modes_in_the_wrong_order_are_found():
    """The prediction's lowest mode is a stiff one, and the lowest its second: both are looked at."""
    exact = np.diag([1.0, 2.0, 3.0, 9.0])
    found = lowest_modes(np.diag([1.5, 2.0, 3.0, 0.1]), lambda v: exact @ v, products=4, modes=1)
    assert found.values[0] == 1.0 and len(found.values) == 2


# A structure with an analytic potential


@settings(deadline=None, max_examples=25)
@example(atoms=2, seed=0, part=1.0)
@given(atoms=st.integers(2, 6), seed=seeds, part=st.floats(0, 1))
def test_refined_hessian_keeps_rules_and_products(atoms, seed, part):
    structure = random_molecule(atoms, seed)
    exact, gradient = exact_and_gradient(structure)
    predicted = noisy(exact, seed)
    size = 3 * atoms - rigid_modes(structure.positions, structure.get_masses()).shape[1]
    asked = []

    def multiply(vectors):
        asked.append(vectors)
        return from_matrix(exact)(vectors)

    found = refine_matrix(structure, predicted, multiply, gradient, round(part * size))
    hessian, scale = found.hessian, max(np.abs(exact).max(), 1.0)
    assert_array_equal(hessian, hessian.T)
    rows = hessian.reshape(3 * atoms, atoms, 3).sum(1)
    assert np.abs(rows).max() <= 1e-10 * scale
    for axis in np.eye(3):
        turned, twisted = np.cross(axis, structure.positions).ravel(), np.cross(axis, gradient).ravel()
        assert_allclose(hessian @ turned, twisted, rtol=0, atol=1e-10 * scale)
    for vectors in asked:
        assert_allclose(from_matrix(hessian)(vectors), from_matrix(exact)(vectors), rtol=0, atol=1e-9 * scale)
    assert found.products == sum(map(len, asked)) <= size
    root = np.sqrt(np.repeat(structure.get_masses(), 3))
    wrong = [np.linalg.norm((h - exact) / np.outer(root, root)) for h in (hessian, predicted)]
    assert wrong[0] <= wrong[1] * (1 + 1e-12)
    # The Ritz pairs are what the refined matrix has wherever they are exact.
    lowest = analyse(structure, hessian).eigenvalues
    for value, gain in zip(found.eigenvalues, found.gains, strict=True):
        assert np.abs(lowest - (value - gain)).min() <= 1e-9 * scale
    if found.products == size:
        assert_allclose(hessian, exact, rtol=0, atol=1e-9 * scale)


@settings(deadline=None, max_examples=15)
@given(seed=seeds, products=st.integers(0, 8))
def test_a_turned_structure_has_the_turned_refined_hessian(seed, products):
    structure = random_molecule(5, seed)
    exact, gradient = exact_and_gradient(structure)
    predicted = noisy(exact, seed)
    turn = Rotation.random(random_state=seed % 1000).as_matrix()
    big = np.kron(np.eye(5), turn)
    turned = structure.copy()
    turned.positions = structure.positions @ turn.T
    ours = refine_matrix(structure, predicted, from_matrix(exact), gradient, products)
    other = big @ exact @ big.T
    found = refine_matrix(turned, big @ predicted @ big.T, from_matrix(other), gradient @ turn.T, products)
    assert_allclose(found.hessian, big @ ours.hessian @ big.T, rtol=0, atol=1e-6 * np.abs(exact).max())
    assert_allclose(found.eigenvalues, ours.eigenvalues, rtol=0, atol=1e-7 * np.abs(exact).max())


def test_lowest_modes_are_those_of_the_exact_hessian():
    for seed in range(5):
        structure = random_molecule(8, seed)
        exact, gradient = exact_and_gradient(structure)
        found = refine_matrix(structure, noisy(exact, seed, 0.1), from_matrix(exact), gradient, modes=4)
        truth = analyse(structure, exact).eigenvalues[:4]
        assert found.converged and found.exact[:4].all() and found.products < 18
        assert (np.abs(found.eigenvalues[:4] - truth) <= 3e-3 * np.maximum(np.abs(truth), SOFT)).all()
        corrected = analyse(structure, found.hessian).eigenvalues[:4]
        assert (np.abs(corrected - truth) <= 3e-3 * np.maximum(np.abs(truth), SOFT)).all()
        overlaps = np.einsum("i,kix,lix->kl", structure.get_masses(), found.modes, found.modes)
        assert_allclose(overlaps, np.eye(found.products), atol=1e-10)


@settings(deadline=None, max_examples=10)
@given(atoms=st.integers(1, 3), seed=seeds)
def test_a_crystal_keeps_its_translations_alone(atoms, seed):
    structure = random_crystal(atoms, seed)
    exact, gradient = exact_and_gradient(structure)
    scale = max(np.abs(exact).max(), 1e-9)
    full = refine_matrix(structure, noisy(exact, seed), from_matrix(exact), gradient, 3 * atoms)
    assert full.products == 3 * atoms - 3
    assert_allclose(full.hessian, exact, rtol=0, atol=1e-8 * scale)


@pytest.mark.parametrize("name", ["CO2", "H2", "C2H2"])
def test_linear_molecules_have_one_mode_more(name, model):
    atoms = molecule(name)
    exact, _ = exact_and_gradient(atoms)
    found = refine(model, atoms, 3 * len(atoms))
    assert found.products == 3 * len(atoms) - 5 and found.converged
    assert_allclose(found.hessian, exact, rtol=0, atol=1e-9 * np.abs(exact).max())


def test_a_single_atom_has_nothing_to_refine(model):
    found = refine(model, Atoms("C", positions=[[1, 2, 3]]))
    assert (found.products, found.converged, found.modes.shape) == (0, True, (0, 1, 3))
    assert_allclose(found.hessian, np.zeros((3, 3)), atol=1e-12)


def test_fixed_atoms_stay_where_they_are(model):
    atoms = random_molecule(6, 2)
    atoms.set_constraint(FixAtoms([0, 3, 4]))
    exact, _ = exact_and_gradient(atoms)
    truth = analyse(atoms, exact)
    found = refine(model, atoms, modes=2)
    assert found.converged and found.products <= 9
    assert_array_equal(found.modes[:, [0, 3, 4]], 0)
    assert_allclose(found.eigenvalues[:2], truth.eigenvalues[:2], rtol=3e-3, atol=3e-3 * SOFT)
    assert np.abs(found.hessian.reshape(18, 6, 3).sum(1)).max() <= 1e-10 * np.abs(exact).max()
    full = refine(model, atoms, 9)
    assert_allclose(analyse(atoms, full.hessian).eigenvalues, truth.eigenvalues, rtol=1e-9, atol=1e-9)
    atoms.set_constraint(FixAtoms([4]))
    full = refine(model, atoms, np.int64(15))
    assert full.products == 15
    assert_allclose(full.hessian, exact, rtol=0, atol=1e-8 * np.abs(exact).max())
    atoms.set_constraint(FixAtoms(range(6)))
    with pytest.raises(StructureError, match="all 6 atoms are fixed"):
        refine(model, atoms)


# Products by automatic differentiation


def test_products_by_and_by_are_those_of_the_matrix(model):
    atoms = random_molecule(5, 1)
    structures = model.structures(atoms)
    exact, gradient = exact_and_gradient(atoms)
    products = HessianProducts(model.backbone, structures)
    assert_allclose(products.gradient.numpy(), gradient, rtol=0, atol=1e-12)
    random = np.random.default_rng(0)
    for shape in ((5, 3), (1, 5, 3), (4, 5, 3), (0, 5, 3)):
        vectors = random.normal(size=shape)
        found = products(torch.as_tensor(vectors)).numpy()
        expected = (vectors.reshape(-1, 15) @ exact).reshape(shape)
        assert_allclose(found, expected, rtol=0, atol=1e-10)
    with pytest.raises(StructureError, match=r"expected \[5, 3\]"):
        products(torch.zeros(4, 3))


def test_an_untrained_head_is_refined_to_the_exact_hessian(model):
    atoms = random_molecule(6, 5)
    exact, _ = exact_and_gradient(atoms)
    assert_allclose(refine(model, atoms, 99).hessian, exact, rtol=0, atol=1e-9 * np.abs(exact).max())
    lowest = refine(model, atoms)
    assert lowest.converged and lowest.products <= 12
    assert_allclose(lowest.eigenvalues[0], analyse(atoms, exact).eigenvalues[0], rtol=3e-3)


def test_products_in_single_precision_keep_translations_to_rounding_of_double():
    model = attach_head(ToyBackbone.load(dtype=torch.float32), SMALL)
    atoms = random_molecule(6, 5)
    exact, _ = exact_and_gradient(atoms)
    hessian = refine(model, atoms, 12).hessian
    assert np.abs(hessian.reshape(18, 6, 3).sum(1)).max() <= 1e-10 * np.abs(exact).max()
    assert_allclose(hessian, exact, rtol=0, atol=1e-4 * np.abs(exact).max())


@pytest.fixture(scope="module")
def so3lr() -> HessianModel:
    pytest.importorskip("so3krates_torch", reason="needs so3krates-torch")
    if DEFAULT_MODEL not in shipped_checkpoints():
        pytest.skip(f"the checkpoint {DEFAULT_MODEL} is not in this checkout")
    return from_pretrained(DEFAULT_MODEL, dtype=torch.float64)


def test_so3lr_is_refined_by_its_own_products(so3lr):
    """By all products, and by those that three modes take, which are few with the head that ships."""
    atoms = molecule("CH3OH")
    atoms.rattle(0.05, seed=2)
    exact = autograd_hessian(so3lr.backbone, so3lr.structures(atoms)).numpy()
    assert_allclose(refine(so3lr, atoms, 18).hessian, exact, rtol=0, atol=1e-10 * np.abs(exact).max())
    found, truth = refine(so3lr, atoms, modes=3), analyse(atoms, exact).eigenvalues[:3]
    assert found.converged and found.products <= 8
    assert_allclose(found.eigenvalues[:3], truth, rtol=3e-3)
    assert_allclose(analyse(atoms, found.hessian).eigenvalues[:3], truth, rtol=3e-3)


# The calculator


def test_calculator_refines_and_keeps_what_it_made(model, monkeypatch):
    atoms = random_molecule(5, 7)
    calc = HessianCalculator(model)
    found = calc.get_hessian(atoms, refine=3)
    assert_array_equal(found, refine(model, atoms, 3).hessian)
    assert_array_equal(calc.get_hessian(atoms, refine="lowest"), model.refined_hessian(atoms).hessian)
    heavier = atoms.copy()
    heavier.set_masses(atoms.get_masses() * np.linspace(1, 3, 5))
    assert np.abs(calc.get_hessian(heavier, refine=3) - found).max() > 1e-8
    vibrations = calc.get_vibrations(atoms, refine="lowest")
    assert_allclose(vibrations.eigenvalues, analyse(atoms, model.refined_hessian(atoms).hessian).eigenvalues)
    with monkeypatch.context() as patch:
        patch.setattr(model, "refined_hessian", None)
        found += 1  # a copy: what is kept does not change
        assert_array_equal(calc.get_hessian(atoms, refine=3) + 1, found)
    assert_array_equal(calc.get_hessian(atoms), calc.get_hessian(atoms, refine=0))


@pytest.mark.parametrize("wrong", [-1, 2.0, True, "low", None])
def test_calculator_refuses_what_is_no_number_of_products(model, wrong):
    with pytest.raises(ConfigError, match='expected a number of exact products, or "lowest"'):
        HessianCalculator(model).get_hessian(molecule("H2O"), refine=wrong)


def test_bad_input_is_refused_before_anything_is_computed(model):
    water = molecule("H2O")
    with pytest.raises(ConfigError, match="'autograd' is exact already"):
        HessianCalculator(model).get_hessian(water, "autograd", refine=2)
    for options in ({"products": -1}, {"products": 1.5}, {"modes": 0}, {"block": 0}, {"tolerance": 0.0}):
        with pytest.raises(ConfigError, match=r"expected a (whole|positive) number"):
            refine(model, water, **options)
    with pytest.raises(DataError, match="not symmetric"):
        refine_matrix(water, np.triu(np.ones((9, 9))), from_matrix(np.eye(9)), np.zeros((3, 3)))
    with pytest.raises(BackboneError, match="does not know"):
        refine(model, Atoms("Au2", positions=[[0, 0, 0], [0, 0, 2.5]]))


class DetachedToy(ToyBackbone):
    def energy(self, inputs):
        return super().energy({**inputs, "positions": inputs["positions"].detach()})


def test_energies_that_cannot_be_differentiated_are_refused():
    model = attach_head(DetachedToy(), SMALL)
    for work in (lambda a: refine(model, a, 2), lambda a: estimate_error(model, a)):
        with pytest.raises(BackboneError, match="cannot be differentiated twice"):
            work(molecule("H2O"))


# The estimate


@settings(deadline=None, max_examples=20)
@given(seed=seeds, atoms=st.integers(1, 4))
def test_error_estimate_has_no_bias(seed, atoms):
    random = np.random.default_rng(seed)
    exact, predicted = symmetric(random, 3 * atoms), symmetric(random, 3 * atoms)
    signs = random_signs(atoms, 4000, seed)
    found = error_from_products(predicted, signs, from_matrix(exact)(signs))
    error = predicted - exact
    assert_allclose(found.rms, np.sqrt((error**2).mean()), rtol=0.1)
    assert_allclose(found.relative, np.linalg.norm(error) / np.linalg.norm(exact), rtol=0.2)
    rows = np.sqrt((error.reshape(atoms, -1) ** 2).mean(1))
    assert_allclose(found.atoms, rows, rtol=0.2)


def test_error_estimate_of_a_model_is_that_of_its_products(model):
    atoms = random_molecule(6, 3)
    exact, _ = exact_and_gradient(atoms)
    found = estimate_error(model, atoms, products=3, seed=5)
    signs = random_signs(6, 3, 5)
    predicted = model.hessian(atoms).dense().numpy()
    expected = error_from_products(predicted, signs, from_matrix(exact)(signs))
    assert_allclose([found.rms, found.relative, *found.atoms], [expected.rms, expected.relative, *expected.atoms])
    assert found.products == 3
    assert estimate_error(model, atoms, hessian=exact).rms < 1e-10
    for wrong in (0, -1, 1.0, True):
        with pytest.raises(ConfigError, match="expected a whole number from 1"):
            estimate_error(model, atoms, wrong)
    with pytest.raises(DataError, match="must have shape"):
        estimate_error(model, atoms, hessian=np.eye(3))
