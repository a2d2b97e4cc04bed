"""Every labeller against an independent reference: automatic derivatives, closed forms, other programs' own numbers."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.units import Bohr, Hartree
from toy_backbone import ToyBackbone

from hip_ext.errors import BackboneError, ConfigError, HipExtError, StructureError
from hip_ext.labelling.backbone import BackboneLabeller, label
from hip_ext.labelling.base import Target
from hip_ext.labelling.finite_difference import FiniteDifferences
from hip_ext.labelling.probes import draw_probes, soft_modes, twist_directions
from hip_ext.labelling.sources import Options, open_labeller
from hip_ext.reference import autograd_hessian
from hip_ext.structures import Structures
from hip_ext.vibrations import analyse, rigid_modes


def bent(name="H2O", **info):
    atoms = molecule(name)
    atoms.rattle(0.05, seed=3)
    atoms.info.update(info)
    return atoms


def copper():
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=1)
    return atoms


@pytest.fixture(scope="module")
def toy():
    return ToyBackbone()


@pytest.fixture(scope="module")
def many():
    return [bent("CH3CH2OH"), bent("H2O", charge=1, multiplicity=2), copper(), bent("CH4")]


def exact(toy, atoms):
    return autograd_hessian(toy, Structures.from_ase(atoms)).numpy()


class TestBackbone:
    def test_batch_of_full_hessians_is_exact(self, toy, many):
        records = BackboneLabeller(toy).label_many(many, [Target()] * 4)
        for atoms, record in zip(many, records, strict=True):
            assert record.is_complete
            np.testing.assert_allclose(record.hessian(), exact(toy, atoms), atol=1e-10)
            calculator = toy.calculator()
            assert record.energy == pytest.approx(calculator.get_potential_energy(atoms), abs=1e-10)
            np.testing.assert_allclose(record.forces, calculator.get_forces(atoms), atol=1e-10)
        assert records[1].charge == 1 and records[1].unpaired == 1
        assert records[2].pbc.all()

    def test_rows_and_probes_are_parts_of_the_matrix(self, toy, many):
        rng = np.random.default_rng(0)
        targets = [
            Target(np.array([4, 1]), rng.normal(size=(3, len(many[0]), 3))),
            Target(probes=rng.normal(size=(1, 3, 3))),
            Target(np.array([2])),
            Target(),
        ]
        for atoms, target, record in zip(many, targets, BackboneLabeller(toy).label_many(many, targets), strict=True):
            hessian = exact(toy, atoms)
            if target.atoms is not None:
                rows = hessian.reshape(len(atoms), 3, len(atoms), 3)[target.atoms]
                np.testing.assert_allclose(record.rows, rows, atol=1e-10)
                np.testing.assert_array_equal(record.labelled, target.atoms)
            if target.probes is not None:
                products = target.probes.reshape(len(target.probes), -1) @ hessian
                np.testing.assert_allclose(record.products.reshape(products.shape), products, atol=1e-10)
            assert record.is_complete == target.is_full

    def test_large_batches_are_cut_and_give_the_same(self, toy, monkeypatch, many):
        whole = BackboneLabeller(toy).label_many(many, [Target()] * 4)
        monkeypatch.setattr("hip_ext.labelling.backbone.ATOMS_AT_ONCE", 9)
        for one, other in zip(whole, BackboneLabeller(toy).label_many(many, [Target()] * 4), strict=True):
            np.testing.assert_allclose(one.hessian(), other.hessian(), atol=1e-11)

    def test_a_structure_with_too_large_forces_stands_for_itself_alone(self, toy):
        crushed = Atoms("CO", positions=[[0, 0, 0], [0, 0, 0.3]])
        first, refused, last = BackboneLabeller(toy).label_many([bent("CH4"), crushed, bent("H2O")], [Target()] * 3)
        assert isinstance(refused, BackboneError) and "a force on CO is" in str(refused)
        np.testing.assert_allclose(first.hessian(), exact(toy, bent("CH4")), atol=1e-10)
        np.testing.assert_allclose(last.hessian(), exact(toy, bent("H2O")), atol=1e-10)

    def test_distillation_gets_rows_of_the_usable_structures(self, toy):
        crushed = Atoms("CO", positions=[[0, 0, 0], [0, 0, 0.3]])
        usable = [bent("CH4"), bent("H2O")]
        records = label(toy, [usable[0], crushed, usable[1]], [np.array([0, 3]), np.array([0]), np.array([2])])
        assert [len(record.numbers) for record in records] == [5, 3]
        for atoms, record in zip(usable, records, strict=True):
            expected = exact(toy, atoms).reshape(len(atoms), 3, len(atoms), 3)[record.labelled]
            np.testing.assert_allclose(record.rows, expected, atol=1e-10)
        with pytest.raises(BackboneError, match="eV/Å"):
            BackboneLabeller(toy).label(crushed)


class TestFiniteDifferences:
    @pytest.mark.parametrize("atoms", [bent("CH3OH"), copper()], ids=["molecule", "crystal"])
    def test_full_matrix_rows_and_probes_agree_with_autograd(self, toy, atoms):
        labeller = FiniteDifferences(lambda _: toy.calculator(), "toy", step=0.002)
        hessian = exact(toy, atoms)
        full = labeller.label(atoms)
        np.testing.assert_allclose(full.hessian(), hessian, atol=2e-3)
        probes = np.random.default_rng(0).normal(size=(2, len(atoms), 3))
        part = labeller.label(atoms, Target(np.array([1]), probes))
        np.testing.assert_allclose(part.rows[0].reshape(3, -1), hessian[3:6], atol=2e-3)
        np.testing.assert_allclose(part.products.reshape(2, -1), probes.reshape(2, -1) @ hessian, atol=5e-3)

    def test_stated_error_is_the_error(self, toy):
        atoms, direction = bent("CH3OH"), np.random.default_rng(1).normal(size=(1, 6, 3))
        labeller = FiniteDifferences(lambda _: toy.calculator(), "toy", step=0.01)
        record = labeller.label(atoms, Target(probes=direction))
        found = record.products.ravel() - direction.ravel() @ exact(toy, atoms)
        stated = record.info["step_error"] * np.linalg.norm(direction[0], axis=1).max()
        assert stated == pytest.approx(np.sqrt(np.mean(found**2)), rel=0.1)
        assert record.info["step"] == 0.01

    def test_ase_named_calculator_on_a_crystal(self):
        atoms, v = copper(), np.random.default_rng(2).normal(size=(4, 3))
        record = open_labeller("calculator:emt").label(atoms)
        energies = []
        for sign in (1, 0, -1):
            moved = atoms.copy()
            moved.positions += sign * 0.01 * v
            moved.calc = EMT()
            energies.append(moved.get_potential_energy())
        curvature = (energies[0] - 2 * energies[1] + energies[2]) / 0.01**2
        assert v.ravel() @ record.hessian() @ v.ravel() == pytest.approx(curvature, rel=2e-3)
        assert np.abs(record.hessian().reshape(12, 4, 3).sum(1)).max() < 1e-6
        assert record.energy == pytest.approx(energies[1])

    def test_constraints_and_the_structure_are_left_alone(self, toy):
        from ase.constraints import FixAtoms

        atoms = bent("H2O")
        atoms.set_constraint(FixAtoms([0]))
        before = atoms.positions.copy()
        record = FiniteDifferences(lambda _: toy.calculator(), "toy").label(atoms)
        np.testing.assert_array_equal(atoms.positions, before)
        assert np.abs(record.forces[0]).max() > 0.01
        np.testing.assert_allclose(record.hessian(), exact(toy, atoms), atol=5e-3)

    def test_failures_are_one_line_of_ours(self):
        def broken(atoms):
            raise RuntimeError("no licence\nin line 2")

        with pytest.raises(BackboneError, match=r"toy fails for OH2: no licence$"):
            FiniteDifferences(broken, "toy").label(molecule("H2O"))
        with pytest.raises(ConfigError, match="step"):
            FiniteDifferences(broken, "toy", step=0.0)
        with pytest.raises(StructureError, match="charge"):
            open_labeller("calculator:emt").label(Atoms("CO", [[0, 0, 0], [0, 0, 1.1]], info={"charge": 1}))


class TestPySCF:
    @pytest.fixture(autouse=True)
    def _installed(self):
        pytest.importorskip("pyscf", reason="needs pyscf")

    def run(self, atoms, xc="hf", basis="sto-3g", kind="RKS"):
        from pyscf import dft, gto

        positions = [(z, tuple(x / Bohr)) for z, x in zip(atoms.symbols, atoms.positions, strict=True)]
        spin = atoms.info.get("multiplicity", 1) - 1
        charge = atoms.info.get("charge", 0)
        mol = gto.M(atom=positions, unit="B", basis=basis, spin=spin, charge=charge, verbose=0)
        return getattr(dft, kind)(mol, xc=xc).run(conv_tol=1e-12)

    def test_frequencies_are_those_of_pyscf(self):
        from pyscf.hessian.thermo import harmonic_analysis

        atoms = bent("H2O")
        record = open_labeller("pyscf:b3lyp/sto-3g").label(atoms)
        field = self.run(atoms, "b3lyp")
        reference = harmonic_analysis(field.mol, field.Hessian().kernel(), imaginary_freq=False)
        atoms.set_masses(field.mol.atom_mass_list(isotope_avg=True))
        # CODATA values of the two programs differ in the seventh digit
        found = analyse(atoms, record.hessian()).frequencies[-3:]
        np.testing.assert_allclose(found, reference["freq_wavenumber"], rtol=2e-6)
        assert record.energy == pytest.approx(field.e_tot * Hartree, abs=1e-6)

    def test_analytic_matrix_agrees_with_differences_of_gradients(self):
        atoms = bent("H2O")
        labeller = open_labeller("pyscf:hf/sto-3g", Options(step=0.002))
        hessian = labeller.label(atoms).hessian()
        probe = np.random.default_rng(0).normal(size=(1, 3, 3))
        part = labeller.label(atoms, Target(np.array([1]), probe))
        np.testing.assert_allclose(part.rows[0].reshape(3, 9), hessian[3:6], atol=2e-3)
        np.testing.assert_allclose(part.products.ravel(), probe.ravel() @ hessian, atol=5e-3)
        moved = [self.run(Atoms(atoms.symbols, atoms.positions + s * 1e-3 * probe[0])).e_tot for s in (1, -1)]
        slope = (moved[0] - moved[1]) * Hartree / 2e-3
        assert -(part.forces * probe[0]).sum() == pytest.approx(slope, abs=1e-4)

    @pytest.mark.parametrize(
        ("name", "info", "kind"), [("OH", {"multiplicity": 2}, "UKS"), ("OH", {"charge": -1}, "RKS")]
    )
    def test_charge_and_spin(self, name, info, kind):
        atoms = molecule("OH")
        atoms.info.update(info)
        record = open_labeller("pyscf:hf/sto-3g").label(atoms)
        field = self.run(atoms, kind=kind)
        assert record.energy == pytest.approx(field.e_tot * Hartree, abs=1e-5)
        expected = field.Hessian().kernel().transpose(0, 2, 1, 3).reshape(6, 6) * Hartree / Bohr**2
        np.testing.assert_allclose(record.hessian(), expected, atol=1e-3)

    def test_what_it_refuses(self):
        labeller = open_labeller("pyscf:hf/sto-3g")
        with pytest.raises(StructureError, match="9 electrons, which cannot leave 0 unpaired"):
            labeller.label(Atoms("OH", [[0, 0, 0], [0, 0, 1]]))
        with pytest.raises(StructureError, match="periodic"):
            labeller.label(copper())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(ConfigError, match="does not know the basis 'nosuch'"):
                open_labeller("pyscf:hf/nosuch")
            with pytest.raises(ConfigError, match="no basis '6-31g' here"):
                open_labeller("pyscf:hf/6-31g").label(Atoms("Au2", [[0, 0, 0], [0, 0, 2.5]]))
        with pytest.raises(ConfigError, match="functional 'nosuch'"):
            open_labeller("pyscf:nosuch/sto-3g")
        with pytest.raises(ConfigError, match="FUNCTIONAL/BASIS"):
            open_labeller("pyscf:wb97x")
        with pytest.raises(ConfigError, match="grid level 12"):
            open_labeller("pyscf:hf/sto-3g", Options(grid_level=12))
        with pytest.raises(ConfigError, match="angular grid of 591"):
            open_labeller("pyscf:hf/sto-3g", Options(grid=(99, 591)))


class TestTBLite:
    @pytest.fixture(autouse=True)
    def _installed(self):
        pytest.importorskip("tblite", reason="needs tblite")

    @pytest.mark.parametrize(
        ("name", "info"), [("H2O", {}), ("H2O", {"charge": 1, "multiplicity": 2}), ("O2", {"multiplicity": 3})]
    )
    def test_second_differences_of_its_energy(self, name, info):
        from tblite.interface import Calculator

        atoms = bent(name, **info)
        record = open_labeller("tblite:GFN2-xTB").label(atoms)
        v = np.random.default_rng(5).normal(size=(len(atoms), 3))
        energies = []
        for sign in (1, 0, -1):
            points = (atoms.positions + sign * 0.01 * v) / Bohr
            calculator = Calculator(
                "GFN2-xTB", atoms.numbers, points, charge=info.get("charge", 0), uhf=info.get("multiplicity", 1) - 1
            )
            calculator.set("accuracy", 0.01)
            calculator.set("verbosity", 0)
            energies.append(calculator.singlepoint().get("energy") * Hartree)
        curvature = (energies[0] - 2 * energies[1] + energies[2]) / 0.01**2
        assert v.ravel() @ record.hessian() @ v.ravel() == pytest.approx(curvature, rel=0.01)
        assert record.energy == pytest.approx(energies[1], abs=1e-5)

    def test_soft_modes_of_a_chain_are_softer_than_random_directions(self):
        atoms = molecule("trans-butane")
        hessian = open_labeller("tblite:GFN2-xTB").label(atoms).hessian()

        def stiffness(probes):
            return np.mean([v.ravel() @ hessian @ v.ravel() for v in probes])

        random = draw_probes(atoms, 20, "random", np.random.default_rng(0))
        assert abs(stiffness(soft_modes(atoms, 3))) < 0.1 * stiffness(random)

    def test_what_it_refuses(self):
        with pytest.raises(ConfigError, match="did you mean 'GFN2-xTB'"):
            open_labeller("tblite:GFN2-xtb")
        with pytest.raises(StructureError, match="9 electrons"):
            open_labeller("tblite:GFN2-xTB").label(Atoms("OH", [[0, 0, 0], [0, 0, 1]]))


class TestProbes:
    rng = np.random.default_rng(0)

    def test_random_ones_are_orthonormal(self):
        probes = draw_probes(molecule("H2O"), 20, "random", self.rng).reshape(9, 9)
        np.testing.assert_allclose(probes @ probes.T, np.eye(9), atol=1e-12)

    @pytest.mark.parametrize("atoms", [molecule("CH3CH2OH"), copper()], ids=["molecule", "crystal"])
    def test_soft_modes_are_vibrations(self, atoms):
        probes = soft_modes(atoms, 4)
        root = np.sqrt(atoms.get_masses())[:, None]
        rigid = rigid_modes(atoms.positions, atoms.get_masses(), rotations=not atoms.pbc.any())
        assert probes.shape == (4, len(atoms), 3)
        np.testing.assert_allclose((probes * root).reshape(4, -1) @ rigid, 0, atol=1e-10)
        np.testing.assert_allclose(np.linalg.norm(probes, axis=(1, 2)), 1)

    def test_twists_turn_one_side_about_a_bond(self):
        atoms = molecule("CH3CH2OH")
        twists = twist_directions(atoms)
        assert len(twists) == 2  # about C–C and C–O; bonds to lone hydrogens do not turn anything
        for v in twists:
            side = np.linalg.norm(v, axis=1) > 1e-12
            moved = atoms.positions + 1e-4 * v
            for part in (side, ~side):
                before, after = (x[part][:, None] - x[part] for x in (atoms.positions, moved))
                np.testing.assert_allclose(np.linalg.norm(after, axis=-1), np.linalg.norm(before, axis=-1), atol=1e-7)

    def test_where_nothing_turns_random_ones_follow(self):
        assert len(twist_directions(molecule("C6H6"))) == 0
        assert len(twist_directions(copper())) == 0
        assert draw_probes(molecule("CH3CH2OH"), 5, "twists", self.rng).shape == (5, 9, 3)

    def test_bad_ones_are_refused(self):
        with pytest.raises(ConfigError, match="no probes of kind"):
            draw_probes(molecule("H2O"), 3, "soft", self.rng)
        with pytest.raises(ConfigError, match="at least 1"):
            draw_probes(molecule("H2O"), 0, "random", self.rng)
        with pytest.raises(ConfigError, match="below 3"):
            Target(np.array([3])).directions(3)
        with pytest.raises(ConfigError, match="not zero"):
            Target(probes=np.zeros((1, 3, 3))).directions(3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pyscff:hf/sto-3g", "did you mean 'pyscf'"),
        ("backbone:", "does not say which"),
        ("backbone:nosuch", "no backbone 'nosuch'"),
        ("calculator:nosuch", "ASE cannot make"),
        ("calculator:os:getcwd", "--trust-code"),
    ],
)
def test_unknown_names_are_refused(name, message):
    with pytest.raises(HipExtError, match=message):
        open_labeller(name)


def test_code_that_is_trusted_is_run():
    labeller = open_labeller("calculator:label_cases:make_emt", Options(trust_code=True))
    expected = open_labeller("calculator:emt").label(copper())
    np.testing.assert_array_equal(labeller.label(copper()).hessian(), expected.hessian())
    with pytest.raises(ConfigError, match="cannot import nosuch"):
        open_labeller("calculator:label_cases:nosuch", Options(trust_code=True))


GUIDE = (Path(__file__).resolve().parents[1] / "docs/labels.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", GUIDE, flags=re.DOTALL), ids=("run", "single"))
def test_blocks_of_the_guide_run(block, tmp_path):
    if "tblite" in block:
        pytest.importorskip("tblite", reason="needs tblite")
    (tmp_path / "block.py").write_text(block)
    done = subprocess.run([sys.executable, "block.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
