"""What every backbone owes, tried on SO3LR and on MACE with random and with trained weights, in float64."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.stress import voigt_6_to_full_3x3_stress
from backbone_cases import (
    CASES,
    BackboneCase,
    assert_same_features,
    default_dtype,
    random_orthogonal,
    turned,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from hip_ext.backbones import Backbone
from hip_ext.backbones.fingerprint import fingerprint
from hip_ext.errors import BackboneError
from hip_ext.features import NodeFeatures
from hip_ext.structures import Structures


@pytest.fixture(scope="module", params=list(CASES))
def case(request) -> BackboneCase:
    return CASES[request.param]


@pytest.fixture(scope="module")
def model(case, request) -> torch.nn.Module:
    return case.make_model(request)


@pytest.fixture(scope="module")
def backbone(case, model) -> Backbone:
    return case.attach(model)


@pytest.fixture(scope="module")
def calculator(case, model) -> Calculator:
    """The framework's own calculator around its own copy of the model; it may change the default dtype."""
    with default_dtype(torch.float64):
        return case.own_calculator(copy.deepcopy(model))


def features_of(backbone: Backbone, atoms: Atoms | list[Atoms]) -> NodeFeatures:
    with torch.no_grad():
        return backbone.features(backbone.prepare(Structures.from_ase(atoms)))


def framework_results(calculator: Calculator, atoms: Atoms) -> tuple[float, np.ndarray, np.ndarray]:
    """Energy, forces and stress by the framework's own graph, batching and code."""
    with default_dtype(torch.float64):
        calculator.calculate(atoms, ["energy", "forces", "stress"])
    results = calculator.results
    return results["energy"], results["forces"], voigt_6_to_full_3x3_stress(results["stress"])


def assert_close(found, expected, relative: float = 1e-10) -> None:
    expected = np.asarray(expected)
    np.testing.assert_allclose(np.asarray(found), expected, rtol=0, atol=relative * np.abs(expected).max())


# Features


@pytest.mark.parametrize("which", [0, 2], ids=["molecule", "crystal"])
@settings(max_examples=8, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), determinant=st.sampled_from([1, -1]))
def test_features_turn_with_the_atoms(case, backbone, which, seed, determinant):
    atoms = case.structures()[which]
    q = random_orthogonal(seed, determinant)
    moved = atoms.copy()
    moved.positions = atoms.positions @ q.numpy().T
    moved.cell = atoms.cell.array @ q.numpy().T
    assert backbone.parity == "o3"
    assert_same_features(features_of(backbone, moved), turned(features_of(backbone, atoms), q))


def test_features_under_inversion(case, backbone):
    atoms = case.structures()[0]
    moved = atoms.copy()
    moved.positions = -atoms.positions
    assert_same_features(features_of(backbone, moved), turned(features_of(backbone, atoms), -torch.eye(3).double()))


def test_features_have_the_promised_widths_and_are_not_trivial(case, backbone):
    features = features_of(backbone, case.structures()[0])
    assert features.widths == backbone.widths
    assert features.scalars.dtype == backbone.dtype == torch.float64
    for block in (features.scalars, features.vectors, features.tensors):
        assert torch.isfinite(block).all()
        assert (block.abs().flatten(2) if block.dim() > 2 else block.abs()[..., None]).amax((0, 2)).min() > 0
    assert_same_features(features, NodeFeatures(features.scalars, features.vectors, features.tensors.transpose(-1, -2)))
    trace = torch.einsum("ncxx->nc", features.tensors)
    assert trace.abs().max() < 1e-12 * features.tensors.abs().max()


@pytest.mark.parametrize("which", [0, 2], ids=["molecule", "crystal"])
def test_features_do_not_move_with_a_translation(case, backbone, which):
    atoms = case.structures()[which]
    moved = atoms.copy()
    moved.positions += [3.1, -2.7, 0.9]
    assert_same_features(features_of(backbone, moved), features_of(backbone, atoms))


def test_features_follow_a_permutation(case, backbone):
    atoms = case.structures()[0]
    order = np.random.default_rng(0).permutation(len(atoms))
    plain = features_of(backbone, atoms)
    expected = NodeFeatures(plain.scalars[order], plain.vectors[order], plain.tensors[order])
    assert_same_features(features_of(backbone, atoms[order]), expected)


def test_batch_equals_single(case, backbone):
    many = list(case.structures())
    singles = [features_of(backbone, atoms) for atoms in many]
    blocks = zip(*[(f.scalars, f.vectors, f.tensors) for f in singles], strict=True)
    assert_same_features(features_of(backbone, many), NodeFeatures(*(torch.cat(b) for b in blocks)))
    batch = backbone.evaluate(Structures.from_ase(many), stress=True)
    for b, atoms in enumerate(many):
        alone = backbone.evaluate(Structures.from_ase(atoms), stress=True)
        start = sum(len(other) for other in many[:b])
        assert_close(batch.energy[b], alone.energy[0])
        assert_close(batch.forces[start : start + len(atoms)], alone.forces)
        assert_close(batch.stress[b], alone.stress[0])


def test_atoms_may_be_anywhere_in_the_lattice(case, backbone):
    crystal = case.structures()[2]
    moved = crystal.copy()
    moved.positions += np.random.default_rng(1).integers(-2, 3, (len(crystal), 3)) @ crystal.cell.array
    assert_same_features(features_of(backbone, moved), features_of(backbone, crystal))


def test_supercell_repeats_the_features(case, backbone):
    crystal = case.structures()[2]
    large, small = features_of(backbone, crystal.repeat((2, 1, 2))), features_of(backbone, crystal)
    expected = NodeFeatures(small.scalars.repeat(4, 1), small.vectors.repeat(4, 1, 1), small.tensors.repeat(4, 1, 1, 1))
    assert_same_features(large, expected)


def test_features_take_one_forward_pass_and_no_backward_pass(case, backbone):
    calls, saved = [], []
    layers = getattr(backbone.model, case.layers)
    counters = [layer.register_forward_pre_hook(lambda module, args: calls.append(module)) for layer in layers]
    inputs = backbone.prepare(Structures.from_ase(case.structures()[0]))
    try:
        with torch.no_grad(), torch.autograd.graph.saved_tensors_hooks(saved.append, lambda x: x):
            features = backbone.features(inputs)
    finally:
        for counter in counters:
            counter.remove()
    assert calls == list(layers)
    assert not saved, "something was kept for a backward pass"
    assert all(x.grad_fn is None for x in (features.scalars, features.vectors, features.tensors))


def test_features_can_be_differentiated(case, backbone):
    """The derivative of a weighted sum of all features along a random direction, against central differences."""
    structures = Structures.from_ase(case.structures()[1])
    inputs = backbone.prepare(structures)
    positions = inputs["positions"].requires_grad_(True)
    generator = torch.Generator().manual_seed(0)

    def total(features: NodeFeatures) -> torch.Tensor:
        generator.manual_seed(0)
        blocks = (features.scalars, features.vectors, features.tensors)
        return sum((x * torch.randn(x.shape, generator=generator, dtype=x.dtype)).sum() for x in blocks)

    (gradient,) = torch.autograd.grad(total(backbone.features(inputs)), positions)
    direction = torch.randn(positions.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    step = 1e-5
    with torch.no_grad():
        plus, minus = (
            total(backbone.features(backbone.prepare(structures.with_positions(structures.positions + s * direction))))
            for s in (step, -step)
        )
    assert float((gradient * direction).sum()) == pytest.approx(float((plus - minus) / (2 * step)), rel=1e-6)


# Energy, forces, stress


def placements(case: BackboneCase) -> dict[str, Atoms]:
    molecule, _, crystal = case.structures()
    slab, wire, boxed, outside = crystal.copy(), crystal.copy(), molecule.copy(), crystal.copy()
    slab.pbc = [True, True, False]
    wire.pbc = [False, True, False]
    boxed.cell = [[9.0, 0.0, 0.0], [1.0, 8.0, 0.0], [0.0, 2.0, 7.5]]
    outside.positions += np.random.default_rng(2).integers(-1, 2, (len(crystal), 3)) @ crystal.cell.array
    return {
        "molecule": molecule,
        "molecule in a cell without periodicity": boxed,
        "crystal": crystal,
        "slab": slab,
        "wire": wire,
        "atoms outside the cell": outside,
        "one atom": molecule[:1],
    }


@pytest.mark.parametrize("name", list(placements(CASES["mace"])))
def test_evaluate_agrees_with_the_frameworks_own_calculator(case, backbone, calculator, name):
    atoms = placements(case)[name]
    energy, forces, stress = framework_results(calculator, atoms)
    found = backbone.evaluate(Structures.from_ase(atoms), stress=True)
    assert_close(found.energy[0], energy)
    np.testing.assert_allclose(found.forces, forces, rtol=0, atol=1e-10 * max(1.0, np.abs(forces).max()))
    np.testing.assert_allclose(found.stress[0], stress, rtol=0, atol=1e-10 * max(1e-3, np.abs(stress).max()))
    with torch.no_grad():
        assert_close(backbone.energy(backbone.prepare(Structures.from_ase(atoms))), found.energy, 1e-13)


def test_evaluate_gives_the_features_of_its_own_pass(case, backbone):
    atoms = case.structures()[2]
    structures = Structures.from_ase(atoms)
    plain, strained = backbone.evaluate(structures), backbone.evaluate(structures, stress=True)
    assert plain.stress is None
    assert_same_features(plain.features, features_of(backbone, atoms))
    assert_same_features(strained.features, features_of(backbone, atoms))
    assert plain.features.scalars.grad_fn is None
    with torch.no_grad():
        assert_close(backbone.evaluate(structures).forces, plain.forces)


def test_forces_are_minus_the_gradient_of_the_energy(case, backbone):
    structures = Structures.from_ase(list(case.structures()))
    inputs = backbone.prepare(structures)
    positions = inputs["positions"].requires_grad_(True)
    (gradient,) = torch.autograd.grad(backbone.energy(inputs).sum(), positions)
    forces = backbone.evaluate(structures).forces
    assert_close(forces, -gradient)
    direction = torch.randn(positions.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    step = 1e-4
    with torch.no_grad():
        plus, minus = (
            backbone.energy(backbone.prepare(structures.with_positions(structures.positions + s * direction))).sum()
            for s in (step, -step)
        )
    assert float((forces * direction).sum()) == pytest.approx(-float((plus - minus) / (2 * step)), rel=1e-6)


def test_stress_is_the_derivative_of_the_energy_by_strain(case, backbone):
    crystal = case.structures()[2]
    strain = np.random.default_rng(0).normal(size=(3, 3))
    strain = strain + strain.T
    step, energies = 1e-5, []
    for sign in (1, -1):
        strained = crystal.copy()
        strained.set_cell(crystal.cell.array @ (np.eye(3) + sign * step * strain), scale_atoms=True)
        with torch.no_grad():
            energies.append(float(backbone.energy(backbone.prepare(Structures.from_ase(strained)))))
    stress = backbone.evaluate(Structures.from_ase(crystal), stress=True).stress[0].numpy()
    slope = (energies[0] - energies[1]) / (2 * step * crystal.get_volume())
    assert float((stress * strain).sum()) == pytest.approx(slope, rel=1e-6)


def test_own_calculator_shares_the_model_and_leaves_no_trace(case, backbone):
    flags = [p.requires_grad for p in backbone.model.parameters()]
    calculator = backbone.calculator()
    assert calculator.models[0] is backbone.model
    crystal = case.structures()[2]
    crystal.calc = calculator
    found = backbone.evaluate(Structures.from_ase(crystal), stress=True)
    assert_close(found.energy[0], crystal.get_potential_energy())
    assert_close(found.forces, crystal.get_forces())
    assert_close(found.stress[0], voigt_6_to_full_3x3_stress(crystal.get_stress()))
    assert [p.requires_grad for p in backbone.model.parameters()] == flags
    assert torch.get_default_dtype() == torch.float32


# The user's module


def raw_results(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Energy and forces by calling the module itself."""
    inputs = {key: value.detach().clone() for key, value in inputs.items()}
    output = model(inputs, compute_force=True)
    return output["energy"].detach(), output["forces"].detach()


def test_the_module_stays_as_it_was(case, request):
    model = case.make_model(request)
    some = next(model.parameters())
    some.requires_grad_(False)
    model.train()
    structures = Structures.from_ase(list(case.structures()))
    probe = case.attach(copy.deepcopy(model))
    inputs = probe._with_long_range(probe.prepare(structures)) if case.kind == "so3lr" else probe.prepare(structures)
    if case.kind == "so3lr":
        model.r_max_lr, model.dispersion_energy_cutoff_lr_damping = 9.0, 1.5
    energy, forces = raw_results(model, inputs)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [p.requires_grad for p in model.parameters()]
    attributes = dict(vars(model))
    defaults = torch.get_default_dtype(), torch.is_grad_enabled()

    def assert_untouched() -> None:
        assert set(model.state_dict()) == set(state)
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
        assert [p.requires_grad for p in model.parameters()] == flags
        assert list(vars(model)) == list(attributes)
        assert all(vars(model)[name] is value for name, value in attributes.items())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        assert (torch.get_default_dtype(), torch.is_grad_enabled()) == defaults

    backbone = case.attach(model)
    assert backbone.model is model
    assert_untouched()
    for use in (
        lambda: backbone.features(backbone.prepare(structures)),
        lambda: backbone.energy(backbone.prepare(structures)),
        lambda: backbone.evaluate(structures, stress=True),
        lambda: backbone.calculator().get_potential_energy(case.structures()[0]),
        backbone.close,
    ):
        use()
        assert_untouched()
    again = raw_results(model, inputs)
    assert torch.equal(again[0], energy)
    assert torch.equal(again[1], forces)


def test_inputs_and_structures_are_not_changed(case, backbone):
    structures = Structures.from_ase(list(case.structures()))
    before = copy.deepcopy(structures)
    inputs = backbone.prepare(structures)
    kept = {key: value.clone() for key, value in inputs.items()}
    backbone.energy(inputs)
    backbone.features(inputs)
    backbone.evaluate(structures, stress=True)
    assert list(inputs) == list(kept)
    assert all(torch.equal(inputs[key], value) for key, value in kept.items())
    for name in Structures.__dataclass_fields__:
        assert torch.equal(getattr(structures, name), getattr(before, name))


def test_a_failed_pass_leaves_no_hooks(case, backbone):
    inputs = backbone.prepare(Structures.from_ase(case.structures()[0]))
    del inputs["node_attrs"]
    with pytest.raises(KeyError):
        backbone.features(inputs)
    assert not any(module._forward_hooks for module in backbone.model.modules())
    assert_same_features(features_of(backbone, case.structures()[0]), features_of(backbone, case.structures()[0]), 0.0)


def test_copies_are_independent(case, backbone):
    atoms = case.structures()[0]
    expected = features_of(backbone, atoms)
    backbone.evaluate(Structures.from_ase(atoms))
    for copied in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
        assert_same_features(features_of(copied, atoms), expected, 0.0)
        assert copied.source == backbone.source
        with torch.no_grad():
            for parameter in copied.model.parameters():
                parameter.mul_(1.5)
        assert (features_of(copied, atoms).vectors - expected.vectors).abs().max() > 1e-3 * expected.vectors.abs().max()
        assert_same_features(features_of(backbone, atoms), expected, 0.0)
        copied.close()


def test_fingerprint_tells_models_apart(case, model, backbone):
    assert backbone.source.fingerprint == fingerprint(model) == case.attach(copy.deepcopy(model)).source.fingerprint
    nudged = copy.deepcopy(model)
    with torch.no_grad():
        value = next(nudged.parameters()).flatten()
        value[0] += 1e-6 * (1 + value[0].abs())
    assert fingerprint(nudged) != fingerprint(model)
    assert fingerprint(copy.deepcopy(model).float()) == fingerprint(model)  # the same model in another dtype


def test_another_dtype_is_a_copy(case, model, backbone):
    state = {name: value.clone() for name, value in model.state_dict().items()}
    single = type(backbone).load(model, dtype=torch.float32)
    assert single.model is not model
    assert single.dtype == torch.float32
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    atoms = case.structures()[2]
    expected = backbone.evaluate(Structures.from_ase(atoms), stress=True)
    found = single.evaluate(Structures.from_ase(atoms), stress=True)
    assert found.energy.dtype == found.forces.dtype == found.features.tensors.dtype == torch.float32
    assert_same_features(found.features.to(torch.float64), expected.features, 1e-4)
    assert_close(found.energy, expected.energy, 1e-5)
    assert_close(found.forces, expected.forces, 1e-4)
    assert_close(found.stress, expected.stress, 1e-4)


def test_unknown_element_is_named(case, backbone):
    with pytest.raises(BackboneError, match=rf"the {case.kind} backbone does not know Xe; it knows .*\w"):
        backbone.prepare(Structures.from_ase(Atoms("Xe")))
