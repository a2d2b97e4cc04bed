"""What the energy of a backbone owes: the framework's own numbers, untouched, and derivatives that belong together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.stress import voigt_6_to_full_3x3_stress
from torch import Tensor

from hip_ext.backbones.base import Backbone
from hip_ext.errors import BackboneError, HipExtError
from hip_ext.structures import Structures
from hip_ext.testing.case import PLACEMENTS, BackboneCase, CaseFixtures
from hip_ext.testing.compare import assert_close, assert_same_features, features_of, framework_results


class EnergyConformance(CaseFixtures):
    """Tests of `Backbone.energy`, `Backbone.evaluate` and `Backbone.calculator`."""

    @pytest.mark.parametrize("name", list(PLACEMENTS))
    def test_evaluate_agrees_with_the_frameworks_own_calculator(
        self, case: BackboneCase, backbone: Backbone, calculator: Calculator, name: str
    ) -> None:
        """Energy, forces and, where the framework has it, stress: to 1e-10 by another graph and another batching."""
        molecule, _, crystal = case.structures()
        atoms = PLACEMENTS[name](molecule, crystal)
        if name in case.refused:
            with pytest.raises(HipExtError):
                backbone.evaluate(Structures.from_ase(atoms))
            return
        own = framework_results(calculator, atoms, ["energy", "forces", "stress"])
        has_stress = "stress" in own and bool(np.isfinite(own["stress"]).all())
        found = backbone.evaluate(Structures.from_ase(atoms), stress=has_stress)
        assert_close(found.energy[0], own["energy"])
        assert found.forces.shape == (len(atoms), 3)
        np.testing.assert_allclose(found.forces, own["forces"], rtol=0, atol=1e-10 * _scale(own["forces"], 1.0))
        if has_stress:
            stress = voigt_6_to_full_3x3_stress(own["stress"])
            assert found.stress is not None
            np.testing.assert_allclose(found.stress[0], stress, rtol=0, atol=1e-10 * _scale(stress, 1e-3))
        with torch.no_grad():
            energy = backbone.energy(backbone.prepare(Structures.from_ase(atoms)))
        assert_close(energy, found.energy, max(1e-13, case.repeats))

    def test_evaluate_gives_the_features_of_its_own_pass(
        self, case: BackboneCase, backbone: Backbone, calculator: Calculator
    ) -> None:
        """With stress or without it, and detached; also inside no_grad."""
        atoms = case.structures()[2]
        structures = Structures.from_ase(atoms)
        plain = backbone.evaluate(structures)
        strained = backbone.evaluate(structures, stress="stress" in calculator.implemented_properties)
        assert plain.stress is None
        for found in (plain, strained):
            assert_same_features(found.features, features_of(backbone, atoms))
            tensors = (found.energy, found.forces, found.features.scalars, found.features.vectors)
            assert not any(tensor.requires_grad for tensor in tensors)
        with torch.no_grad():
            assert_close(backbone.evaluate(structures).forces, plain.forces)

    def test_energies_of_a_batch_are_those_of_its_structures(
        self, case: BackboneCase, backbone: Backbone, calculator: Calculator
    ) -> None:
        """Energy, forces and stress; molecules and crystals in one batch."""
        many, start = list(case.structures()), 0
        stress = "stress" in calculator.implemented_properties
        batch = backbone.evaluate(Structures.from_ase(many), stress=stress)
        for b, atoms in enumerate(many):
            alone = backbone.evaluate(Structures.from_ase(atoms), stress=stress)
            assert_close(batch.energy[b], alone.energy[0])
            assert_close(batch.forces[start : start + len(atoms)], alone.forces)
            start += len(atoms)
            if batch.stress is None or alone.stress is None:
                assert not stress
            elif atoms.pbc.all() or bool(torch.isfinite(alone.stress).all()):  # a molecule has no volume of its own
                assert_close(batch.stress[b], alone.stress[0])

    def test_forces_are_minus_the_gradient_of_the_energy(self, case: BackboneCase, backbone: Backbone) -> None:
        """By automatic differentiation and by central differences along a random direction."""
        if not case.conservative:
            pytest.skip("the forces of this model are not the gradient of its energy")
        structures = Structures.from_ase(list(case.structures()))
        inputs = backbone.prepare(structures)
        positions = inputs["positions"].requires_grad_(True)
        (gradient,) = torch.autograd.grad(backbone.energy(inputs).sum(), positions)
        forces = backbone.evaluate(structures).forces
        assert_close(forces, -gradient)
        direction = torch.randn(positions.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        step = 1e-4
        plus, minus = (_energies(backbone, structures, sign * step * direction).sum() for sign in (1, -1))
        assert float((forces * direction).sum()) == pytest.approx(-float((plus - minus) / (2 * step)), rel=1e-6)

    def test_stress_is_the_derivative_of_the_energy_by_strain(
        self, case: BackboneCase, backbone: Backbone, calculator: Calculator
    ) -> None:
        """Against central differences of a random strain; a framework without stress says so."""
        crystal = case.structures()[2]
        structures = Structures.from_ase(crystal)
        if "stress" not in calculator.implemented_properties:
            with pytest.raises(BackboneError):
                backbone.evaluate(structures, stress=True)
            return
        if not case.conservative:
            pytest.skip("the stress of this model is not the derivative of its energy")
        strain = np.random.default_rng(0).normal(size=(3, 3))
        strain = strain + strain.T
        step, energies = 1e-5, []
        for sign in (1, -1):
            strained = crystal.copy()
            strained.set_cell(crystal.cell.array @ (np.eye(3) + sign * step * strain), scale_atoms=True)
            with torch.no_grad():
                energies.append(float(backbone.energy(backbone.prepare(Structures.from_ase(strained)))))
        stress = backbone.evaluate(structures, stress=True).stress
        assert stress is not None
        slope = (energies[0] - energies[1]) / (2 * step * crystal.get_volume())
        assert float((stress[0].numpy() * strain).sum()) == pytest.approx(slope, rel=1e-6)

    def test_own_calculator_is_around_the_same_model(self, case: BackboneCase) -> None:
        """It agrees with `evaluate`, follows a change of the weights, and leaves no trace on the model."""
        model = case.make_model()
        backbone = case.attach(model)
        parameters = list(case.module(model).parameters())
        flags, default = [parameter.requires_grad for parameter in parameters], torch.get_default_dtype()
        calculator = backbone.calculator()
        molecule, _, crystal = case.structures()
        before = _agreed_energy(backbone, calculator, molecule)
        _agreed_energy(backbone, calculator, crystal)
        with torch.no_grad():
            for parameter in parameters:
                parameter.mul_(1.01)
        assert abs(_agreed_energy(backbone, calculator, molecule) - before) > 1e-6 * abs(before)
        assert [parameter.requires_grad for parameter in parameters] == flags
        assert torch.get_default_dtype() == default


def _agreed_energy(backbone: Backbone, calculator: Calculator, atoms: Atoms) -> float:
    """The energy in eV about which calculator and `evaluate` agree, as they must about forces and stress."""
    calculator.reset()
    atoms.calc = calculator
    stress = "stress" in calculator.implemented_properties and bool(atoms.pbc.all())
    found = backbone.evaluate(Structures.from_ase(atoms), stress=stress)
    assert_close(found.energy[0], atoms.get_potential_energy())
    assert_close(found.forces, atoms.get_forces())
    if stress:
        assert found.stress is not None
        assert_close(found.stress[0], voigt_6_to_full_3x3_stress(atoms.get_stress()))
    return float(found.energy[0])


def _energies(backbone: Backbone, structures: Structures, displacement: Tensor) -> Tensor:
    with torch.no_grad():
        return backbone.energy(backbone.prepare(structures.with_positions(structures.positions + displacement)))


def _scale(values: np.ndarray, smallest: float) -> float:
    return max(smallest, float(np.abs(values).max()))
