"""What a head owes whatever its weights: symmetries, locality, smoothness; with random features and real backbones."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from backbone_cases import methanol_crystal, random_mace, random_orthogonal, trained_mace, turned
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import (
    WIDTHS,
    assert_close,
    block_size,
    chosen,
    crystals,
    joined,
    matrices,
    matrix,
    random_crystal,
    random_features,
    random_head,
    random_molecule,
    seeds,
    three_body_only,
    two_body_only,
)
from test_pairs import LargestTensor
from torch import Tensor
from toy_backbone import ToyBackbone

import hip_ext
from hip_ext.backbones import Backbone, load_backbone
from hip_ext.errors import ConfigError
from hip_ext.features import NodeFeatures
from hip_ext.head import HeadConfig, HessianHead
from hip_ext.model import HessianModel
from hip_ext.structures import Structures

HEAD = random_head()


def big(q: Tensor, atoms: int) -> Tensor:
    """Q on every atom, [3N, 3N]."""
    return torch.block_diag(*[q] * atoms)


def moved(atoms: Atoms, q: Tensor) -> Atoms:
    """The structure and its lattice after x → Q x."""
    other = atoms.copy()
    other.positions = atoms.positions @ q.numpy().T
    other.cell = atoms.cell.array @ q.numpy().T
    return other


def permuted(hessian: Tensor, order: list[int]) -> Tensor:
    n = len(order)
    return hessian.reshape(n, 3, n, 3)[order][:, :, order].reshape(3 * n, 3 * n)


def assert_exact_rules(hessian: Tensor, molecular: bool) -> None:
    assert float(hessian.abs().max()) > 1e-3
    assert torch.equal(hessian, hessian.T)
    assert torch.isfinite(hessian).all()
    shift = torch.eye(3, dtype=torch.float64).repeat(len(hessian) // 3, 1)
    # Folded blocks of small cells cancel, so that their sum is measured against the blocks before folding.
    assert_close(hessian @ shift, torch.zeros_like(shift), 1e-10, float(hessian.abs().max()) if molecular else 1e2)


structures_with_features = st.one_of(st.builds(random_molecule, st.integers(2, 9), seeds), crystals())


@given(structures_with_features, seeds, st.sampled_from([1, -1]))
@settings(max_examples=20, deadline=None)
def test_turns_and_reflects_with_the_atoms(atoms, seed, determinant):
    features, q = random_features(len(atoms), seed), random_orthogonal(seed, determinant)
    expected = big(q, len(atoms)) @ matrix(HEAD, features, atoms) @ big(q, len(atoms)).T
    found = matrix(HEAD, turned(features, q), moved(atoms, q))
    assert_close(found, expected, scale=block_size(HEAD, features, atoms))


@given(structures_with_features, seeds)
@settings(max_examples=15, deadline=None)
def test_symmetry_and_translation_rule(atoms, seed):
    features = random_features(len(atoms), seed)
    blocks = HEAD(features, Structures.from_ase(atoms))
    assert torch.equal(blocks.diagonal, blocks.diagonal.transpose(1, 2))
    hessian = blocks.dense()
    assert torch.equal(hessian, hessian.T)
    shift = torch.eye(3, dtype=torch.float64).repeat(len(atoms), 1, 1)
    assert_close(blocks.matvec(shift), torch.zeros_like(shift), scale=block_size(HEAD, features, atoms))


@given(structures_with_features, seeds)
@settings(max_examples=15, deadline=None)
def test_permutation_translation_and_lattice_shifts(atoms, seed):
    features, random = random_features(len(atoms), seed), np.random.default_rng(seed)
    expected, scale = matrix(HEAD, features, atoms), block_size(HEAD, features, atoms)
    order = random.permutation(len(atoms)).tolist()
    assert_close(matrix(HEAD, chosen(features, order), atoms[order]), permuted(expected, order), scale=scale)
    other = atoms.copy()
    other.positions += random.normal(size=3) * 10
    other.positions += (random.integers(-3, 4, (len(atoms), 3)) * atoms.pbc) @ atoms.cell.array
    assert_close(matrix(HEAD, features, other), expected, scale=scale)


@given(seeds, st.sampled_from([(2, 1, 1), (1, 3, 1), (1, 1, 2)]), st.integers(1, 3))
@settings(max_examples=8, deadline=None)
def test_folding_a_supercell_gives_the_cell(seed, times, n):
    atoms, features, images = random_crystal(n, seed), random_features(n, seed), int(np.prod(times))
    large = matrix(HEAD, joined(*[features] * images), atoms.repeat(times))
    folded = large.reshape(images, 3 * n, images, 3 * n)[0].sum(1)
    assert_close(folded, matrix(HEAD, features, atoms), scale=block_size(HEAD, features, atoms))


def test_another_basis_of_the_lattice_gives_the_same():
    atoms, features = random_crystal(3, 8), random_features(3, 8)
    other = atoms.copy()
    other.cell = np.array([[1, 1, 0], [0, 1, 0], [-1, 2, 1]]) @ atoms.cell.array
    assert_close(matrix(HEAD, features, other), matrix(HEAD, features, atoms))


def test_batch_equals_single():
    many = [
        random_molecule(5, 1),
        Atoms("O"),
        random_crystal(2, 2),
        Atoms("N", cell=[3, 9, 9], pbc=(1, 0, 0)),
        random_molecule(2, 3),
    ]
    features = [random_features(len(a), k) for k, a in enumerate(many)]
    found = matrices(HEAD, joined(*features), many)
    for hessian, part, atoms in zip(found, features, many, strict=True):
        expected = matrix(HEAD, part, atoms)
        assert_close(hessian, expected, 1e-10, max(float(expected.abs().max()), 1.0))


def test_one_atom_has_no_hessian():
    for atoms in (Atoms("O"), Atoms("O", cell=np.eye(3) * 30, pbc=True)):
        assert (matrix(HEAD, random_features(1, 0), atoms) == 0).all()
    # Its images move with it, so that the Γ-point matrix of one atom in a cell vanishes however near they are.
    crowded = HEAD(random_features(1, 0), Structures.from_ase(Atoms("O", cell=np.eye(3) * 1.6 + 0.3, pbc=True)))
    assert float(crowded.pair.abs().max()) > 1e-2
    assert float(crowded.dense().abs().max()) < 1e-12 * float(crowded.diagonal.abs().max())


def test_two_atoms_share_one_block():
    hessian = matrix(HEAD, random_features(2, 4), Atoms("CO", [[0, 0, 0], [0.3, 0.5, 1.0]]))
    block = hessian[:3, :3]
    assert_close(hessian, torch.cat((torch.cat((block, -block), 1), torch.cat((-block, block), 1))), 1e-12)
    assert float(block.abs().max()) > 1e-2


def test_a_far_molecule_is_not_felt():
    near, far = random_molecule(6, 1), random_molecule(5, 2)
    far.positions += [0, 0, 60]
    features = random_features(11, 3)
    together = matrix(HEAD, features, near + far)
    assert_close(together[:18, :18], matrix(HEAD, chosen(features, list(range(6))), near))
    assert (together[:18, 18:] == 0).all()


@pytest.mark.parametrize("part", [two_body_only, three_body_only])
def test_either_part_reaches_antisymmetric_blocks(part: Callable[[HessianHead], HessianHead]):
    """With polar vectors and even tensors, that is under true parity; and keeps all rules on its own."""
    head, atoms, features = part(random_head()), random_molecule(8, 2), random_features(8, 2)
    blocks = head(features, Structures.from_ase(atoms))
    norms = blocks.pair.norm(dim=(1, 2))
    skew = ((blocks.pair - blocks.pair.transpose(1, 2)) / 2).norm(dim=(1, 2))
    assert float((skew / norms.clamp(min=1e-12))[norms > 1e-6].median()) > 0.01
    assert_exact_rules(blocks.dense(), molecular=True)
    q = random_orthogonal(3, -1)
    assert_close(matrix(head, turned(features, q), moved(atoms, q)), big(q, 8) @ blocks.dense() @ big(q, 8).T)
    beyond = norms[blocks.graph.distance >= head.config.cutoff]
    assert len(beyond) and (bool((beyond == 0).all()) if part is two_body_only else bool((beyond > 0).any()))


def test_blocks_of_both_parts_add_up():
    atoms, features = random_molecule(7, 5), random_features(7, 5)
    parts = [matrix(part(random_head()), features, atoms) for part in (two_body_only, three_body_only)]
    assert_close(parts[0] + parts[1], matrix(HEAD, features, atoms), 1e-12)


def third_differences(hessian: Callable[[float], Tensor], where: float, step: float) -> tuple[float, float]:
    """The largest divided difference of third order on eight points around one distance, and its rounding error."""
    values = torch.stack([hessian(where + (k - 3.6) * step) for k in range(8)])
    noise = 100 * torch.finfo(values.dtype).eps * float(values.abs().max()) / step**3
    return float((values.diff(n=3, dim=0) / step**3).abs().max()), noise


def assert_two_continuous_derivatives(hessian: Callable[[float], Tensor], where: float) -> None:
    """Third differences stay bounded as the grid is refined; a jump of the second derivative makes them grow as 1/h."""
    coarse, middle, fine = (third_differences(hessian, where, h) for h in (0.02, 0.01, 0.005))
    assert middle[0] <= 1.5 * coarse[0] + middle[1], (coarse, middle)
    assert fine[0] <= 1.5 * middle[0] + fine[1], (middle, fine)


def stretched(fragment: Atoms, other: Atoms) -> Callable[[float], Atoms]:
    """Two fragments whose first atoms are a given distance apart along a fixed direction."""
    direction = np.array([0.36, 0.48, 0.8])

    def place(distance: float) -> Atoms:
        far = other.copy()
        far.positions += fragment.positions[0] - other.positions[0] + distance * direction
        return fragment + far

    return place


@pytest.mark.parametrize("cutoffs", [1, 2])
@pytest.mark.parametrize("layers", [1, 2])
def test_smooth_as_a_pair_crosses_the_cutoff(cutoffs, layers):
    """A pair at r with company on both sides, and a pair at 2r with an atom in the middle at r from both."""
    head = random_head(layers=layers)
    left, right = random_molecule(4, 11), random_molecule(3, 12)
    place, features = stretched(left, right), random_features(8, 9)

    def hessian(distance: float) -> Tensor:
        atoms = place(distance)
        middle = (atoms.positions[0] + atoms.positions[4]) / 2 + [0.0, 0.0, 0.0 if cutoffs == 2 else 40.0]
        return matrix(head, features, atoms + Atoms("O", [middle]))

    assert_two_continuous_derivatives(hessian, head.config.cutoff * cutoffs)


@pytest.mark.parametrize("distance", [3.0, 4.0, 6.0])
def test_smooth_on_a_backbone(distance):
    """Through the toy backbone, whose own cutoff is 4 Å: its features move with the atoms too."""
    backbone = ToyBackbone.load()
    model = HessianModel(backbone, random_head(backbone.widths))
    place = stretched(molecule("H2O"), molecule("NH3"))
    assert_two_continuous_derivatives(lambda r: model.hessian(place(r)).dense(), distance)


def test_the_smoothness_test_sees_a_kink():
    """An envelope with one continuous derivative less is found out."""

    def kinked(distance: float) -> Tensor:
        return torch.tensor([max(2.6 - distance, 0.0) ** 2], dtype=torch.float64)

    with pytest.raises(AssertionError):
        assert_two_continuous_derivatives(kinked, 2.6)


def test_gradients_reach_every_parameter():
    many = [random_molecule(7, 1), random_molecule(6, 2), random_crystal(2, 3)]
    features = joined(*[random_features(len(a), k) for k, a in enumerate(many)])
    head = random_head(layers=2).requires_grad_(True)
    blocks = head(features, Structures.from_ase(many))
    weight = torch.randn(len(blocks.flat()), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (blocks.flat() * weight).sum().backward()
    silent = [name for name, p in head.named_parameters() if p.grad is None or float(p.grad.abs().max()) == 0]
    assert silent == []


def test_gradients_equal_finite_differences():
    """Second derivatives are not needed, first ones with respect to weights, features and positions are."""
    atoms, features = random_molecule(4, 3), random_features(4, 3)
    structures, head = Structures.from_ase(atoms), random_head()

    def hessian(positions: Tensor, vectors: Tensor, weight: Tensor) -> Tensor:
        changed = NodeFeatures(features.scalars, vectors, features.tensors)
        inputs = (changed, structures.with_positions(positions))
        return torch.func.functional_call(head, {"gradients.mix.weight": weight}, inputs).flat()

    inputs = (structures.positions, features.vectors, head.gradients.mix.weight.data)
    assert torch.autograd.gradcheck(hessian, [x.clone().requires_grad_(True) for x in inputs], fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_output_follows_the_type_of_the_head(dtype):
    structures = Structures.from_ase(random_molecule(5, 1), dtype=dtype)
    blocks = random_head().to(dtype)(random_features(5, 1).to(dtype), structures)
    assert blocks.pair.dtype == blocks.diagonal.dtype == blocks.dense().dtype == dtype


def test_single_precision_agrees_with_double():
    atoms, features = random_molecule(12, 4), random_features(12, 4)
    single = random_head().float()(features.to(torch.float32), Structures.from_ase(atoms, dtype=torch.float32))
    assert_close(single.dense().double(), matrix(HEAD, features, atoms), 2e-4)


def test_output_follows_the_device_of_the_head():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    structures = Structures.from_ase(random_molecule(5, 1), device=device)
    blocks = random_head().to(device)(random_features(5, 1).to(device), structures)
    assert blocks.pair.device.type == blocks.diagonal.device.type == device


def test_nothing_on_the_hot_path_waits_for_the_device():
    folder = Path(hip_ext.__file__).parent
    for name in ("head", "edges", "messages", "readout", "latent", "blocks", "radial"):
        tree = ast.parse((folder / f"{name}.py").read_text())
        for function in (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)):
            called = {
                n.func.attr for n in ast.walk(function) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)
            }
            # A SciPy matrix lives on the CPU, and is nobody's hot path.
            assert function.name == "to_scipy_bsr" or not called & {"cpu", "item", "numpy"}, f"{name}.{function.name}"


def test_memory_grows_with_the_number_of_molecules():
    def largest(copies: int) -> int:
        many = [random_molecule(6, 1)] * copies
        with LargestTensor() as found:
            HEAD(joined(*[random_features(6, 1)] * copies), Structures.from_ase(many)).flat()
        return found.size

    assert largest(80) <= 2.01 * largest(40)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cutof": 4.0}, "head config: there is no key 'cutof'; did you mean 'cutoff'\\?$"),
        ({"zebra": 1}, "head config: there is no key 'zebra'; known are scalars, channels"),
        ({"scalars": 0}, "head config: 'scalars' is 0, expected at least 1$"),
        ({"layers": -1}, "head config: 'layers' is -1, expected at least 0"),
        ({"layers": 1.5}, "head config: 'layers' is 1.5, expected a whole number"),
        ({"cutoff": 0.5}, "head config: 'cutoff' is 0.5, expected more than 0.5"),
        ({"cutoff": float("inf")}, "head config: 'cutoff' is inf, expected a finite number"),
        ({"cutoff": float("nan")}, "head config: 'cutoff' is nan, expected a finite number"),
        ({"spacing": 0.25}, "head config: 'spacing' is 0.25, expected at most 0.2$"),
        ({"mean_neighbours": 0.0}, "head config: 'mean_neighbours' is 0.0, expected more than 0"),
        ({"channels": "many"}, "head config: 'channels' is 'many', expected a whole number"),
    ],
)
def test_bad_hyper_parameters_are_one_line(values, message):
    with pytest.raises(ConfigError, match=message) as caught:
        HeadConfig.from_dict(values)
    assert "\n" not in str(caught.value)


def test_hyper_parameters_survive_a_round_trip():
    config = HeadConfig.from_dict({"layers": 2, "cutoff": 4.5})
    assert HeadConfig.from_dict(config.model_dump()) == config and config.layers == 2


def test_a_head_without_messages_works():
    head, atoms, features = random_head(layers=0), random_molecule(5, 1), random_features(5, 1)
    assert_exact_rules(matrix(head, features, atoms), molecular=True)


def test_normalisation_gives_unit_variance_and_drops_dead_channels():
    head, features = random_head(), random_features(400, 1)
    scaled = NodeFeatures(features.scalars * 7 + 3, features.vectors * 0.01, features.tensors.clone())
    scaled.tensors[:, 1] = 0
    head.fit_normalisation(scaled)
    normal = (scaled.scalars - head.scalar_mean) * head.scalar_scale
    torch.testing.assert_close(normal.std(0), torch.ones(WIDTHS[0]).double())
    torch.testing.assert_close(normal.mean(0), torch.zeros(WIDTHS[0]).double(), rtol=0, atol=1e-12)
    vectors = scaled.vectors * head.vector_scale[:, None]
    torch.testing.assert_close(vectors.pow(2).mean((0, 2)), torch.ones(WIDTHS[1]).double())
    assert head.tensor_scale[1] == 0 and head.tensor_scale[0] > 0


def backbone_of(name: str, request: pytest.FixtureRequest) -> Backbone:
    if name == "toy":
        return ToyBackbone.load()
    if name == "so3lr":
        pytest.importorskip("so3krates_torch", reason="needs so3krates-torch")
        return load_backbone("so3lr", dtype=torch.float64)
    if name == "mace":
        return load_backbone("mace", random_mace())
    return load_backbone("mace", trained_mace(request.getfixturevalue("shared") / "weights", name))


@pytest.fixture(scope="module", params=["toy", "so3lr", "mace", "mace_spice"])
def model(request) -> HessianModel:
    backbone = backbone_of(request.param, request)
    head = random_head(
        backbone.widths,
    )
    atoms = [molecule(name) for name in ("CH3CH2OH", "CH3NO2", "H2O")]
    with torch.no_grad():
        head.fit_normalisation(backbone.features(backbone.prepare(Structures.from_ase(atoms))))
    return HessianModel(backbone, head)


@pytest.fixture(scope="module")
def methylamine() -> Atoms:
    atoms = molecule("H3CNH2")
    atoms.rattle(0.1, seed=5)
    return atoms


@pytest.mark.parametrize("determinant", [1, -1])
def test_model_turns_and_reflects(model, methylamine, determinant):
    crystal = methanol_crystal()
    q = random_orthogonal(7, determinant)
    for atoms in (methylamine, crystal):
        expected = big(q, len(atoms)) @ model.hessian(atoms).dense() @ big(q, len(atoms)).T
        assert_close(model.hessian(moved(atoms, q)).dense(), expected)


def test_model_under_inversion(model, methylamine):
    expected = model.hessian(methylamine).dense()
    assert_close(model.hessian(moved(methylamine, -torch.eye(3, dtype=torch.float64))).dense(), expected)


def test_model_permutation_translation_and_rules(model, methylamine):
    expected = model.hessian(methylamine).dense()
    assert_exact_rules(expected, molecular=True)
    order = [3, 0, 6, 1, 5, 2, 4]
    other = methylamine[order]
    other.positions += [1.0, -20.0, 3.0]
    assert_close(model.hessian(other).dense(), permuted(expected, order))


def test_model_batch_equals_single(model, methylamine):
    many = [methylamine, Atoms("O", [[1, 2, 3]]), methanol_crystal(), molecule("H2")]
    found = model.hessian(many).dense_list()
    assert (found[1] == 0).all()
    for hessian, atoms in zip(found, many, strict=True):
        assert_close(hessian, model.hessian(atoms).dense(), 1e-10, max(float(hessian.abs().max()), 1.0))


def test_model_supercell_and_lattice_shifts(model):
    crystal = methanol_crystal()
    n, expected = 3 * len(crystal), model.hessian(crystal).dense()
    large = model.hessian(crystal.repeat((2, 1, 1))).dense()
    assert_close(large.reshape(2, n, 2, n)[0].sum(1), expected)
    crystal.positions[[1, 4]] += crystal.cell.array[0] - 2 * crystal.cell.array[2]
    assert_close(model.hessian(crystal).dense(), expected)


def test_model_does_not_feel_a_far_molecule(model, methylamine):
    far = molecule("H2O")
    far.positions += [0, 70, 0]
    together = model.hessian(methylamine + far).dense()
    assert_close(together[:21, :21], model.hessian(methylamine).dense())
    assert (together[:21, 21:] == 0).all()
