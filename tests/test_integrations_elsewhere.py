"""Programs with environments of their own: pysisyphus, torch-sim, janus-core, quacc. Each part skips without its own.

docs/integrations.md says how such an environment is made.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule
from integration_cases import exact, inversion_guess, shipped_calculator, toy_calculator

from hip_ext.errors import BackboneError

ROOT = Path(__file__).resolve().parents[1]


def example(program: str, folder: Path) -> str:
    shipped_calculator()
    script = ROOT / f"examples/integrations/with_{program}.py"
    done = subprocess.run([sys.executable, script], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


class TestPysisyphus:
    @pytest.fixture(autouse=True)
    def _installed(self, tmp_path, monkeypatch):
        pytest.importorskip("pysisyphus", reason="pysisyphus is not installed: pip install 'pysisyphus>=1'")
        monkeypatch.chdir(tmp_path)  # where pysisyphus leaves its files

    def geometry(self, atoms, calculator, hessian_function=None, coord_type="redund", **options):
        from pysisyphus.constants import ANG2BOHR
        from pysisyphus.Geometry import Geometry

        from hip_ext.integrations.pysisyphus import PysisyphusCalculator

        made = Geometry(list(atoms.symbols), atoms.positions.ravel() * ANG2BOHR, coord_type=coord_type)
        made.set_calculator(PysisyphusCalculator(calculator, hessian_function, **options))
        return made

    def test_results_in_the_units_of_pysisyphus(self):
        from pysisyphus.constants import ANG2BOHR, AU2EV, EVANG2AUBOHR

        calculator, atoms = toy_calculator(), molecule("CH3OH")
        calc = self.geometry(atoms, calculator, exact(calculator), mult=1).calculator
        coords = atoms.positions.ravel() * ANG2BOHR
        symbols = [symbol.lower() for symbol in atoms.symbols]
        energy = calculator.get_potential_energy(atoms)
        for result in (calc.get_energy, calc.get_forces, calc.get_hessian, calc.run_calculation):
            assert result(symbols, coords)["energy"] * AU2EV == pytest.approx(energy, rel=1e-7)
        forces = calculator.get_forces(atoms).ravel() * EVANG2AUBOHR
        np.testing.assert_allclose(calc.get_forces(symbols, coords)["forces"], forces, rtol=1e-6, atol=1e-12)
        hessian = calculator.get_hessian(atoms, method="autograd") * EVANG2AUBOHR / ANG2BOHR
        np.testing.assert_allclose(calc.get_hessian(symbols, coords)["hessian"], hessian, rtol=1e-6, atol=1e-9)

    def test_pysisyphus_own_differences_agree_with_the_hessian(self):
        calculator, atoms = toy_calculator(), molecule("H2O")
        ours = self.geometry(atoms, calculator, exact(calculator)).cart_hessian
        numerical = self.geometry(atoms, calculator, exact(calculator), force_num_hess=True).cart_hessian
        np.testing.assert_allclose(ours, numerical, atol=1e-4)

    def test_minimum(self):
        from pysisyphus.optimizers.RFOptimizer import RFOptimizer

        calculator, atoms = toy_calculator(), molecule("H2O")
        atoms.rattle(0.05, seed=1)
        geometry = self.geometry(atoms, calculator, exact(calculator))
        optimiser = RFOptimizer(geometry, hessian_init="calc", hessian_recalc=1, thresh="gau_tight")
        optimiser.run()
        assert optimiser.is_converged
        assert np.linalg.eigvalsh(geometry.cart_hessian)[-3:].min() > 0.05
        assert np.abs(geometry.cart_forces).max() < 1e-5

    def test_saddle_and_both_sides_of_it(self):
        from pysisyphus.constants import ANG2BOHR
        from pysisyphus.irc.EulerPC import EulerPC
        from pysisyphus.tsoptimizers.RSPRFOptimizer import RSPRFOptimizer

        calculator, atoms = shipped_calculator(), inversion_guess()
        geometry = self.geometry(atoms, calculator, coord_type="cart", charge=0)
        search = RSPRFOptimizer(geometry, hessian_init="calc", hessian_recalc=1, thresh="gau")
        search.run()
        assert search.is_converged
        atoms.positions = geometry.coords3d / ANG2BOHR
        assert (np.linalg.eigvalsh(calculator.get_hessian(atoms, method="autograd")) < -0.5).sum() == 1

        path = EulerPC(geometry, max_cycles=25, hessian_recalc=5)
        path.run()
        heights = []
        for coords in (path.all_coords[0], path.all_coords[-1]):
            x = coords.reshape(-1, 3)
            normal = np.cross(x[2] - x[1], x[3] - x[1])
            heights.append((x[0] - x[1:].mean(0)) @ normal / np.linalg.norm(normal))
        assert heights[0] * heights[1] < 0  # nitrogen is on one side of the hydrogens, then on the other
        assert np.abs(heights).min() > 0.3
        top = path.all_energies.max()
        assert top - path.all_energies[[0, -1]].max() > 0.003  # Hartree

    def test_what_the_backbone_does_not_know_is_its_own_error(self):
        from pysisyphus.constants import ANG2BOHR

        calc = self.geometry(molecule("H2O"), toy_calculator()).calculator
        with pytest.raises(BackboneError, match="does not know He"):
            calc.get_hessian(["He", "H"], np.array([0, 0, 0, 0, 0, 1.0]) * ANG2BOHR)

    def test_orcas_gradient_file_by_pysisyphus_own_parser(self, tmp_path):
        from pysisyphus.calculators.ORCA import ORCA

        from hip_ext.integrations.atomic_units import AtomicUnits
        from hip_ext.integrations.orca import format_engrad

        atoms, units = molecule("CH3OH"), AtomicUnits(toy_calculator())
        text = format_engrad(units.energy(atoms), atoms, units.gradient(atoms))
        (tmp_path / "job_EXT.engrad").write_text(text, encoding="ascii")
        found = ORCA.parse_engrad(None, tmp_path)
        assert found["energy"] == pytest.approx(units.energy(atoms), abs=1e-11)
        np.testing.assert_allclose(found["forces"], -units.gradient(atoms), atol=1e-11)

    def test_example(self, tmp_path):
        assert "negative: 1" in example("pysisyphus", tmp_path)


class TestTorchSim:
    @pytest.fixture(autouse=True)
    def _installed(self):
        reason = "torch-sim is not installed: pip install torch-sim-atomistic (Python 3.12 or later)"
        pytest.importorskip("torch_sim", reason=reason)

    @pytest.fixture
    def model(self):
        from hip_ext.integrations.torch_sim import TorchSimModel

        return TorchSimModel(toy_calculator().model)

    def state(self, structures):
        import torch
        import torch_sim

        return torch_sim.io.atoms_to_state(structures, torch.device("cpu"), torch.float64)

    def test_torch_sims_own_validation(self, model):
        import torch
        from torch_sim.models.interface import validate_model_outputs

        def known(state):
            """Elements of the toy potential in place of Mg and Fe."""
            state = state.clone()
            for element, other in ((12, 16), (26, 29)):
                state.atomic_numbers[state.atomic_numbers == element] = other
            return state

        validate_model_outputs(model, torch.device("cpu"), torch.float64, state_modifier=known)

    def test_results_are_those_of_the_calculator(self, model):
        calculator = toy_calculator()
        skewed = molecule("CH3OH")
        skewed.cell, skewed.pbc = [[5, 0, 0], [1, 5.5, 0], [0.5, -1, 6]], True
        other = skewed.copy()
        other.rattle(0.1, seed=2)
        structures = [skewed, other]
        state = self.state(structures)
        model.compute_stress = True
        results, hessians = model(state), model.hessians(state)
        for k, atoms in enumerate(structures):
            assert results["energy"][k].item() == pytest.approx(calculator.get_potential_energy(atoms), rel=1e-12)
            forces = results["forces"][state.system_idx == k].numpy()
            np.testing.assert_allclose(forces, calculator.get_forces(atoms), atol=1e-10)
            atoms.calc = calculator
            np.testing.assert_allclose(results["stress"][k].numpy(), atoms.get_stress(voigt=False), atol=1e-10)
            np.testing.assert_allclose(hessians[k].numpy(), calculator.get_hessian(atoms), atol=1e-10)
        model.compute_stress = False
        assert "stress" not in model(state)

    def test_charge_and_spin_of_the_state_are_used(self, model):
        import torch

        calculator, atoms = toy_calculator(), molecule("H2O")
        state = self.state([atoms])
        state._system_extras |= {"charge": torch.tensor([1.0]), "spin": torch.tensor([2.0])}
        atoms.info |= {"charge": 1, "spin": 2}
        neutral = self.state([molecule("H2O")])
        assert model(state)["energy"].item() == pytest.approx(calculator.get_potential_energy(atoms), rel=1e-12)
        assert model(state)["energy"].item() != pytest.approx(model(neutral)["energy"].item(), rel=1e-6)

    def test_a_batch_relaxes(self, model):
        import torch_sim

        structures = [molecule(name) for name in ("H2O", "NH3")]
        options = {"optimizer": torch_sim.Optimizer.fire, "max_steps": 600}
        state = torch_sim.optimize(system=structures, model=model, **options)
        assert model(state)["forces"].abs().max() < model(self.state(structures))["forces"].abs().max() / 3

    def test_example(self, tmp_path):
        assert "softest" in example("torch_sim", tmp_path)


class TestJanus:
    @pytest.fixture(autouse=True)
    def _installed(self, tmp_path, monkeypatch):
        pytest.importorskip("janus_core", reason="janus-core is not installed: pip install janus-core")
        monkeypatch.chdir(tmp_path)

    def test_hessian_of_a_single_point(self):
        from janus_core.calculations.single_point import SinglePoint

        calculator, atoms = toy_calculator(), molecule("CH3OH")
        atoms.calc = calculator
        results = SinglePoint(struct=atoms, properties=["energy", "forces", "hessian"]).run()
        np.testing.assert_array_equal(results["hessian"], calculator.get_hessian(molecule("CH3OH")))
        np.testing.assert_array_equal(results["forces"], calculator.get_forces(molecule("CH3OH")))

    def test_example(self, tmp_path):
        assert "Hessian: (18, 18)" in example("janus", tmp_path)


class TestQuacc:
    def test_recipe(self, tmp_path):
        pytest.importorskip("quacc", reason="quacc is not installed: pip install quacc")
        pytest.importorskip("sella", reason="Sella is not installed: pip install 'hip-ext[integrations]'")
        assert "converged: True" in example("quacc", tmp_path)
