"""Training losses on constructed cases with known answers, and against plain reference formulas."""

import numpy as np
import pytest
import torch
from ase.build import molecule

from hip_ext.blocks import HessianBlocks
from hip_ext.data.record import HessianRecord
from hip_ext.pairs import pair_graph
from hip_ext.structures import Structures
from hip_ext.training.batches import collate
from hip_ext.training.losses import energy_loss, entry_errors, entry_loss, force_loss, product_loss, subspace_loss
from hip_ext.training.motions import lowest_modes, twists
from hip_ext.vibrations import analyse

NAMES = ["H2O", "CH3OH", "C2H4"]


def symmetric(n, rng):
    matrix = rng.normal(size=(3 * n, 3 * n))
    return matrix + matrix.T


def record(name, rng, **labels):
    atoms = molecule(name)
    return HessianRecord(numbers=atoms.numbers, positions=atoms.positions, **labels)


def blocks_of(matrices, structures):
    """Blocks of given symmetric matrices on the complete graph."""
    graph = pair_graph(structures, float("inf"))
    pair, diagonal = [], torch.zeros(structures.num_atoms, 3, 3, dtype=torch.float64)
    system = structures.batch
    views = [torch.as_tensor(m).view(len(m) // 3, 3, len(m) // 3, 3) for m in matrices]
    for i, j in zip(graph.first.tolist(), graph.second.tolist(), strict=True):
        start = int(structures.ptr[system[i]])
        pair.append(views[int(system[i])][i - start, :, j - start])
    for i in range(structures.num_atoms):
        place = i - int(structures.ptr[system[i]])
        diagonal[i] = views[int(system[i])][place, :, place]
    return HessianBlocks(torch.stack(pair), diagonal, graph, structures.ptr)


@pytest.fixture
def case():
    """Full, partial and no Hessian labels in one batch, and predictions that differ from them."""
    rng = np.random.default_rng(0)
    records = [record(name, rng) for name in NAMES]
    sizes = [len(r.numbers) for r in records]
    predicted = [symmetric(n, rng) for n in sizes]
    exact = [symmetric(n, rng) for n in sizes]
    full = records[0].with_hessian(exact[0])
    rows = exact[1].reshape(sizes[1], 3, sizes[1], 3)[[4, 1]]
    partial = HessianRecord(
        numbers=records[1].numbers, positions=records[1].positions, labelled=np.array([4, 1]), rows=rows
    )
    batch = collate([full, partial, records[2]], [0, 1, 2], torch.float64, twist_count=3, modes=4, seed=(5,))
    return batch, blocks_of(predicted, batch.structures), predicted, exact


def test_entry_loss_is_the_mean_of_each_structure(case):
    batch, blocks, predicted, exact = case
    errors = entry_errors(blocks, batch.entries)
    n = len(predicted[1]) // 3
    chosen = (predicted[1] - exact[1]).reshape(n, 3, n, 3)[[4, 1]]
    expected = [np.abs(predicted[0] - exact[0]).mean(), np.abs(chosen).mean(), 0.0]
    np.testing.assert_allclose(entry_loss(errors, batch.entries, 3), expected, rtol=1e-12)
    squares = [np.square(predicted[0] - exact[0]).mean(), np.square(chosen).mean(), 0.0]
    np.testing.assert_allclose(entry_loss(errors, batch.entries, 3, power=2), squares, rtol=1e-12)


def test_diagonal_and_other_blocks_are_weighted_apart(case):
    batch, blocks, predicted, exact = case
    errors = entry_errors(blocks, batch.entries)
    n = len(predicted[0]) // 3
    error = np.abs(predicted[0] - exact[0])
    diagonal = np.kron(np.eye(n), np.ones((3, 3)))
    found = entry_loss(errors, batch.entries, 3, diagonal=2.0, off_diagonal=0.5)
    expected = (error * (2.0 * diagonal + 0.5 * (1 - diagonal))).mean()
    np.testing.assert_allclose(found[0], expected, rtol=1e-12)
    only = entry_loss(errors, batch.entries, 3, diagonal=0.0, off_diagonal=1.0)
    np.testing.assert_allclose(only[0], (error * (1 - diagonal)).mean(), rtol=1e-12)


def test_a_large_molecule_counts_no_more_than_a_small_one():
    rng = np.random.default_rng(1)
    records = [record(name, rng) for name in ("H2", "C6H6")]
    records = [r.with_hessian(np.zeros((3 * len(r.numbers),) * 2)) for r in records]
    batch = collate(records, [0, 1], torch.float64)
    predicted = blocks_of([np.full((6, 6), 2.0), np.full((36, 36), 2.0)], batch.structures)
    found = entry_loss(entry_errors(predicted, batch.entries), batch.entries, 2)
    np.testing.assert_allclose(found, [2.0, 2.0], rtol=1e-12)


def test_twist_loss_reads_the_labelled_rows_alone(case):
    batch, blocks, predicted, exact = case
    found = product_loss(blocks, batch.twists, batch.structures)
    expected = []
    for number, rows in ((0, [0, 1, 2]), (1, [4, 1])):
        n = len(predicted[number]) // 3
        positions = molecule(NAMES[number]).positions
        fields = twists(positions, np.random.default_rng([5, number]), 3)
        error = (predicted[number] - exact[number]).reshape(n, 3, n, 3)[rows]
        expected.append(np.abs(np.einsum("kxny,cny->ckx", error, fields)).mean())
    np.testing.assert_allclose(found, [*expected, 0.0], rtol=1e-12)


def test_product_loss_compares_along_the_probes():
    rng = np.random.default_rng(2)
    records, predicted, expected = [], [], []
    for name, count in (("H2O", 2), ("CH4", 5), ("NH3", 0)):
        atoms = molecule(name)
        n = len(atoms)
        predicted.append(symmetric(n, rng))
        probes, products = rng.normal(size=(2, count, n, 3))
        labels = {"probes": probes, "products": products} if count else {}
        records.append(HessianRecord(numbers=atoms.numbers, positions=atoms.positions, **labels))
        images = (probes.reshape(count, 3 * n) @ predicted[-1]).reshape(count, n, 3)
        expected.append(np.abs(images - products).mean() if count else 0.0)
    batch = collate(records, [0, 1, 2], torch.float64)
    found = product_loss(blocks_of(predicted, batch.structures), batch.products, batch.structures)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert batch.entries is None and batch.twists is None and batch.subspace is None


def test_subspace_is_that_of_the_vibrations_and_not_of_rigid_motions():
    atoms = molecule("CH3OH")
    hessian = symmetric(len(atoms), np.random.default_rng(3))
    modes, values = lowest_modes(atoms, hessian, 5)
    vibrations = analyse(atoms, hessian)
    np.testing.assert_allclose(values, vibrations.eigenvalues[:5], rtol=1e-10)
    flat = modes.reshape(5, -1)
    np.testing.assert_allclose(flat @ hessian @ flat.T, np.diag(values), atol=1e-9)
    weights = np.repeat(atoms.get_masses(), 3)
    np.testing.assert_allclose(flat @ (weights[:, None] * np.tile(np.eye(3), (len(atoms), 1))), 0.0, atol=1e-9)


def test_subspace_loss_is_zero_for_the_truth_and_the_error_in_its_lowest_modes_otherwise():
    rng = np.random.default_rng(4)
    atoms, small = molecule("CH3OH"), molecule("H2")
    exact, tiny = symmetric(len(atoms), rng), symmetric(2, rng)
    records = [
        HessianRecord(numbers=a.numbers, positions=a.positions).with_hessian(h)
        for a, h in ((atoms, exact), (small, tiny))
    ]
    batch = collate(records, [0, 1], torch.float64, modes=3)
    right = subspace_loss(blocks_of([exact, tiny], batch.structures), batch.subspace, batch.structures)
    np.testing.assert_allclose(right, 0.0, atol=1e-10)
    # H2 has one mode, whatever is asked for; a shift by s of its mass-weighted Hessian shifts that mode by s.
    masses = np.repeat(small.get_masses(), 3)
    shifted = tiny + 0.7 * np.diag(masses)
    wrong = exact + 0.3 * np.diag(np.repeat(atoms.get_masses(), 3))
    found = subspace_loss(blocks_of([wrong, shifted], batch.structures), batch.subspace, batch.structures)
    np.testing.assert_allclose(found, [0.3 * 3 / 9, 0.7], rtol=1e-9)


def test_nothing_is_differentiated_through_an_eigensolver(case):
    batch, blocks, _, _ = case
    pair = blocks.pair.requires_grad_(True)
    moving = HessianBlocks(pair, blocks.diagonal, blocks.graph, blocks.ptr)
    loss = subspace_loss(moving, batch.subspace, batch.structures)
    assert not batch.subspace.modes.requires_grad
    (gradient,) = torch.autograd.grad(loss.sum(), pair)
    assert gradient[: int(3 * 2 / 2)].abs().sum() > 0
    assert gradient[3:].abs().sum() == 0


def test_energy_and_force_losses_leave_out_what_is_unknown():
    rng = np.random.default_rng(6)
    first = record("H2O", rng, energy=2.0, forces=np.zeros((3, 3)))
    batch = collate([first, record("CH4", rng)], [0, 1], torch.float64)
    structures = batch.structures
    energy = torch.tensor([3.5, 100.0], dtype=torch.float64)
    found = energy_loss(energy, batch.energy, batch.known["energy"], structures)
    np.testing.assert_allclose(found, [0.5, 0.0])
    forces = torch.ones(8, 3, dtype=torch.float64)
    forces[0] = -4.0
    found = force_loss(forces, batch.forces, batch.known["forces"], structures)
    np.testing.assert_allclose(found, [(4 + 1 + 1) / 3, 0.0])


def test_twists_are_at_most_one_long_and_rigid_rotations_are_among_them():
    positions = molecule("CH3CH2OH").positions
    fields = twists(positions, np.random.default_rng(0), 40)
    assert fields.shape == (40, len(positions), 3)
    np.testing.assert_allclose(np.linalg.norm(fields, axis=2).max(axis=1), 1.0, rtol=1e-12)
    arm = positions[:, None] - positions[None]
    strain = [np.abs((arm * (field[:, None] - field[None])).sum(-1)).max() for field in fields]
    assert min(strain) < 1e-12
    assert max(strain) > 1e-3


def test_a_batch_carries_charge_spin_and_cell():
    charged = HessianRecord(
        numbers=np.array([8, 1]), positions=np.array([[0, 0, 0], [0, 0, 1.0]]), charge=-1.0, unpaired=2.0,
        cell=np.eye(3) * 4, pbc=np.array([True, True, True]),
    )  # fmt: skip
    structures = collate([charged, record("H2O", None)], [0, 1], torch.float64).structures
    expected = Structures.from_ase([charged.atoms(), molecule("H2O")])
    for name in ("numbers", "positions", "cell", "pbc", "charge", "unpaired", "ptr", "batch"):
        assert torch.equal(getattr(structures, name), getattr(expected, name))
