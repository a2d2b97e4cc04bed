"""The HIP-style readout that ours is compared with: its symmetry, its equivariance, and what it does not promise."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from scipy.spatial.transform import Rotation
from torch import Tensor
from toy_backbone import ToyBackbone

from hip_ext.head import HeadConfig, HessianHead
from hip_ext.structures import Structures

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

pytest.importorskip("hip_style", reason="the benchmarks are not part of an installed package")
from hip_style import heads, sphere
from hip_style.data import Example, block_samples, measure, predict
from hip_style.head import HipStyleHead, matrix_of
from hip_style.training import Recipe, fit, losses_of, train
from hip_style_comparison import folds_by_formula

from hip_ext.data.record import HessianRecord
from hip_ext.reference import autograd_hessian

WIDTHS = (12, 6, 6)


@pytest.fixture(scope="module")
def backbone() -> ToyBackbone:
    return ToyBackbone.load(cutoff=4.0)


def chiral() -> Atoms:
    """A molecule without any symmetry."""
    atoms = molecule("CH3CH2OH")
    atoms.positions += np.random.default_rng(3).normal(scale=0.1, size=atoms.positions.shape)
    return atoms


def hessian(head: torch.nn.Module, backbone: ToyBackbone, atoms: Atoms) -> Tensor:
    structures = Structures.from_ase(atoms)
    with torch.no_grad():
        return head(backbone.features(backbone.prepare(structures)), structures).dense()


def made(make: object, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return make(WIDTHS).double()  # type: ignore[operator]


def sum_rule(matrix: Tensor) -> float:
    n = len(matrix) // 3
    return float(matrix.view(3 * n, n, 3).sum(1).abs().max())


EVERY = {**heads.HEADS, **heads.ABLATIONS}


@pytest.mark.parametrize("name", EVERY)
def test_every_head_turns_with_the_molecule_and_is_symmetric(name, backbone):
    head, atoms = made(EVERY[name]), chiral()
    matrix = hessian(head, backbone, atoms)
    assert matrix.abs().max() > 1e-2
    torch.testing.assert_close(matrix, matrix.T, rtol=0, atol=0)
    rotation = Rotation.from_rotvec([0.4, -1.1, 0.7]).as_matrix()
    turned = atoms.copy()
    turned.positions = atoms.positions @ rotation.T + [1.0, -2.0, 3.0]
    block = torch.block_diag(*[torch.from_numpy(rotation)] * len(atoms))
    torch.testing.assert_close(hessian(head, backbone, turned), block @ matrix @ block.T, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", heads.HEADS)
def test_renumbered_atoms_and_batches_change_nothing(name, backbone):
    head, atoms, water = made(heads.HEADS[name]), chiral(), molecule("H2O")
    matrix = hessian(head, backbone, atoms)
    order = np.random.default_rng(0).permutation(len(atoms))
    rows = (3 * order[:, None] + np.arange(3)).ravel()
    torch.testing.assert_close(hessian(head, backbone, atoms[order]), matrix[rows][:, rows], rtol=0, atol=1e-10)
    structures = Structures.from_ase([water, atoms])
    with torch.no_grad():
        found = head(backbone.features(backbone.prepare(structures)), structures).dense_list()
    torch.testing.assert_close(found[0], hessian(head, backbone, water), rtol=0, atol=1e-10)
    torch.testing.assert_close(found[1], matrix, rtol=0, atol=1e-10)


def test_only_ours_obeys_the_translation_rule(backbone):
    matrices = {name: hessian(made(make), backbone, chiral()) for name, make in EVERY.items()}
    free = {heads.HIP_STYLE, heads.HIP_STYLE_SCALED, "no translation rule, a diagonal of its own"}
    for name, matrix in matrices.items():
        assert sum_rule(matrix) > 1e-2 if name in free else sum_rule(matrix) < 1e-10, name


def test_the_baseline_promises_rotations_only_and_ours_inversions_too(backbone):
    atoms = chiral()
    mirrored = atoms.copy()
    mirrored.positions *= -1
    ours, theirs = made(heads.HEADS[heads.OURS]), made(heads.HEADS[heads.HIP_STYLE])
    torch.testing.assert_close(hessian(ours, backbone, mirrored), hessian(ours, backbone, atoms), rtol=0, atol=1e-10)
    assert (hessian(theirs, backbone, mirrored) - hessian(theirs, backbone, atoms)).abs().max() > 1e-3


def test_blocks_of_the_baseline_are_no_symmetric_matrices(backbone):
    matrix = hessian(made(heads.HEADS[heads.HIP_STYLE]), backbone, chiral())
    block = matrix[:3, 3:6]
    assert (block - block.T).abs().max() > 1e-3
    block = hessian(made(heads.ABLATIONS["no antisymmetric part"]), backbone, chiral())[:3, 3:6]
    torch.testing.assert_close(block, block.T, rtol=0, atol=1e-14)


def test_the_free_axis_of_an_edge_frame_does_not_matter(backbone, monkeypatch):
    head, atoms = made(heads.HEADS[heads.HIP_STYLE]), chiral()
    matrix = hessian(head, backbone, atoms)

    def otherwise(unit: Tensor) -> Tensor:
        frames = sphere.edge_frames(unit)
        angle = torch.linspace(0, 5, len(unit), dtype=unit.dtype)
        c, s = angle.cos()[:, None], angle.sin()[:, None]
        return torch.stack((c * frames[:, 0] + s * frames[:, 1], c * frames[:, 1] - s * frames[:, 0], unit), dim=1)

    monkeypatch.setattr("hip_style.head.edge_frames", otherwise)
    torch.testing.assert_close(hessian(head, backbone, atoms), matrix, rtol=0, atol=1e-10)


def test_wigner_matrices_turn_matrices():
    rotation = torch.from_numpy(Rotation.random(5, rng=np.random.default_rng(1)).as_matrix())
    unsorted = torch.argsort(torch.tensor(sphere.BY_ORDER))
    matrix = sphere.wigner(rotation)[:, unsorted]
    x = torch.randn(5, 9, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = rotation @ matrix_of(x) @ rotation.transpose(1, 2)
    torch.testing.assert_close(matrix_of(matrix @ x), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(matrix_of(x).pow(2).sum((1, 2)), x.pow(2).sum((1, 2)), rtol=0, atol=1e-12)


def test_products_on_the_small_grid_are_those_of_a_fine_one():
    one, other = torch.randn(2, 4, 9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    points = torch.from_numpy(Rotation.random(1, rng=np.random.default_rng(2)).as_matrix()[0])
    height, weight = np.polynomial.legendre.leggauss(12)
    angle = np.arange(25) * 2 * np.pi / 25
    z, phi = np.repeat(height, 25), np.tile(angle, 12)
    rim = np.sqrt(1 - z**2)
    x, y, z = points.numpy() @ np.stack((rim * np.cos(phi), rim * np.sin(phi), z))
    rows = [np.ones_like(x), *(3**0.5 * np.stack((y, z, x)))]
    rows += [15**0.5 * x * y, 15**0.5 * y * z, 5**0.5 / 2 * (3 * z * z - 1), 15**0.5 * x * z]
    harmonics = torch.from_numpy(np.array([*rows, 15**0.5 / 2 * (x * x - y * y)]))
    mean = torch.from_numpy(np.repeat(weight, 25)) / 50
    values = torch.einsum("ag,nac->ngc", harmonics, one) * torch.einsum("ag,nac->ngc", harmonics, other)
    expected = torch.einsum("ag,g,ngc->nac", harmonics, mean, values)
    torch.testing.assert_close(sphere.sphere_product(one, other), expected, rtol=0, atol=1e-12)


def test_convolutions_commute_with_turns_about_the_edge():
    torch.manual_seed(0)
    layer = sphere.LinearSO2(3, 4, extra=2).double()
    turn = torch.from_numpy(Rotation.from_rotvec([0, 0, 0.9]).as_matrix())[None]
    matrix = sphere.wigner(turn)[:, :, sphere.BY_ORDER]
    x = torch.randn(6, 9, 3, dtype=torch.float64)
    (out, extra), (turned, same) = layer(x), layer(matrix @ x)
    torch.testing.assert_close(turned, matrix @ out, rtol=0, atol=1e-12)
    torch.testing.assert_close(same, extra, rtol=0, atol=1e-12)
    flip = torch.tensor([1, 1, 1, 1, 1, -1, -1, 1, -1], dtype=torch.float64)[:, None]
    assert (layer(flip * x)[0] - flip * out).abs().max() > 1e-2  # y → −y is no symmetry of SO(2)


def examples(backbone: ToyBackbone) -> list[Example]:
    found = []
    for seed, name in enumerate(["H2O", "NH3", "CH4", "H2O", "CH3OH", "HCN"]):
        atoms = molecule(name)
        atoms.positions += np.random.default_rng(seed).normal(scale=0.05, size=atoms.positions.shape)
        structures = Structures.from_ase(atoms)
        exact = autograd_hessian(backbone, structures).numpy()
        record = HessianRecord.from_atoms(atoms).with_hessian(exact)
        with torch.no_grad():
            features = backbone.features(backbone.prepare(structures))
        found.append(Example(record, features, torch.arange(len(atoms)), torch.from_numpy(record.rows)))
    return found


@pytest.mark.parametrize("name", EVERY)
def test_training_lowers_the_error_and_holds_what_is_held(name, backbone):
    data, head = examples(backbone), made(EVERY[name])
    fit(head, data)
    with torch.no_grad():
        before = float(losses_of(head, data, np.random.default_rng(0))[0])
    report = train(head, data, Recipe(steps=25, learning_rate=5e-3, batch=3))
    assert report["steps"] == 25
    with torch.no_grad():
        assert float(losses_of(head, data, np.random.default_rng(0))[0]) < 0.9 * before
    if name == "no products of both atoms":
        reduced = head.config.pair_channels
        assert head.blocks.coefficients.weight[-2 * reduced :].abs().max() == 0
        assert head.blocks.coefficients.bias[-2 * reduced :].abs().max() == 0
        assert head.encode.from_invariants.weight[:, -2 * reduced :].abs().max() == 0
    if name == "no three-body part":
        assert head.curvature.weight.abs().max() == 0


def test_every_part_of_the_baseline_learns(backbone):
    head, data = made(heads.HEADS[heads.HIP_STYLE]), examples(backbone)
    entries, turned = losses_of(head, data, np.random.default_rng(0))
    (entries + turned).backward()
    idle = {name for name, p in head.named_parameters() if p.grad is None or p.grad.abs().max() == 0}
    # D_i + D_iᵀ has no antisymmetric part, whatever the nodes say of one.
    assert idle == {"node_read.degrees.1.weight"}


def test_usual_sizes_of_blocks(backbone):
    data = examples(backbone)[:1]
    distance, pair, diagonal = block_samples(data)
    exact, positions = data[0].record.hessian(), data[0].record.positions
    blocks = exact.reshape(3, 3, 3, 3).transpose(0, 2, 1, 3)
    norms = np.linalg.norm(blocks, axis=(2, 3))
    np.testing.assert_allclose(diagonal, np.diag(norms), rtol=1e-12)
    np.testing.assert_allclose(pair, norms[~np.eye(3, dtype=bool)], rtol=1e-12)
    separations = np.linalg.norm(positions[:, None] - positions, axis=2)
    np.testing.assert_allclose(distance, separations[~np.eye(3, dtype=bool)], rtol=1e-6)
    head = HipStyleHead(WIDTHS).double()
    head.fit_scale(distance, pair, diagonal)
    np.testing.assert_allclose(float(head.diagonal_scale), np.sqrt((np.diag(norms) ** 2).mean()) / 3, rtol=1e-12)


def test_a_measured_prediction(backbone):
    example = examples(backbone)[4]
    head = HessianHead(WIDTHS, HeadConfig(layers=0)).double()
    found = measure(head, example)
    with torch.no_grad():
        error = predict(head, [example])[0].numpy() - example.record.hessian()
    assert found["hessian_mae"] == pytest.approx(np.abs(error).mean(), rel=1e-12)
    assert found["mean_abs"] == pytest.approx(np.abs(example.record.hessian()).mean(), rel=1e-12)
    assert found["sum_rule"] < 1e-10
    assert 0 <= found["overlap"] <= 1
    assert found["seconds"] > 0


def test_folds_keep_a_formula_together(backbone):
    data = examples(backbone)
    folds = folds_by_formula(data, 3)
    assert sorted(k for fold in folds for k in fold) == list(range(6))
    assert sorted(map(len, folds)) == [2, 2, 2]
    formulas = [{data[k].record.atoms().get_chemical_formula() for k in fold} for fold in folds]
    assert all(not a & b for a, b in [*pairwise(formulas), (formulas[0], formulas[2])])
