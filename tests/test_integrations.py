"""Programs of the development environment that take our Hessian: ASE, Sella, geomeTRIC, phonopy."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.optimize import BFGS
from ase.vibrations import VibrationsData
from integration_cases import BOHR, HARTREE, exact, inversion_guess, shipped_calculator, toy_calculator

from hip_ext.displacements import TERAHERTZ
from hip_ext.errors import ConfigError, StructureError
from hip_ext.integrations.atomic_units import AtomicUnits, structure
from hip_ext.phonons import phonon_wavenumbers
from hip_ext.vibrations import analyse
from hip_ext.workflows.relax import positive

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def calculator():
    return toy_calculator()


@pytest.fixture
def methanol() -> Atoms:
    atoms = molecule("CH3OH")
    atoms.rattle(0.05, seed=1)
    return atoms


@pytest.fixture
def water() -> Atoms:
    atoms = molecule("H2O")
    atoms.rattle(0.1, seed=1)
    return atoms


def test_atomic_units_against_scipys_constants(calculator, methanol):
    units = AtomicUnits(calculator, exact(calculator))
    assert units.energy(methanol) * HARTREE == pytest.approx(calculator.get_potential_energy(methanol), rel=1e-7)
    forces = calculator.get_forces(methanol).ravel()
    np.testing.assert_allclose(units.gradient(methanol) * HARTREE / BOHR, -forces, rtol=1e-7)
    hessian = calculator.get_hessian(methanol, method="autograd")
    np.testing.assert_allclose(units.hessian(methanol) * HARTREE / BOHR**2, hessian, rtol=1e-7)
    assert (units.dipole(methanol) == 0).all()


def test_gradient_and_hessian_are_derivatives_in_bohr(calculator, methanol):
    units = AtomicUnits(calculator, exact(calculator))
    place, step = methanol.positions.ravel() / BOHR, 1e-4
    gradient, hessian = units.gradient(methanol), units.hessian(methanol)
    for k in (0, 7, 17):
        ends = [structure(methanol.numbers, place + sign * step * np.eye(18)[k]) for sign in (1, -1)]
        slope = (units.energy(ends[0]) - units.energy(ends[1])) / (2 * step)
        assert slope == pytest.approx(gradient[k], abs=1e-8)
        curve = (units.gradient(ends[0]) - units.gradient(ends[1])) / (2 * step)
        np.testing.assert_allclose(curve, hessian[k], atol=1e-7)


def test_what_cannot_give_a_hessian_is_refused(methanol):
    with pytest.raises(ConfigError, match="EMT has no get_hessian"):
        AtomicUnits(EMT())
    with pytest.raises(ConfigError, match=r"shape \(18, 18\), found \(6, 3, 6, 3\)"):
        AtomicUnits(EMT(), lambda atoms: np.zeros((6, 3, 6, 3))).hessian(methanol)


def test_ase_takes_the_hessian(calculator):
    """As the start of BFGS, which then needs fewer steps, and as vibrations with the frequencies of our own."""
    steps = {}
    for start in ("default", "ours"):
        atoms = molecule("H2O")
        atoms.rattle(0.05, seed=1)
        atoms.calc = calculator
        optimiser = BFGS(atoms, logfile=None)
        if start == "ours":
            optimiser.H0 = positive(calculator.get_hessian(atoms, method="autograd"))
        assert optimiser.run(fmax=1e-5, steps=100)
        steps[start] = optimiser.nsteps
    assert steps["ours"] < steps["default"]
    hessian = calculator.get_hessian(atoms, method="autograd")
    found = VibrationsData.from_2d(atoms, hessian).get_frequencies().real[-3:]
    np.testing.assert_allclose(found, analyse(atoms, hessian).frequencies, atol=0.05)


def test_sella_takes_get_hessian_as_it_is(tmp_path):
    sella = pytest.importorskip("sella", reason="Sella is not installed: pip install 'hip-ext[integrations]'")
    atoms = inversion_guess()
    atoms.calc = shipped_calculator()
    calls = []

    def hessian(current: Atoms) -> np.ndarray:
        calls.append(current.positions.copy())
        return atoms.calc.get_hessian(current)

    search = sella.Sella(atoms, order=1, internal=True, hessian_function=hessian, diag_every_n=1, logfile=None)
    assert search.run(fmax=0.01, steps=40)
    assert calls
    assert_is_a_saddle(atoms)
    again = inversion_guess()
    again.calc = atoms.calc
    search = sella.Sella(again, order=1, internal=True, hessian_function=atoms.calc.get_hessian, logfile=None)
    assert search.run(fmax=0.01, steps=40)


def assert_is_a_saddle(atoms: Atoms) -> None:
    curvatures = np.linalg.eigvalsh(atoms.calc.get_hessian(atoms, method="autograd"))
    assert (curvatures < -0.5).sum() == 1
    assert np.abs(atoms.calc.get_forces(atoms)).max() < 0.05
    assert np.linalg.matrix_rank(atoms.positions - atoms.positions.mean(0), tol=0.02) == 2  # ammonia is flat there


class TestGeometric:
    @pytest.fixture(autouse=True)
    def _installed(self):
        pytest.importorskip("geometric", reason="geomeTRIC is not installed: pip install 'hip-ext[integrations]'")

    def test_minimum_with_hessians_of_ours(self, calculator, water, tmp_path):
        from hip_ext.integrations.geometric import optimise

        root, before = logging.getLogger(), water.positions.copy()
        handlers, level = list(root.handlers), root.level
        found = {}
        for kind in ("never", "each"):
            found[kind] = optimise(water, calculator, exact(calculator), hessian=kind, folder=tmp_path / kind)
            assert np.abs(calculator.get_forces(found[kind])).max() < 0.05
            energy = calculator.get_potential_energy(found[kind])
            assert found[kind].info["energy"] == pytest.approx(energy, abs=1e-12)
        assert found["each"].info["steps"] < found["never"].info["steps"]
        assert (water.positions == before).all()
        assert (list(root.handlers), root.level) == (handlers, level)
        log = (tmp_path / "each/geometric.log").read_text(encoding="utf-8")
        # One by differences, after the last step, as the module says.
        assert log.count("using finite difference") == 1
        assert log.count("Using Hessian matrix read from file") == found["each"].info["steps"] + 1

    def test_last_hessian_by_differences_of_our_gradients_is_ours(self, calculator, water, tmp_path):
        """Units and signs of both, by geomeTRIC's own arithmetic."""
        from hip_ext.integrations.geometric import optimise

        last = optimise(water, calculator, exact(calculator), hessian="each", folder=tmp_path)
        made = np.loadtxt(tmp_path / "geometric.tmp/hessian/hessian.txt")
        expected = AtomicUnits(calculator, exact(calculator)).hessian(last)
        np.testing.assert_allclose(made, expected, atol=1e-5)

    def test_first_hessian_alone(self, calculator, water, tmp_path):
        from hip_ext.integrations.geometric import HessianEngine, optimise

        calls = []

        def hessian(atoms: Atoms) -> np.ndarray:
            calls.append(atoms.positions.copy())
            return calculator.get_hessian(atoms, method="autograd")

        optimise(water, calculator, hessian, hessian="first", folder=tmp_path)
        assert len(calls) == 1
        np.testing.assert_allclose(calls[0], water.positions, atol=1e-9)
        assert "using finite difference" not in (tmp_path / "geometric.log").read_text(encoding="utf-8")
        optimise(water, calculator, hessian, hessian="never", folder=tmp_path / "never", maxiter=300)
        assert len(calls) == 1
        charged = water.copy()
        charged.info["charge"] = 1
        assert HessianEngine(charged, calculator).ase_atoms.info["charge"] == 1

    def test_saddle(self):
        from hip_ext.integrations.geometric import optimise

        calculator = shipped_calculator()
        saddle = optimise(inversion_guess(), calculator, transition=True, hessian="each")
        saddle.calc = calculator
        assert_is_a_saddle(saddle)

    def test_problems_are_one_line(self, calculator, water):
        from hip_ext.integrations.geometric import optimise

        with pytest.raises(ConfigError, match="hessian is one of never, first"):
            optimise(water, calculator, hessian="often")
        with pytest.raises(StructureError, match="geomeTRIC has not converged"):
            optimise(water, calculator, hessian="never", maxiter=2)
        water.cell, water.pbc = np.eye(3) * 9, True
        with pytest.raises(StructureError, match="periodic"):
            optimise(water, calculator)


class TestPhonopy:
    @pytest.fixture(autouse=True)
    def _installed(self):
        pytest.importorskip("phonopy", reason="phonopy is not installed: pip install 'hip-ext[phonons]'")

    @pytest.fixture
    def crystal(self) -> Atoms:
        """Skewed, and with an atom outside of its cell."""
        cell = [[3.6, 0, 0], [0.5, 3.7, 0], [-0.2, 0.4, 4.5]]
        return Atoms("CO", [[0.1, 0, 0], [-2.6, 1.2, 1.4]], cell=cell, pbc=True)

    def test_bands_of_phonopy_are_ours_at_any_wave_vector(self, calculator, crystal):
        from hip_ext.integrations.phonopy import phonopy_with_hessian

        blocks = calculator.model.hessian(crystal)
        phonopy = phonopy_with_hessian(blocks, crystal)
        points = np.random.default_rng(0).uniform(-0.5, 0.5, (6, 3))
        phonopy.run_qpoints(points)
        ours = phonon_wavenumbers(blocks, crystal.get_masses(), points)
        np.testing.assert_allclose(TERAHERTZ * np.sort(phonopy.qpoints.frequencies, axis=1), ours, rtol=1e-6, atol=1e-3)

    def test_a_small_supercell_is_exact_at_its_own_wave_vectors(self, calculator, crystal):
        from hip_ext.integrations.phonopy import phonopy_with_hessian

        blocks = calculator.model.hessian(crystal)
        phonopy = phonopy_with_hessian(blocks, crystal, supercell=(2, 1, 2))
        assert len(phonopy.supercell) == 8
        points = np.array([[0, 0, 0], [0.5, 0, 0], [0.5, 0, 0.5]])
        phonopy.run_qpoints(points)
        ours = phonon_wavenumbers(blocks, crystal.get_masses(), points)
        found = TERAHERTZ * np.sort(phonopy.qpoints.frequencies, axis=1)
        np.testing.assert_allclose(found, ours, rtol=1e-6, atol=1e-2)

    def test_structures_that_phonopy_does_not_know_are_refused(self, calculator, crystal):
        from hip_ext.integrations.phonopy import phonopy_with_hessian

        blocks = calculator.model.hessian(crystal)
        with pytest.raises(StructureError, match="one structure with 4 atoms"):
            phonopy_with_hessian(blocks, crystal.repeat((2, 1, 1)))
        crystal.pbc = (True, True, False)
        with pytest.raises(StructureError, match="three periodic directions"):
            phonopy_with_hessian(blocks, crystal)


@pytest.mark.parametrize(
    ("module", "package", "command"),
    [
        ("pysisyphus", "pysisyphus", "pip install 'pysisyphus>=1'"),
        ("geometric", "geometric", "pip install 'hip-ext[integrations]'"),
        ("phonopy", "phonopy", "pip install 'hip-ext[phonons]'"),
        ("torch_sim", "torch_sim", "pip install torch-sim-atomistic"),
    ],
)
def test_a_missing_program_is_one_line(module, package, command):
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from hip_ext.errors import MissingDependencyError\n"
        f"try: import hip_ext.integrations.{module}\n"
        "except MissingDependencyError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 1
    assert command in done.stdout


@pytest.mark.parametrize(
    ("program", "words"),
    [("ase", "ZPE"), ("sella", "negative curvatures: 1"), ("geometric", "barrier: 0."), ("phonopy", "THz")],
)
def test_example(program, words, tmp_path):
    pytest.importorskip(program, reason=f"{program} is not installed: pip install 'hip-ext[integrations]'")
    shipped_calculator()
    script = ROOT / f"examples/integrations/with_{program}.py"
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert words in done.stdout
