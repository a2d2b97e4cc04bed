"""The exact rules against pseudo-inverses and exact Hessians."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import assert_close, crystals, random_crystal, random_molecule, seeds
from torch import Tensor
from toy_backbone import ToyBackbone

from hip_ext.pairs import PairGraph, pair_graph
from hip_ext.radial import envelope
from hip_ext.structures import Structures
from hip_ext.sum_rules import cross_matrix, with_acoustic_diagonal, with_rigid_body_rule, without_remainder

CUTOFF = 3.5


def random_pairs(
    many: list[Atoms], seed: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, PairGraph, Structures]:
    """Random blocks that fade with the distance, and the weights of the pairs."""
    structures = Structures.from_ase(many, dtype=dtype)
    graph = pair_graph(structures, CUTOFF)
    weight = envelope(graph.distance, CUTOFF)
    noise = torch.randn(len(weight), 3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return noise.to(dtype) * weight[:, None, None], weight, graph, structures


def row_sums(pair: Tensor, graph: PairGraph, n: int) -> Tensor:
    total = torch.zeros(n, 3, 3, dtype=pair.dtype)
    for i, j, block in zip(graph.first.tolist(), graph.second.tolist(), pair, strict=True):
        total[i] += block
        total[j] += block.T
    return total


def assert_translation_rule(pair: Tensor, weight: Tensor, graph: PairGraph, structures: Structures) -> None:
    found = without_remainder(pair, weight, graph, structures.ptr)
    scale = max(float(pair.abs().max()), 1e-300) if len(pair) else 1.0
    total = row_sums(found, graph, structures.num_atoms)
    assert_close(total, total.transpose(1, 2), 1e-10, scale)
    blocks = with_acoustic_diagonal(found, graph, structures.ptr)
    assert torch.equal(blocks.diagonal, blocks.diagonal.transpose(1, 2))
    ones = torch.eye(3, dtype=torch.float64).repeat(structures.num_atoms, 1, 1)
    assert_close(blocks.matvec(ones), torch.zeros_like(ones), 1e-10, scale)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), seeds)
@settings(max_examples=15, deadline=None)
def test_rows_of_molecules_add_up_to_zero(sizes, seed):
    many = [random_molecule(n, seed + k) for k, n in enumerate(sizes)]
    assert_translation_rule(*random_pairs(many, seed))


@given(crystals(), seeds)
@settings(max_examples=10, deadline=None)
def test_rows_of_crystals_add_up_to_zero(atoms, seed):
    assert_translation_rule(*random_pairs([atoms, Atoms("He")], seed))


def test_correction_is_the_least_one_in_the_weights():
    """Σ |δ_p|²/w_p is least over all corrections that leave symmetric row sums: a constrained least squares problem."""
    pair, weight, graph, structures = random_pairs([random_molecule(6, 3)], 3)
    n, p = 6, len(weight)
    change = without_remainder(pair, weight, graph, structures.ptr) - pair
    assert_close(change, -change.transpose(1, 2), 1e-12)
    total = row_sums(pair, graph, n)
    wanted = (total - total.transpose(1, 2)) / 2
    incidence = torch.zeros(n, p, dtype=torch.float64)
    incidence[graph.first, torch.arange(p)] = 1
    incidence[graph.second, torch.arange(p)] = -1
    root = weight.sqrt()
    expected = root[:, None] * (torch.linalg.pinv(incidence * root) @ -wanted.reshape(n, 9))
    assert_close(change.reshape(p, 9), expected, 1e-9)


def test_parts_that_do_not_touch_do_not_hear_of_each_other():
    near, far = random_molecule(5, 1), random_molecule(4, 2)
    far.positions += 40
    pair, weight, graph, structures = random_pairs([near + far], 5)
    together = without_remainder(pair, weight, graph, structures.ptr)
    own = graph.first < 5
    alone_graph = pair_graph(Structures.from_ase(near), CUTOFF)
    alone = without_remainder(pair[own], weight[own], alone_graph, torch.tensor([0, 5]))
    assert_close(together[own], alone, 1e-12)


@pytest.mark.parametrize(("dtype", "width"), [(torch.float32, 0.1), (torch.float64, 1e-3)])
def test_atoms_at_the_very_edge_stay_finite(dtype, width):
    """Where every weight of a structure is nearly zero, so is every correction: none is larger than its blocks."""
    random = np.random.default_rng(0)
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(8)
    for seed in range(30):
        atoms = Atoms("He4", corners * (CUTOFF - width * random.uniform()) + 0.2 * width * random.normal(size=(4, 3)))
        pair, weight, graph, structures = random_pairs([atoms], seed, dtype)
        if len(pair):
            change = without_remainder(pair, weight, graph, structures.ptr) - pair
            assert float(change.abs().max()) <= 3 * float(pair.abs().max())


def test_single_precision_holds_the_rule_for_long_chains():
    random = np.random.default_rng(1)
    steps = random.normal(size=(150, 3)) * 0.25 + [1.4, 0, 0]
    pair, weight, graph, structures = random_pairs([Atoms("C150", np.cumsum(steps, 0))], 1, torch.float32)
    total = row_sums(without_remainder(pair, weight, graph, structures.ptr).double(), graph, 150)
    assert_close(total, total.transpose(1, 2), 5e-4, float(pair.abs().max()))


def test_cross_matrix_holds_the_axial_vector():
    axial = torch.tensor([1.0, 2.0, 3.0])
    matrix = cross_matrix(axial)
    assert torch.equal(matrix, -matrix.T)
    assert (matrix[1, 2], matrix[2, 0], matrix[0, 1]) == (1, 2, 3)


@pytest.fixture(scope="module")
def toy() -> ToyBackbone:
    return ToyBackbone.load()


def exact(backbone: ToyBackbone, atoms: Atoms) -> tuple[Tensor, Tensor, Tensor]:
    """The Hessian by autograd [3N, 3N], positions and forces [N, 3]."""
    structures = Structures.from_ase(atoms)
    inputs = backbone.prepare(structures)
    hessian = torch.autograd.functional.hessian(
        lambda x: backbone.energy({**inputs, "positions": x}).sum(), structures.positions
    )
    n = 3 * len(atoms)
    return hessian.reshape(n, n), structures.positions, backbone.evaluate(structures).forces


def noise_like(hessian: Tensor, seed: int) -> Tensor:
    noise = torch.randn(hessian.shape, generator=torch.Generator().manual_seed(seed), dtype=hessian.dtype)
    return 0.1 * (noise + noise.T)


def rotation_rule(positions: Tensor, forces: Tensor) -> tuple[Tensor, Tensor]:
    """L x and L g for the three generators (L a)_n = e_n × a, each [3N, 3], by plain index arithmetic."""
    levi = torch.zeros(3, 3, 3, dtype=torch.float64)
    levi[[0, 1, 2], [1, 2, 0], [2, 0, 1]] = 1
    levi[[0, 1, 2], [2, 0, 1], [1, 2, 0]] = -1
    # (e_n × a)_x = ε_xnb a_b
    turned = [torch.einsum("xnb,ab->axn", levi, a).reshape(-1, 3) for a in (positions, -forces)]
    return turned[0], turned[1]


def strained(name: str) -> Atoms:
    atoms = molecule(name)
    atoms.rattle(0.1, seed=4)
    return atoms


MOLECULES = {
    "water": strained("H2O"),
    "ethanol": strained("CH3CH2OH"),
    "carbon dioxide, stretched": Atoms("OCO", [[0, 0, -1.3], [0, 0, 0.0], [0, 0, 1.1]]),
    "a slanted dimer": Atoms("NO", np.outer([0, 1.4], [1, 2, 3]) / np.sqrt(14) + [5, -3, 1]),
    "one atom": Atoms("O", [[1.0, 2.0, 3.0]]),
}


@pytest.mark.parametrize("name", MOLECULES)
def test_rigid_body_rule_leaves_an_exact_hessian_alone(toy, name):
    hessian, positions, forces = exact(toy, MOLECULES[name])
    if len(positions) > 1:
        assert float(forces.abs().max()) > 0.1, "the rule is only tested away from equilibrium"
        before, after = rotation_rule(positions, forces)
        assert_close(hessian @ before, after, 1e-10, float(hessian.abs().max()))
    found = with_rigid_body_rule(hessian, positions, forces)
    assert_close(found, hessian, 1e-10, max(float(hessian.abs().max()), 1.0))


@pytest.mark.parametrize("name", MOLECULES)
def test_rigid_body_rule_brings_a_wrong_hessian_closer(toy, name):
    hessian, positions, forces = exact(toy, MOLECULES[name])
    for seed in range(3):
        wrong = hessian + noise_like(hessian, seed)
        found = with_rigid_body_rule(wrong, positions, forces)
        scale = float(wrong.abs().max())
        assert_close(found, found.T, 1e-12)
        shift = torch.eye(3, dtype=torch.float64).repeat(len(positions), 1)
        assert_close(found @ shift, torch.zeros_like(shift), 1e-10, scale)
        before, after = rotation_rule(positions, forces)
        assert_close(found @ before, after, 1e-10, scale * max(1.0, float(before.abs().max())))
        assert float((found - hessian).norm()) < float((wrong - hessian).norm())
        assert_close(with_rigid_body_rule(found, positions, forces), found, 1e-10)


def test_rigid_body_rule_is_the_least_change(toy):
    """Against the least squares problem over all symmetric changes, solved without any formula."""
    hessian, positions, forces = exact(toy, MOLECULES["water"])
    wrong = hessian + noise_like(hessian, 7)
    motions, products = rotation_rule(positions, forces)
    shift = torch.eye(3, dtype=torch.float64).repeat(len(positions), 1)
    motions, products = torch.cat((shift, motions), 1), torch.cat((torch.zeros_like(shift), products), 1)
    n = len(wrong)
    i, j = torch.triu_indices(n, n)
    # An off-diagonal entry stands for two; scaled by 1/√2 the parameters are orthonormal symmetric matrices.
    size = torch.where(i == j, 1.0, 0.5**0.5).double()
    basis = torch.zeros(len(i), n, n, dtype=torch.float64)
    rows = torch.arange(len(i))
    basis[rows, i, j] = size
    basis[rows, j, i] = size
    constraints = (basis @ motions).reshape(len(i), -1).T
    change = torch.linalg.pinv(constraints, rtol=1e-9) @ (products - wrong @ motions).reshape(-1)
    expected = wrong + torch.einsum("p,pij->ij", change, basis)
    assert_close(with_rigid_body_rule(wrong, positions, forces), expected, 1e-9)


def test_rigid_body_rule_turns_with_the_molecule(toy):
    atoms = MOLECULES["ethanol"]
    hessian, positions, forces = exact(toy, atoms)
    wrong = hessian + noise_like(hessian, 1)
    q = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64))[0]
    big = torch.block_diag(*[q] * len(atoms))
    found = with_rigid_body_rule(big @ wrong @ big.T, positions @ q.T + 3.0, forces @ q.T)
    assert_close(found, big @ with_rigid_body_rule(wrong, positions, forces) @ big.T, 1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_slanted_line_has_five_rigid_motions_in_either_precision(toy, dtype):
    atoms = Atoms("OCO", np.outer([-1.3, 0, 1.1], [1, 2, 3]) / np.sqrt(14) + [30, -20, 10])
    hessian, positions, forces = exact(toy, atoms)
    found = with_rigid_body_rule(hessian.to(dtype), positions.to(dtype), forces.to(dtype))
    assert_close(found.double(), hessian, 1e-10 if dtype == torch.float64 else 1e-4)


def test_crystals_have_no_rigid_body_rule_but_keep_translation():
    assert_translation_rule(*random_pairs([random_crystal(4, 0)], 0))
