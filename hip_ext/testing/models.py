"""What an adapter owes to the user's model and to the process around it: neither shows a trace of its use."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from hip_ext.backbones.base import Backbone
from hip_ext.calculator import HessianCalculator
from hip_ext.errors import BackboneError
from hip_ext.model import attach_head
from hip_ext.structures import Structures
from hip_ext.testing.case import SMALL_HEAD, BackboneCase, CaseFixtures
from hip_ext.testing.compare import assert_close, assert_same_features, default_dtype, features_of, framework_results
from hip_ext.testing.snapshot import Snapshot, hooks_on


class ModelConformance(CaseFixtures):
    """Tests that a model is used without being changed, and that copies and conversions are what they are called."""

    @pytest.fixture
    def found_model(self, case: BackboneCase) -> Any:
        """A model as users may have it: in training mode, and with a frozen parameter among trainable ones."""
        model = case.make_model()
        module = case.module(model)
        next(module.parameters()).requires_grad_(False)
        module.train()
        return model

    def test_the_model_stays_as_it_was(self, case: BackboneCase, calculator: Calculator, found_model: Any) -> None:
        """After each use, also by a head: same object, weights, flags, hooks, random state; then same results."""
        atoms = case.structures()[0]
        structures = Structures.from_ase(list(case.structures()))
        expected = _own_results(case, case.make_model())
        before = Snapshot(case.module(found_model))
        backbone = case.attach(found_model)
        assert backbone.model is found_model or backbone.model is case.module(found_model)
        before.assert_unchanged()
        model = attach_head(backbone, SMALL_HEAD)
        uses: list[Callable[[], object]] = [
            lambda: backbone.features(backbone.prepare(structures)),
            lambda: backbone.energy(backbone.prepare(structures)),
            lambda: backbone.evaluate(structures, stress="stress" in calculator.implemented_properties),
            lambda: features_of(backbone, atoms),
            lambda: backbone.calculator().get_potential_energy(atoms),
            lambda: model.energy_forces_hessian(structures),
            lambda: model.hessian(structures),
            lambda: HessianCalculator(model).get_hessian(atoms),
            backbone.close,
        ]
        for use in uses:
            use()
            before.assert_unchanged()
        for found, untouched in zip(_own_results(case, found_model), expected, strict=True):
            assert_close(found, untouched, case.repeats)

    def test_inputs_and_structures_are_not_changed(
        self, case: BackboneCase, backbone: Backbone, calculator: Calculator
    ) -> None:
        """Neither the structures nor what `prepare` makes of them."""
        structures = Structures.from_ase(list(case.structures()))
        before = copy.deepcopy(structures)
        inputs = backbone.prepare(structures)
        kept = {key: value.clone() for key, value in inputs.items()}
        backbone.energy(inputs)
        backbone.features(inputs)
        backbone.evaluate(structures, stress="stress" in calculator.implemented_properties)
        assert list(inputs) == list(kept)
        assert all(torch.equal(inputs[key], value) for key, value in kept.items())
        for name in Structures.__dataclass_fields__:
            assert torch.equal(getattr(structures, name), getattr(before, name))

    @pytest.mark.parametrize("use", ["features", "evaluate"])
    def test_an_interrupted_pass_leaves_no_trace(self, case: BackboneCase, found_model: Any, use: str) -> None:
        """Whatever goes wrong in the middle of a pass, hooks are gone and settings are back."""
        backbone = case.attach(found_model)
        structures = Structures.from_ase(case.structures()[0])
        expected = features_of(backbone, case.structures()[0])
        before = Snapshot(case.module(found_model))

        def run() -> object:
            return (
                backbone.features(backbone.prepare(structures)) if use == "features" else backbone.evaluate(structures)
            )

        with _interrupted_at(None) as calls:
            run()
        assert len(calls) > 0
        with pytest.raises(_Interrupted), _interrupted_at(len(calls) // 2):
            run()
        before.assert_unchanged()
        assert_same_features(features_of(backbone, case.structures()[0]), expected, case.repeats)

    def test_a_deep_copy_is_independent(self, case: BackboneCase, backbone: Backbone) -> None:
        """It gives the same features; changing its weights changes it alone."""
        backbone.evaluate(Structures.from_ase(case.structures()[0]))
        _assert_independent(case, backbone, copy.deepcopy(backbone))

    def test_a_pickled_copy_is_independent(self, case: BackboneCase, backbone: Backbone) -> None:
        """As a deep copy, for worker processes."""
        backbone.evaluate(Structures.from_ase(case.structures()[0]))
        _assert_independent(case, backbone, pickle.loads(pickle.dumps(backbone)))

    def test_fingerprint_tells_models_apart(self, case: BackboneCase, backbone: Backbone) -> None:
        """The same for the same weights, also in another dtype; another one after the smallest change."""
        fingerprint = backbone.source.fingerprint
        model = case.make_model()
        assert case.attach(model).source.fingerprint == fingerprint
        assert case.attach(model, dtype=torch.float32).source.fingerprint == fingerprint
        with torch.no_grad():
            value = next(case.module(model).parameters()).flatten()
            value[0] += 1e-6 * (1 + value[0].abs())
        assert case.attach(model).source.fingerprint != fingerprint

    def test_source_says_what_the_backbone_is(self, case: BackboneCase, backbone: Backbone) -> None:
        """Kind, name and fingerprint, and elements, reach and parity beside them."""
        source = backbone.source
        assert source.kind == backbone.kind == type(backbone).kind
        assert source.name
        assert len(source.fingerprint) == 64
        assert backbone.parity in ("o3", "so3")
        assert backbone.cutoff > 0
        assert backbone.elements >= {int(z) for atoms in case.structures() for z in atoms.numbers}

    def test_another_dtype_is_a_copy(self, case: BackboneCase, model: Any, backbone: Backbone) -> None:
        """In float32 the numbers are the same to single precision, and the user's model is not converted."""
        before = Snapshot(case.module(model))
        single = case.attach(model, dtype=torch.float32)
        before.assert_unchanged()
        assert single.model is not model
        assert single.dtype == torch.float32
        structures = Structures.from_ase(case.structures()[2])
        expected, found = backbone.evaluate(structures), single.evaluate(structures)
        assert found.forces.dtype == found.features.tensors.dtype == torch.float32
        assert_same_features(found.features.to(torch.float64), expected.features, 1e-4)
        assert_close(found.energy, expected.energy, 1e-5)
        assert_close(found.forces, expected.forces, 1e-4)

    def test_the_head_follows_device_and_dtype(self, case: BackboneCase, model: Any, backbone: Backbone) -> None:
        """A head is where the model is and computes in its dtype."""
        for attached, dtype in ((backbone, torch.float64), (case.attach(model, dtype=torch.float32), torch.float32)):
            whole = attach_head(attached, SMALL_HEAD)
            parameter = next(case.module(model).parameters())
            assert attached.device == whole.device == next(whole.head.parameters()).device == parameter.device
            assert attached.dtype == whole.dtype == next(whole.head.parameters()).dtype == dtype
            assert whole.hessian(case.structures()[0]).dense().dtype == dtype

    def test_a_cuda_device_gives_the_same_numbers(self, case: BackboneCase, model: Any, backbone: Backbone) -> None:
        """A copy on the device; results are there, and equal to those of the CPU up to rounding."""
        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
        remote = case.attach(model, device="cuda")
        assert backbone.device.type == "cpu"
        structures = Structures.from_ase(list(case.structures()))
        expected, found = backbone.evaluate(structures), remote.evaluate(structures)
        assert found.energy.is_cuda and found.forces.is_cuda and found.features.scalars.is_cuda
        assert_close(found.energy, expected.energy, 1e-9)
        assert_close(found.forces, expected.forces, 1e-9)
        atoms = case.structures()[0]
        hessian = attach_head(remote, SMALL_HEAD).hessian(atoms).dense()
        assert hessian.is_cuda
        assert_close(hessian, attach_head(backbone, SMALL_HEAD).hessian(atoms).dense(), 1e-8)

    def test_unknown_element_is_named(self, case: BackboneCase, backbone: Backbone) -> None:
        """In one line, with those that are known."""
        message = rf"^the {backbone.kind} backbone does not know {case.unknown_element}; it knows .*\w$"
        with pytest.raises(BackboneError, match=message):
            backbone.prepare(Structures.from_ase(Atoms(case.unknown_element)))


class _Interrupted(Exception):
    pass


@contextmanager
def _interrupted_at(call: int | None) -> Iterator[list[nn.Module]]:
    """Yields the modules that are called in this process; raises _Interrupted before the one with that number."""
    calls: list[nn.Module] = []

    def watch(module: nn.Module, args: object) -> None:
        if len(calls) == call:
            raise _Interrupted
        calls.append(module)

    hook = register_module_forward_pre_hook(watch)
    try:
        yield calls
    finally:
        hook.remove()


def _own_results(case: BackboneCase, model: Any) -> list[Any]:
    """Energy and forces of all structures by the framework's own calculator around this very model."""
    results = []
    with default_dtype(torch.float64):
        calculator = case.own_calculator(model)
    for atoms in case.structures():
        found = framework_results(calculator, atoms, ["energy", "forces"])
        results += [copy.deepcopy(found[name]) for name in ("energy", "forces")]
    return results


def _assert_independent(case: BackboneCase, backbone: Backbone, copied: Backbone) -> None:
    atoms = case.structures()[0]
    expected = features_of(backbone, atoms)
    assert_same_features(features_of(copied, atoms), expected, case.repeats)
    assert copied.source == backbone.source
    module = copied.model if isinstance(copied.model, nn.Module) else case.module(copied.model)
    assert hooks_on(module) == 0
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.5)
    assert (features_of(copied, atoms).vectors - expected.vectors).abs().max() > 1e-3 * expected.vectors.abs().max()
    assert_same_features(features_of(backbone, atoms), expected, case.repeats)
    copied.close()
