"""The conformance suite on SO3LR and on MACE with random and with trained weights, in float64.

What follows the suite holds for these frameworks alone: their models are modules that take the adapter's inputs.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from backbone_cases import CASES
from torch import Tensor, nn

from hip_ext.backbones.fingerprint import fingerprint
from hip_ext.structures import Structures
from hip_ext.testing import BackboneCase, BackboneConformance, Snapshot, assert_same_features, features_of
from hip_ext.testing.snapshot import hooks_on


@pytest.fixture(scope="module", params=list(CASES))
def case(request) -> BackboneCase:
    return CASES[request.param]


class TestBackbone(BackboneConformance):
    def test_reflections_are_promised(self, backbone):
        assert backbone.parity == "o3"

    def test_every_structure_has_a_stress(self, case, backbone, calculator):
        assert "stress" in calculator.implemented_properties
        stress = backbone.evaluate(Structures.from_ase(list(case.structures())), stress=True).stress
        assert torch.isfinite(stress).all()

    def test_own_calculator_holds_the_very_module(self, backbone):
        assert backbone.calculator().models[0] is backbone.model

    def test_fingerprint_is_that_of_the_module(self, case, model, backbone):
        assert backbone.source.fingerprint == fingerprint(model)
        assert case.attach(copy.deepcopy(model)).source.fingerprint == fingerprint(model)
        assert fingerprint(copy.deepcopy(model).float()) == fingerprint(model)

    def test_single_precision_throughout(self, case, model, backbone):
        single = type(backbone).load(model, dtype=torch.float32)
        structures = Structures.from_ase(case.structures()[2])
        found, expected = single.evaluate(structures, stress=True), backbone.evaluate(structures, stress=True)
        assert found.energy.dtype == found.stress.dtype == torch.float32
        torch.testing.assert_close(
            found.stress.double(), expected.stress, rtol=0, atol=1e-4 * float(expected.stress.abs().max())
        )

    def test_missing_input_leaves_no_hooks(self, case, backbone):
        inputs = backbone.prepare(Structures.from_ase(case.structures()[0]))
        del inputs["node_attrs"]
        with pytest.raises(KeyError):
            backbone.features(inputs)
        assert hooks_on(backbone.model) == 0
        assert_same_features(
            features_of(backbone, case.structures()[0]), features_of(backbone, case.structures()[0]), 0
        )

    def test_the_module_called_by_itself_gives_the_same_bits(self, case, found_model):
        """Also with long-range settings of the user's own, which other calls of the adapter must not overwrite."""
        structures = Structures.from_ase(list(case.structures()))
        inputs = raw_inputs(case, found_model, structures)
        if hasattr(found_model, "r_max_lr"):
            found_model.r_max_lr, found_model.dispersion_energy_cutoff_lr_damping = 9.0, 1.5
        energy, forces = raw_results(found_model, inputs)
        before = Snapshot(found_model)
        backbone = case.attach(found_model)
        backbone.evaluate(structures, stress=True)
        backbone.features(backbone.prepare(structures))
        backbone.calculator().get_potential_energy(case.structures()[0])
        backbone.close()
        before.assert_unchanged()
        again = raw_results(found_model, inputs)
        assert torch.equal(again[0], energy)
        assert torch.equal(again[1], forces)


def raw_inputs(case: BackboneCase, model: nn.Module, structures: Structures) -> dict[str, Tensor]:
    """The model's whole input, for SO3LR with the long-range graph, made by an adapter around a copy of the model."""
    probe: Any = case.attach(copy.deepcopy(model))
    inputs = probe.prepare(structures)
    return probe._with_long_range(inputs) if probe.kind == "so3lr" else inputs


def raw_results(model: nn.Module, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Energy and forces by calling the module itself."""
    inputs = {key: value.detach().clone() for key, value in inputs.items()}
    output = model(inputs, compute_force=True)
    return output["energy"].detach(), output["forces"].detach()
