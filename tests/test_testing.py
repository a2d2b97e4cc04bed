"""The conformance suite itself: a sound adapter passes it, and each of many broken ones fails where it is broken."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from toy_backbone import ToyBackbone, ToyCalculator, ToyModel

from hip_ext.backbones.base import BackboneSource
from hip_ext.backbones.borrowed import converted
from hip_ext.errors import BackboneError
from hip_ext.testing import BackboneCase, BackboneConformance, default_dtype

pytest_plugins = ["pytester"]


class Toy(ToyBackbone):
    """A sound adapter, with a place where the broken ones below change its features."""

    @classmethod
    def load(cls, source=None, device=None, dtype=None, **options):
        return cls(converted(source, device, dtype))

    def seen(self, features, inputs):
        return features

    def features(self, inputs):
        return self.seen(super().features(inputs), inputs)

    def evaluate(self, structures, *, stress=False):
        found = super().evaluate(structures, stress=stress)
        return replace(found, features=self.seen(found.features, self.prepare(structures)).detach())


class Model(ToyModel):
    """The toy as a model that lists its layers."""

    @property
    def layers(self) -> list[nn.Module]:
        return [self]


def case_of(adapter: type[Toy]) -> BackboneCase:
    return BackboneCase(Model, adapter.load, lambda model: Toy(model).calculator(), layers="layers")


class TestSoundAdapter(BackboneConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def case(cls):
        return case_of(Toy)


# Adapters of another sort


class Unit:
    """What some frameworks have in the place of a module."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module


class UnitToy(Toy):
    """Around a `Unit`, whose forces are not a gradient, differ from call to call, and need two atoms."""

    calls = 0

    @classmethod
    def load(cls, source=None, device=None, dtype=None, **options):
        return cls(converted(source.module, device, dtype))

    def evaluate(self, structures, *, stress=False):
        if min(structures.sizes) < 2:
            raise BackboneError("this toy needs two atoms in every structure")
        UnitToy.calls += 1
        found = super().evaluate(structures, stress=stress)
        forces = found.forces * (1 + 1e-14 * (UnitToy.calls % 7)) + 1e-3 * found.features.vectors.sum(1)
        return replace(found, forces=forces)


class TestAdapterOfAnotherSort(BackboneConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def case(cls):
        return BackboneCase(
            make_model=lambda: Unit(ToyModel()),
            attach=UnitToy.load,
            own_calculator=lambda unit: UnitToy(unit.module).calculator(),
            module=lambda unit: unit.module,
            refused=frozenset({"one atom"}),
            conservative=False,
            repeats=1e-12,
        )


def with_axial_part(features):
    """Vectors that turn with the atoms but have no parity."""
    v = features.vectors
    return replace(features, vectors=v + torch.linalg.cross(v, v.roll(1, dims=1), dim=-1))


class RotationsOnly(Toy):
    """Features without parity, said to be so."""

    parity = "so3"

    def seen(self, features, inputs):
        return replace(with_axial_part(features), parity="so3")


class TestAdapterWithoutParity(BackboneConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def case(cls):
        return case_of(RotationsOnly)


# Broken adapters: each names the tests that must fail, and some beside them that must not


class Nudged(ToyCalculator):
    def calculate(self, *args):
        super().calculate(*args)
        self.results["energy"] *= 1 + 1e-15


BROKEN: dict[str, type[Toy]] = {}
EXPECTED: dict[str, tuple[list[str], list[str]]] = {}


def broken(fails: list[str], passes: list[str]):
    def register(adapter: type[Toy]) -> type[Toy]:
        BROKEN[adapter.__name__] = adapter
        EXPECTED[adapter.__name__] = (fails, passes)
        return adapter

    return register


TURN, MIRROR = "test_features_turn_with_the_atoms", "test_direct_hessian_is_the_same_after_inversion[molecule]"
WIDTHS = "test_features_have_the_promised_widths_and_are_not_trivial"
SHIFTED, ORDERED = "test_features_do_not_move_with_a_translation", "test_features_follow_a_permutation"
BATCHED = "test_features_of_a_batch_are_those_of_its_structures"
OWN, FORCES = (
    "test_evaluate_agrees_with_the_frameworks_own_calculator",
    "test_forces_are_minus_the_gradient_of_the_energy",
)
STRESS, SAME_MODEL = (
    "test_stress_is_the_derivative_of_the_energy_by_strain",
    "test_own_calculator_is_around_the_same_model",
)
STAYS, INTERRUPTED = "test_the_model_stays_as_it_was", "test_an_interrupted_pass_leaves_no_trace"
INPUTS, UNKNOWN = "test_inputs_and_structures_are_not_changed", "test_unknown_element_is_named"
ALONE = "test_a_head_leaves_energy_and_forces_alone"


@broken(
    [
        f"{TURN}[reflections-molecule]",
        f"{TURN}[reflections-crystal]",
        "test_features_under_inversion[molecule]",
        MIRROR,
    ],
    [f"{TURN}[rotations-molecule]", "test_direct_hessian_turns_with_the_atoms[rotations-molecule]"],
)
class NoParity(Toy):
    def seen(self, features, inputs):
        return with_axial_part(features)


@broken(
    [f"{TURN}[rotations-molecule]", "test_direct_hessian_turns_with_the_atoms[rotations-crystal]"],
    [f"{ORDERED}[molecule]", "test_features_under_inversion[molecule]"],
)
class WrongOrderOfComponents(Toy):
    def seen(self, features, inputs):
        return replace(features, vectors=features.vectors[..., [1, 2, 0]])


@broken([f"{ORDERED}[molecule]", "test_direct_hessian_follows_a_permutation[crystal]"], [f"{SHIFTED}[molecule]"])
class CountsAtoms(Toy):
    def seen(self, features, inputs):
        place = torch.arange(len(features.scalars)).to(features.scalars)
        return replace(features, scalars=features.scalars + 1e-3 * place[:, None])


@broken([f"{SHIFTED}[molecule]", "test_atoms_may_be_anywhere_in_the_lattice"], [f"{ORDERED}[crystal]"])
class KnowsTheOrigin(Toy):
    def seen(self, features, inputs):
        return replace(features, scalars=features.scalars + 1e-6 * inputs["positions"].norm(dim=-1, keepdim=True))


@broken([BATCHED, "test_direct_hessians_of_a_batch_are_those_of_its_structures"], [f"{ORDERED}[molecule]"])
class SeesTheBatch(Toy):
    def seen(self, features, inputs):
        return replace(features, scalars=features.scalars - features.scalars.mean(0))


@broken([WIDTHS], [f"{TURN}[reflections-crystal]"])
class TensorsWithTrace(Toy):
    def seen(self, features, inputs):
        return replace(features, tensors=features.tensors + 1e-6 * torch.eye(3).to(features.tensors))


@broken([WIDTHS], [f"{TURN}[reflections-molecule]"])
class DeadChannel(Toy):
    def seen(self, features, inputs):
        return replace(features, vectors=features.vectors * (torch.arange(features.vectors.shape[1]) > 0)[:, None])


@broken([WIDTHS], [f"{ORDERED}[molecule]"])
class WrongWidths(Toy):
    def __init__(self, model=None):
        super().__init__(model)
        self.widths = (self.widths[0], self.widths[1], self.widths[2] + 1)


@broken(["test_features_can_be_differentiated"], ["test_features_keep_nothing_for_a_backward_pass"])
class DetachedFeatures(Toy):
    def seen(self, features, inputs):
        return features.detach()


@broken(["test_features_keep_nothing_for_a_backward_pass"], ["test_features_can_be_differentiated"])
class GradientsForcedOn(Toy):
    def features(self, inputs):
        wanted = torch.is_grad_enabled()
        with torch.enable_grad():
            features = super().features(inputs)
        return features if wanted else features.detach()


@broken(["test_gradients_reach_every_parameter_of_the_head"], [BATCHED])
class GraphInsideNoGrad(Toy):
    def features(self, inputs):
        with torch.enable_grad():
            return super().features(inputs)


@broken(["test_features_take_one_forward_pass"], [f"{TURN}[rotations-molecule]"])
class TwoPasses(Toy):
    def features(self, inputs):
        super().features(inputs)
        return super().features(inputs)


@broken(
    [f"{OWN}[crystal]", f"{OWN}[slab]", f"{OWN}[wire]", "test_supercell_repeats_the_features"], [f"{OWN}[molecule]"]
)
class NoImages(Toy):
    def prepare(self, structures):
        inputs = super().prepare(structures)
        inside = inputs["shifts"].abs().amax(-1) == 0
        return inputs | {"edge_index": inputs["edge_index"][:, inside], "shifts": inputs["shifts"][inside]}


@broken([f"{OWN}[molecule]", f"{OWN}[one atom]"], [FORCES, f"{TURN}[rotations-molecule]"])
class OtherEnergy(Toy):
    def evaluate(self, structures, *, stress=False):
        found = super().evaluate(structures, stress=stress)
        return replace(found, energy=found.energy + 1e-7)


@broken([f"{OWN}[molecule]", f"{OWN}[crystal]", FORCES], [STRESS])
class OtherForces(Toy):
    def evaluate(self, structures, *, stress=False):
        found = super().evaluate(structures, stress=stress)
        return replace(found, forces=found.forces * (1 + 1e-8))


@broken([f"{OWN}[crystal]", STRESS], [f"{OWN}[molecule]", FORCES])
class OtherSignOfTheStress(Toy):
    def evaluate(self, structures, *, stress=False):
        found = super().evaluate(structures, stress=stress)
        return replace(found, stress=-found.stress if stress else None)


@broken([ALONE], [f"{OWN}[molecule]", FORCES])
class LastDigitOfTheEnergy(Toy):
    def calculator(self):
        return Nudged(self)


@broken(["test_energies_of_a_batch_are_those_of_its_structures"], [f"{OWN}[molecule]", BATCHED])
class EnergyOfTheWholeBatch(Toy):
    def evaluate(self, structures, *, stress=False):
        found = super().evaluate(structures, stress=stress)
        return replace(found, energy=found.energy.mean().expand(len(found.energy)))


@broken(["test_autograd_hessian_is_the_derivative_of_the_gradient[molecule]"], [FORCES])
class OnceDifferentiable(Toy):
    def energy(self, inputs):
        x = inputs["positions"].detach().clone().requires_grad_(True)
        with torch.enable_grad():
            energy = super().energy(inputs | {"positions": x})
            (gradient,) = torch.autograd.grad(energy.sum(), x)
        moved = (gradient * (inputs["positions"] - x.detach())).sum(-1)
        return energy.detach().index_add(0, inputs["batch"], moved)


@broken([SAME_MODEL], [f"{OWN}[molecule]"])
class CalculatorOfACopy(Toy):
    def calculator(self):
        return Toy(copy.deepcopy(self.model)).calculator()


@broken([STAYS], [UNKNOWN, f"{TURN}[rotations-molecule]"])
class LeavesAHook(Toy):
    def __init__(self, model=None):
        super().__init__(model)
        self.model.register_forward_hook(lambda *_: None)


@broken([f"{INTERRUPTED}[features]"], [STAYS])
class HookOfAFailedPass(Toy):
    def features(self, inputs):
        hook = self.model.register_forward_hook(lambda *_: None)
        features = super().features(inputs)
        hook.remove()
        return features


@broken([STAYS], [INPUTS])
class Freezes(Toy):
    def evaluate(self, structures, *, stress=False):
        self.model.requires_grad_(False)
        return super().evaluate(structures, stress=stress)


@broken([STAYS], [INPUTS])
class SwitchesToEvaluation(Toy):
    def __init__(self, model=None):
        super().__init__(model)
        self.model.eval()


@broken([STAYS], [INPUTS])
class SetsTheDefaultDtype(Toy):
    def evaluate(self, structures, *, stress=False):
        torch.set_default_dtype(torch.float64)
        return super().evaluate(structures, stress=stress)


@broken([STAYS], [INPUTS])
class DrawsRandomNumbers(Toy):
    def features(self, inputs):
        torch.rand(3)
        return super().features(inputs)


@broken([STAYS], [INPUTS])
class KeepsTensorsOnTheModel(Toy):
    def energy(self, inputs):
        self.model.last_energy = super().energy(inputs)
        return self.model.last_energy


@broken([STAYS, "test_a_head_leaves_energy_and_forces_alone"], [INPUTS])
class TouchesTheWeights(Toy):
    def __init__(self, model=None):
        super().__init__(model)
        with torch.no_grad():
            self.model.depth.mul_(1 + 1e-15)


@broken([INPUTS], [STAYS])
class ChangesItsInputs(Toy):
    def features(self, inputs):
        features = super().features(inputs)
        inputs["unpaired"] += 1
        return features


@broken(["test_a_deep_copy_is_independent"], [STAYS])
class CopiesShareTheModel(Toy):
    def __deepcopy__(self, memo):
        return type(self)(self.model)


@broken(["test_another_dtype_is_a_copy", "test_the_head_follows_device_and_dtype"], [STAYS])
class ConvertsInPlace(Toy):
    @classmethod
    def load(cls, source=None, device=None, dtype=None, **options):
        return cls(source.to(device=device, dtype=dtype))


@broken(["test_fingerprint_tells_models_apart", "test_checkpoint_gives_back_the_same_hessian"], [STAYS])
class OneFingerprintForAll(Toy):
    def __init__(self, model=None):
        super().__init__(model)
        self.source = BackboneSource(self.kind, "in-memory", "0" * 64)


@broken([UNKNOWN], [f"{OWN}[molecule]"])
class TakesAnyElement(Toy):
    def check_elements(self, structures):
        pass


@pytest.mark.parametrize("name", list(BROKEN))
def test_a_broken_adapter_fails_where_it_is_broken(pytester, name):
    pytester.makepyfile(
        test_broken=f"""
        import pytest
        from hip_ext.testing import BackboneConformance
        from test_testing import BROKEN, case_of

        @pytest.fixture(scope="module")
        def case():
            return case_of(BROKEN["{name}"])

        class TestBroken(BackboneConformance):
            pass
        """
    )
    fails, passes = EXPECTED[name]
    wanted = [f"test_broken.py::TestBroken::{test}" for test in (*fails, *passes)]
    with default_dtype(torch.get_default_dtype()):
        passed, skipped, failed = pytester.inline_run("-p", "no:cacheprovider", *wanted).listoutcomes()
    assert {report.when for report in failed} == {"call"}
    assert sorted(report.nodeid.partition("::TestBroken::")[2] for report in failed) == sorted(fails)
    assert sorted(report.nodeid.partition("::TestBroken::")[2] for report in passed) == sorted(passes)
    assert not skipped
