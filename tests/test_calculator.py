"""The ASE calculator: the framework's own energies and forces, Hessians three ways, and no pass more than needed."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import Calculator, PropertyNotImplementedError
from ase.constraints import FixAtoms, FixBondLength
from ase.optimize import BFGS
from ase.vibrations import Vibrations as ASEVibrations
from backbone_cases import CASES, default_dtype, methanol_crystal, organic_structures
from toy_backbone import ToyBackbone, ToyModel

from hip_ext import HeadConfig, HessianCalculator, HessianModel, attach_head
from hip_ext.errors import BackboneError, ConfigError, HipExtError, StructureError
from hip_ext.reference import finite_difference_hessian

SMALL = HeadConfig(scalars=8, channels=4, hidden=8, pair_channels=2, coordinates=4, cutoff=3.0)
NAMES = ["toy", "so3lr", "mace", "mace_spice"]


@pytest.fixture(scope="module", params=NAMES)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def module(name) -> torch.nn.Module:
    return ToyModel() if name == "toy" else CASES[name].make_model()


@pytest.fixture(scope="module")
def model(name, module) -> HessianModel:
    return attach_head(ToyBackbone(module) if name == "toy" else CASES[name].attach(module), SMALL)


@pytest.fixture(scope="module")
def own(name, module) -> Calculator:
    """The framework's own calculator around its own copy of the model."""
    if name == "toy":
        return ToyBackbone(copy.deepcopy(module)).calculator()
    with default_dtype(torch.float64):
        return CASES[name].own_calculator(copy.deepcopy(module))


@pytest.fixture(scope="module")
def layer(name, module) -> torch.nn.Module:
    """A module that runs once in every pass of the backbone."""
    return module if name == "toy" else getattr(module, CASES[name].layers)[0]


@pytest.fixture
def calc(model) -> HessianCalculator:
    return HessianCalculator(model)


@pytest.fixture
def toy() -> HessianCalculator:
    return HessianCalculator(attach_head(ToyBackbone(), SMALL))


class Passes:
    """Forward passes of a backbone, which of them could be differentiated, and calls of torch's backward engine."""

    def __init__(self) -> None:
        self.forward = self.with_gradients = self.backward = 0


@contextmanager
def counted(layer: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> Iterator[Passes]:
    passes = Passes()

    def forward(module: torch.nn.Module, args: object) -> None:
        passes.forward += 1
        passes.with_gradients += torch.is_grad_enabled()

    run_backward = torch.autograd.graph._engine_run_backward

    def backward(*args: object, **options: object) -> object:
        passes.backward += 1
        return run_backward(*args, **options)

    hook = layer.register_forward_pre_hook(forward)
    with monkeypatch.context() as patch:
        patch.setattr(torch.autograd, "_engine_run_backward", backward)
        try:
            yield passes
        finally:
            hook.remove()


def ethanol() -> Atoms:
    return organic_structures()[0]


def warm_up(calculator: Calculator, atoms: Atoms) -> None:
    """TorchScript, in MACE, compiles in its first calls: their last bit can differ from that of all later ones."""
    with default_dtype(torch.float64):
        for _ in range(3):
            calculator.calculate(atoms.copy(), ["energy", "forces"])
    calculator.reset()


def one_line(error: pytest.ExceptionInfo[HipExtError]) -> str:
    text = str(error.value)
    assert text and "\n" not in text
    return text


# Energy, forces and stress


@pytest.mark.parametrize("which", [0, 1, 2], ids=["ethanol", "nitromethane", "crystal"])
def test_energy_forces_and_stress_are_the_frameworks_own_to_the_last_bit(calc, own, which):
    atoms = organic_structures()[which]
    asked = ["energy", "forces"] + ["stress"] * (which == 2)
    warm_up(own, atoms)
    warm_up(calc, atoms)
    with default_dtype(torch.float64):
        own.calculate(atoms.copy(), asked)
    atoms.calc = calc
    assert atoms.get_potential_energy() == own.results["energy"]
    np.testing.assert_array_equal(atoms.get_forces(), own.results["forces"])
    if which == 2:
        np.testing.assert_array_equal(atoms.get_stress(), own.results["stress"])
        assert np.abs(own.results["stress"]).max() > 0


def test_implemented_properties_are_those_of_the_frameworks_calculator(calc, own):
    assert set(calc.implemented_properties) == set(own.implemented_properties)
    with pytest.raises(PropertyNotImplementedError):
        calc.get_property("magmoms", ethanol())


def test_charge_and_spin_are_the_frameworks_own():
    pytest.importorskip("so3krates_torch", reason="needs so3krates-torch")
    module = CASES["so3lr"].make_model()
    calc = HessianCalculator(attach_head(CASES["so3lr"].attach(module), SMALL))
    with default_dtype(torch.float64):
        own = CASES["so3lr"].own_calculator(copy.deepcopy(module))
    atoms = molecule("OH")
    atoms.calc = calc
    energies = []
    for charge, spin in [(0, 0.5), (-1, 0.0), (1, 1.0)]:
        stated = atoms.copy()
        stated.info = {"charge": charge, "total_spin": spin}
        own.reset()
        with default_dtype(torch.float64):
            own.calculate(stated)
        atoms.info = {"charge": charge, "multiplicity": 2 * spin + 1}
        energies.append(atoms.get_potential_energy())
        assert energies[-1] == own.results["energy"]
        np.testing.assert_array_equal(atoms.get_forces(), own.results["forces"])
    assert len(set(energies)) == 3


def test_forces_inside_no_grad(calc):
    atoms = ethanol()
    warm_up(calc, atoms)
    expected = calc.get_forces(atoms)
    calc.reset()
    with torch.no_grad():
        np.testing.assert_array_equal(calc.get_forces(atoms), expected)


# Hessians


@pytest.mark.parametrize("which", [0, 2], ids=["molecule", "crystal"])
def test_direct_is_what_the_model_predicts(calc, model, which):
    atoms = organic_structures()[which]
    found = calc.get_hessian(atoms)
    expected = model.hessian(atoms).dense().numpy()
    assert found.dtype == np.float64 and found.shape == (3 * len(atoms), 3 * len(atoms))
    np.testing.assert_array_equal(found, found.T)
    if which == 0:
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14 * np.abs(expected).max())
    assert np.abs(found).max() > 0


@pytest.mark.parametrize("which", ["water", "crystal"])
def test_autograd_is_what_finite_differences_of_the_forces_give(calc, which):
    atoms = molecule("H2O") if which == "water" else methanol_crystal()
    atoms.rattle(0.05, seed=5)
    exact, differences = calc.get_hessian(atoms, "autograd"), calc.get_hessian(atoms, "finite_difference")
    assert exact.dtype == differences.dtype == np.float64
    for matrix in (exact, differences):
        np.testing.assert_array_equal(matrix, matrix.T)
    # The error of central differences falls with the square of their step: 0.005 Å here.
    np.testing.assert_allclose(differences, exact, rtol=0, atol=1e-3 * np.abs(exact).max())


def test_finite_differences_converge_on_autograd_with_the_square_of_the_step(toy):
    atoms = molecule("H2O")
    exact = toy.get_hessian(atoms, "autograd")
    own = toy.model.backbone.calculator()
    errors = [np.abs(finite_difference_hessian(own, atoms, h).hessian - exact).max() for h in (0.02, 0.01, 0.005)]
    ratios = np.array(errors[:-1]) / errors[1:]
    np.testing.assert_allclose(ratios, 4.0, rtol=0.05)
    assert np.abs(toy.get_hessian(atoms, "finite_difference") - exact).max() == pytest.approx(errors[-1], rel=1e-6)


def test_float32_models_give_float64_arrays():
    calc = HessianCalculator(attach_head(ToyBackbone(ToyModel().float()), SMALL))
    atoms = molecule("CH3OH")
    for method in ("direct", "autograd", "finite_difference"):
        found = calc.get_hessian(atoms, method)
        assert found.dtype == np.float64
        np.testing.assert_array_equal(found, found.T)


def test_a_single_atom(calc):
    atom = Atoms("O", positions=[(0.1, 0.2, 0.3)])
    np.testing.assert_array_equal(calc.get_hessian(atom), np.zeros((3, 3)))
    np.testing.assert_array_equal(calc.get_hessian(atom, "autograd"), np.zeros((3, 3)))


def test_a_diatomic_and_a_linear_molecule(toy):
    for name, modes in [("H2", 1), ("CO2", 4)]:
        atoms = molecule(name)
        for method in ("direct", "autograd"):
            vibrations = toy.get_vibrations(atoms, method)
            assert vibrations.geometry == "linear"
            assert len(vibrations.frequencies) == modes
            assert np.isfinite(vibrations.frequencies).all()


def test_sellas_calling_convention(toy):
    atoms = molecule("CH3OH")
    atoms.calc = toy
    hessian_function = atoms.calc.get_hessian
    assert hessian_function(atoms).shape == (18, 18)
    np.testing.assert_array_equal(hessian_function(atoms), toy.get_hessian())


# What is kept, and for how long


def test_passes_of_the_backbone(calc, layer, monkeypatch):
    atoms = ethanol()
    atoms.calc = calc
    with counted(layer, monkeypatch) as passes:
        atoms.get_potential_energy()
        atoms.get_forces()
        assert (passes.forward, passes.backward) == (1, 1)
        before = passes.forward, passes.with_gradients, passes.backward
        first = calc.get_hessian(atoms)
        assert (passes.forward, passes.with_gradients, passes.backward) == (before[0] + 1, before[1], before[2])
        np.testing.assert_array_equal(calc.get_hessian(atoms.copy()), first)
        calc.get_hessian()
        atoms.get_forces()
        assert passes.forward == before[0] + 1
        exact = calc.get_hessian(atoms, "autograd")
        assert passes.forward == before[0] + 2
        np.testing.assert_array_equal(calc.get_hessian(atoms), first)
        np.testing.assert_array_equal(calc.get_hessian(atoms, "autograd"), exact)
        atoms.get_potential_energy()
        assert passes.forward == before[0] + 2
    assert np.abs(first - exact).max() > 0


def test_a_direct_hessian_alone_is_one_pass_without_gradients(calc, layer, monkeypatch):
    with counted(layer, monkeypatch) as passes:
        calc.get_hessian(ethanol())
    assert (passes.forward, passes.with_gradients, passes.backward) == (1, 0, 0)


def test_finite_differences_keep_what_is_known_of_the_structure(toy, monkeypatch):
    atoms = molecule("H2O")
    atoms.calc = toy
    energy, forces, direct = atoms.get_potential_energy(), atoms.get_forces(), toy.get_hessian(atoms)
    with counted(toy.model.backbone.model, monkeypatch) as passes:
        toy.get_hessian(atoms, "finite_difference")
        assert passes.forward == 6 * len(atoms)
        assert atoms.get_potential_energy() == energy
        np.testing.assert_array_equal(atoms.get_forces(), forces)
        np.testing.assert_array_equal(toy.get_hessian(atoms), direct)
        assert passes.forward == 6 * len(atoms)


def _move(atoms: Atoms) -> None:
    atoms.positions[0, 0] += 1e-6


def _swap(atoms: Atoms) -> None:
    atoms.numbers[0] = 16


def _stretch(atoms: Atoms) -> None:
    atoms.cell[0, 0] += 0.01


def _open(atoms: Atoms) -> None:
    atoms.pbc = [True, True, False]


def _charge(atoms: Atoms) -> None:
    atoms.info["charge"] = 1


def _spin(atoms: Atoms) -> None:
    atoms.info["spin"] = 3


CHANGES = [_move, _swap, _stretch, _open, _charge, _spin]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_every_change_of_the_structure_is_noticed(toy, change):
    atoms = methanol_crystal()
    atoms.calc = toy
    toy.get_hessian(atoms), atoms.get_forces(), toy.get_hessian(atoms, "autograd")
    change(atoms)
    fresh = HessianCalculator(toy.model)
    expected = atoms.copy()
    assert atoms.get_potential_energy() == fresh.get_potential_energy(expected)
    np.testing.assert_array_equal(atoms.get_forces(), fresh.get_forces(expected))
    np.testing.assert_array_equal(toy.get_hessian(atoms), fresh.get_hessian(expected))
    np.testing.assert_array_equal(toy.get_hessian(atoms, "autograd"), fresh.get_hessian(expected, "autograd"))


def test_charge_and_spin_change_energy_and_exact_hessian(toy):
    atoms = molecule("CH3OH")
    seen = []
    for info in ({}, {"charge": 1}, {"charge": -1}, {"spin": 3}, {}):
        atoms.info = info
        seen.append((toy.get_potential_energy(atoms), toy.get_hessian(atoms, "autograd")))
    assert len({energy for energy, _ in seen}) == 4
    assert seen[0][0] == seen[-1][0]
    for _, hessian in seen[1:4]:
        assert np.abs(hessian - seen[0][1]).max() > 1e-3
    np.testing.assert_array_equal(seen[0][1], seen[-1][1])


def test_asking_for_a_hessian_forgets_energies_of_the_structure_before(toy):
    first, second = molecule("H2O"), molecule("CH3OH")
    before = toy.get_potential_energy(first)
    toy.get_hessian(second)
    assert toy.results == {}
    assert toy.get_potential_energy(first) == before
    with pytest.raises(StructureError):
        HessianCalculator(toy.model).get_hessian()


def test_calculate_called_directly_follows_the_structure(toy):
    water, methanol = molecule("H2O"), molecule("CH3OH")
    toy.get_hessian(water)
    toy.calculate(methanol, ["energy", "forces"])
    assert toy.results["forces"].shape == (6, 3)
    assert toy.get_hessian().shape == (18, 18)


def test_masses_and_constraints_do_not_recompute_but_count(toy, monkeypatch):
    atoms = molecule("CH3OH")
    light = toy.get_vibrations(atoms)
    with counted(toy.model.backbone.model, monkeypatch) as passes:
        atoms.set_masses([16.0 if z == 1 else None for z in atoms.numbers])
        heavy = toy.get_vibrations(atoms)
        assert passes.forward == 0
    assert np.abs(heavy.frequencies).max() < np.abs(light.frequencies).max()


def test_returned_arrays_are_copies(toy):
    atoms = molecule("H2O")
    kept = [toy.get_hessian(atoms), toy.get_forces(atoms)]
    expected = [array.copy() for array in kept]
    for array in kept:
        array += 1.0
    np.testing.assert_array_equal(toy.get_hessian(atoms), expected[0])
    np.testing.assert_array_equal(toy.get_forces(atoms), expected[1])


def test_the_structure_is_not_changed(calc):
    atoms = ethanol()
    atoms.info = {"charge": 0, "remark": "kept"}
    atoms.set_constraint(FixAtoms([0]))
    before = atoms.copy()
    calc.get_vibrations(atoms)
    assert atoms == before and atoms.info == before.info and atoms.calc is None
    assert [c.todict() for c in atoms.constraints] == [c.todict() for c in before.constraints]


def test_reset_after_new_weights(toy):
    atoms = molecule("H2O")
    before = toy.get_hessian(atoms)
    with torch.no_grad():
        for parameter in toy.model.head.parameters():
            parameter.mul_(1.1)
    np.testing.assert_array_equal(toy.get_hessian(atoms), before)
    toy.reset()
    assert np.abs(toy.get_hessian(atoms) - before).max() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_leaks_and_nothing_is_printed(calc, module, dtype, capfd):
    flags = [p.requires_grad for p in module.parameters()]
    attributes = set(vars(module))
    with default_dtype(dtype):
        atoms = ethanol()
        calc.get_vibrations(atoms)
        calc.get_hessian(atoms, "autograd")
        assert torch.get_default_dtype() == dtype
        with pytest.raises(HipExtError):
            calc.get_forces(Atoms("Xe"))
        assert torch.get_default_dtype() == dtype
    assert [p.requires_grad for p in module.parameters()] == flags
    assert all(p.grad is None for p in module.parameters())
    assert set(vars(module)) == attributes
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


# With the rest of ASE


def test_relaxation_and_ases_own_vibrations(toy, tmp_path):
    atoms = molecule("H2O")
    atoms.calc = toy
    BFGS(atoms, logfile=None).run(fmax=1e-6, steps=300)
    assert np.abs(atoms.get_forces()).max() < 1e-6
    # From the same forces by ASE's own displacements, with the rigid motions left in: the last three are the modes.
    reference = ASEVibrations(atoms, name=str(tmp_path / "modes"), delta=0.002)
    reference.run()
    expected = np.sort(np.real(reference.get_frequencies() ** 2))[-3:]
    found = toy.get_vibrations(atoms, "autograd")
    np.testing.assert_allclose(found.frequencies, np.sqrt(expected), rtol=2e-4)
    assert found.force_residual == pytest.approx(np.linalg.norm(atoms.get_forces(), axis=1).max())
    assert found.residuals.max() < 1e-4


def test_fixed_atoms(toy):
    atoms = molecule("CH3OH")
    free = toy.get_hessian(atoms, "autograd")
    atoms.set_constraint(FixAtoms([0, 1]))
    np.testing.assert_array_equal(toy.get_hessian(atoms, "autograd"), free)
    np.testing.assert_allclose(toy.get_hessian(atoms, "finite_difference"), free, atol=1e-3 * np.abs(free).max())
    vibrations = toy.get_vibrations(atoms, "autograd")
    weights = np.repeat(atoms.get_masses()[2:], 3) ** -0.5
    expected = np.linalg.eigvalsh(weights[:, None] * free[6:, 6:] * weights)
    np.testing.assert_allclose(vibrations.eigenvalues, expected, rtol=0, atol=1e-10 * np.abs(expected).max())
    atoms.set_constraint(FixBondLength(0, 1))
    with pytest.raises(StructureError, match="FixBondLength"):
        toy.get_vibrations(atoms)


def test_vibrations_of_the_last_structure_keep_its_constraints(toy):
    atoms = molecule("CH3OH")
    atoms.set_constraint(FixAtoms([0]))
    atoms.calc = toy
    atoms.get_forces()
    assert len(toy.get_vibrations().frequencies) == 15


def test_deep_copies_are_independent(calc):
    atoms = ethanol()
    warm_up(calc, atoms)
    energy, hessian = calc.get_potential_energy(atoms), calc.get_hessian(atoms)
    twin = copy.deepcopy(calc)
    assert twin.model is not calc.model
    warm_up(twin, atoms)
    moved = atoms.copy()
    moved.positions[0] += 0.1
    assert twin.get_potential_energy(moved) != energy
    assert twin.get_potential_energy(atoms) == energy
    np.testing.assert_array_equal(twin.get_hessian(atoms), hessian)
    assert calc.atoms.positions[0, 0] == atoms.positions[0, 0]
    copied = copy.deepcopy(calc.model)
    np.testing.assert_allclose(copied.hessian(atoms).dense().numpy(), hessian, rtol=0, atol=1e-13)


# What is refused


def _not_finite() -> Atoms:
    atoms = molecule("H2O")
    atoms.positions[1, 2] = np.nan
    return atoms


def _overlapping() -> Atoms:
    atoms = molecule("H2O")
    atoms.positions[1] = atoms.positions[2]
    return atoms


def _own_image() -> Atoms:
    return Atoms("H2", positions=[(0, 0, 0), (5.0, 0, 0)], cell=[5, 6, 7], pbc=True)


def _with(**info: object) -> Atoms:
    atoms = molecule("H2O")
    atoms.info = info
    return atoms


BAD = {
    "empty": (Atoms, StructureError, "no atoms"),
    "nan": (_not_finite, StructureError, "not a finite number: atom 1"),
    "overlap": (_overlapping, StructureError, "atoms 1 and 2 are 0.000 Å apart"),
    "overlap with an image": (_own_image, StructureError, "on one spot"),
    "element": (lambda: Atoms("Xe"), BackboneError, "does not know Xe"),
    "dummy": (lambda: Atoms("X"), StructureError, "no element at atom 0"),
    "no cell": (lambda: Atoms("H", pbc=True), StructureError, "spans no volume"),
    "half a charge": (lambda: _with(charge=0.5), StructureError, "whole charge"),
    "charge in words": (lambda: _with(charge="one"), StructureError, "not a number"),
    "too much charge": (lambda: _with(charge=11), StructureError, "only 10 electrons"),
    "spin": (lambda: _with(spin=2), StructureError, "cannot leave 1 unpaired"),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_structures_are_refused_before_any_pass(calc, layer, bad, monkeypatch):
    make, kind, message = BAD[bad]
    asks = [
        calc.get_potential_energy,
        calc.get_forces,
        calc.get_hessian,
        lambda atoms: calc.get_hessian(atoms, "autograd"),
        lambda atoms: calc.get_hessian(atoms, "finite_difference"),
        calc.get_vibrations,
    ]
    good = ethanol()
    energy = calc.get_potential_energy(good)
    with counted(layer, monkeypatch) as passes:
        for ask in asks:
            for _ in range(2):  # a refusal is not kept as a result
                with pytest.raises(kind) as error:
                    ask(make())
                assert message in one_line(error)
        assert passes.forward == 0
    assert calc.get_potential_energy(good) == energy


def test_unknown_methods(toy):
    for method, hint in [
        ("autgrad", "did you mean 'autograd'?"),
        ("finite-difference", "'finite_difference'"),
        (3, ""),
    ]:
        with pytest.raises(ConfigError, match="known are direct, autograd, finite_difference") as error:
            toy.get_hessian(molecule("H2O"), method)
        assert hint in one_line(error)


def test_something_else_than_a_model():
    with pytest.raises(ConfigError, match="found str: make one with from_pretrained") as error:
        HessianCalculator("hip-so3lr-organic")
    one_line(error)


def test_rigid_body_rule_makes_rotations_exact_and_is_an_option():
    model = attach_head(ToyBackbone.load(cutoff=4.0))
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.05, seed=3)
    calculator = HessianCalculator(model, rigid_body=True)
    hessian = calculator.get_hessian(atoms)
    gradient = -calculator.get_forces(atoms)
    for axis in np.eye(3):
        product = hessian @ np.cross(axis, atoms.positions).ravel()
        np.testing.assert_allclose(product, np.cross(axis, gradient).ravel(), atol=1e-9)
    assert np.abs(hessian - HessianCalculator(model).get_hessian(atoms)).max() > 1e-3
