"""Relaxations: Newton steps on analytic potentials, what the ends are, and what comes of bad input."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.cluster import Icosahedron
from ase.constraints import FixAtoms, FixBondLength
from ase.io import read, write
from ase.optimize import BFGS
from relax_cases import EXACT, make_toy
from toy_backbone import ToyBackbone
from typer.testing import CliRunner

from hip_ext.cli import app
from hip_ext.errors import ConfigError, StructureError
from hip_ext.model import attach_head
from hip_ext.reference import finite_difference_hessian
from hip_ext.workflows.batch import run_batch
from hip_ext.workflows.files import tasks_of
from hip_ext.workflows.journal import TABLE, read_outcomes
from hip_ext.workflows.newton import Newton, shortened, updated
from hip_ext.workflows.outcome import Task, attempt
from hip_ext.workflows.relax import Relaxation, RelaxSettings, fragments


def hessian_of(atoms):
    """The Hessian of whatever calculator a structure has, by finite differences."""
    moved = atoms.copy()
    moved.set_constraint()
    moved.calc = atoms.calc.__class__(**atoms.calc.parameters)

    def forces(positions):
        moved.positions = positions
        return moved.get_forces()

    return finite_difference_hessian(forces, atoms).hessian


def shaken(atoms, calculator, width=0.1, seed=0):
    atoms.rattle(width, seed=seed)
    atoms.calc = calculator
    return atoms


@pytest.fixture(scope="module")
def toy():
    return attach_head(ToyBackbone())


class TestNewton:
    @pytest.mark.parametrize("every", [1, 3])
    def test_fewer_steps_than_bfgs_to_the_same_minimum(self, every):
        newton, bfgs = (shaken(Icosahedron("Cu", 2), EMT(), 0.15) for _ in range(2))
        first = Newton(newton, hessian_of, every=every, logfile=None)
        second = BFGS(bfgs, logfile=None)
        assert first.run(fmax=0.01, steps=100) and second.run(fmax=0.01, steps=300)
        assert first.nsteps < second.nsteps
        assert newton.get_potential_energy() == pytest.approx(bfgs.get_potential_energy(), abs=1e-3)

    def test_rigid_motions_are_left_alone(self):
        atoms = shaken(
            Atoms("Ar4", [[0, 0, 0], [4, 0, 0], [0, 4, 0], [0, 0, 4]]), LennardJones(sigma=3.4, epsilon=0.01)
        )
        centre = atoms.positions.mean(axis=0)
        assert Newton(atoms, hessian_of, floor=1e-3, logfile=None).run(fmax=1e-5, steps=200)
        assert atoms.positions.mean(axis=0) == pytest.approx(centre, abs=1e-8)
        distances = atoms.get_all_distances()[np.triu_indices(4, 1)]
        assert distances == pytest.approx(3.4 * 2 ** (1 / 6), abs=1e-3)  # the tetrahedron of four Lennard-Jones atoms

    def test_fixed_atoms_stay(self):
        slab = fcc111("Cu", (2, 2, 3), vacuum=8)
        slab.set_constraint(FixAtoms(indices=[atom.index for atom in slab if atom.tag == 3]))
        before = slab.positions.copy()
        slab.positions[8:] += np.random.default_rng(0).normal(scale=0.1, size=(4, 3))
        slab.calc = EMT()
        assert Newton(slab, hessian_of, logfile=None).run(fmax=0.01, steps=50)
        assert np.array_equal(slab.positions[:4], before[:4])

    def test_a_step_uphill_is_taken_back(self):
        atoms = shaken(Icosahedron("Cu", 2), EMT(), 0.15)
        wrong = Newton(atoms, lambda now: hessian_of(now) * 0.05, every=1000, floor=0.05, logfile=None)
        energies = []
        wrong.attach(lambda: energies.append((wrong.rejected, atoms.get_potential_energy())))
        assert wrong.run(fmax=0.01, steps=200)
        assert wrong.rejected > 0
        assert energies[-1][1] <= energies[0][1]

    def test_shortened_steps_have_the_radius_and_go_downhill(self):
        rng = np.random.default_rng(0)
        slope, curvatures = rng.normal(size=30), rng.uniform(1, 100, size=30)
        step = shortened(slope, curvatures, 0.01)
        assert np.linalg.norm(step) == pytest.approx(0.01, rel=1e-6)
        assert slope @ step < 0
        assert shortened(slope, curvatures, 1e3) == pytest.approx(-slope / curvatures)

    def test_updates_keep_the_secant_and_the_sign(self):
        rng = np.random.default_rng(1)
        root = rng.normal(size=(6, 6))
        true, step = root @ root.T + np.eye(6), rng.normal(size=6)
        new = updated(np.eye(6), step, true @ step)
        assert new @ step == pytest.approx(true @ step)
        assert np.linalg.eigvalsh(new)[0] > 0
        assert np.array_equal(updated(np.eye(6), step, -step), np.eye(6))

    def test_refusals(self):
        water = molecule("H2O")
        with pytest.raises(ConfigError, match="every is 0"):
            Newton(water, hessian_of, every=0)
        water.set_constraint(FixBondLength(0, 1))
        with pytest.raises(StructureError, match="FixBondLengths is not kept"):
            Newton(water, hessian_of)
        water.set_constraint(FixAtoms([0, 1, 2]))
        with pytest.raises(StructureError, match="all 3 atoms are fixed"):
            Newton(water, hessian_of)


class TestRelaxation:
    def test_the_end_is_a_minimum_and_its_values_are_those_of_the_structure(self, toy):
        start = molecule("H2O")
        outcome = Relaxation(toy, EXACT)(Task("water", (start,)))
        end = outcome.frames["relaxed"][0]
        assert outcome.status == "done" and outcome.values["converged"] and outcome.values["minimum"]
        assert 0 < outcome.values["steps"] < 30
        assert outcome.values["energy"] < outcome.values["start_energy"]
        assert outcome.values["largest_force"] <= 1e-4
        end.calc = toy.backbone.calculator()
        assert np.linalg.norm(end.get_forces(), axis=1).max() == pytest.approx(
            outcome.values["largest_force"], abs=1e-9
        )
        assert np.array_equal(start.positions, molecule("H2O").positions)

    @pytest.mark.parametrize("optimizer", ["newton", "bfgs"])
    def test_the_way_is_kept_where_it_is_asked_for(self, toy, optimizer):
        settings = RelaxSettings(optimizer, "exact", 1e-4, 100, int(optimizer == "newton"), "none")
        task = Task("water", (molecule("H2O"),))
        plain, kept = Relaxation(toy, settings)(task), Relaxation(toy, settings, trajectory=True)(task)
        assert set(plain.frames) == {"relaxed"} and plain.values == kept.values
        way = kept.frames["trajectory"]
        assert len(way) == kept.values["steps"] + 1 and np.array_equal(way[0].positions, task.atoms.positions)
        assert np.array_equal(way[-1].positions, kept.frames["relaxed"][0].positions)
        assert (way[0].info["energy"], way[-1].info["energy"]) == (kept.values["start_energy"], kept.values["energy"])
        assert way[-1].info["largest_force"] == kept.values["largest_force"] < way[0].info["largest_force"]

    def test_a_second_time_takes_no_step_and_says_so(self, toy):
        first = Relaxation(toy, EXACT)(Task("a", (molecule("H2O"),)))
        second = Relaxation(toy, EXACT)(Task("a", first.frames["relaxed"]))
        assert second.values["steps"] == 0 and second.reason.startswith("already relaxed")

    @pytest.mark.parametrize(
        "settings",
        [
            RelaxSettings("bfgs", "none", 1e-3, 300, 0, "exact"),
            RelaxSettings("bfgs", "exact", 1e-3, 300, 0, "exact"),
            RelaxSettings("bfgs", "exact", 1e-3, 300, 2, "exact"),
            RelaxSettings("newton", "exact", 1e-3, 300, 3, "exact"),
            RelaxSettings("newton", "direct", 1e-3, 300, 1000, "exact"),
        ],
    )
    def test_every_way_leads_to_the_same_minimum(self, toy, settings):
        task = Task("water", (molecule("H2O"),))
        outcome, expected = Relaxation(toy, settings)(task), Relaxation(toy, EXACT)(task)
        assert outcome.status == "done", outcome.reason
        assert outcome.values["energy"] == pytest.approx(expected.values["energy"], abs=1e-4)

    def test_a_saddle_point_is_called_one(self, toy):
        line = Atoms("HOH", [[0, 0, -1.0], [0, 0, 0], [0, 0, 1.0]])  # symmetry keeps it straight
        end = Relaxation(toy, EXACT)(Task("line", (line,)))
        bent = Relaxation(toy, EXACT)(Task("bent", (molecule("H2O"),)))
        assert end.status == "done" and end.values["energy"] > bent.values["energy"]
        assert end.values["minimum"] is False and "not a minimum: " in end.reason

    def test_too_few_steps_fail_and_keep_the_structure(self, toy):
        outcome = Relaxation(toy, RelaxSettings(hessian="exact", fmax=1e-6, steps=1))(Task("a", (molecule("CH4"),)))
        assert outcome.status == "failed" and outcome.reason.startswith("not converged after 1 steps")
        assert outcome.values["steps"] == 1 and "relaxed" in outcome.frames

    def test_fixed_atoms_and_a_cell_stay(self, toy):
        crystal = bulk("Cu", cubic=True)
        crystal.rattle(0.05, seed=0)
        crystal.set_constraint(FixAtoms([0]))
        outcome = Relaxation(toy, EXACT)(Task("copper", (crystal,)))
        end = outcome.frames["relaxed"][0]
        assert outcome.status == "done", outcome.reason
        assert np.array_equal(end.positions[0], crystal.positions[0]) and np.array_equal(end.cell, crystal.cell)
        assert end.constraints[0].index.tolist() == [0]

    def test_bad_structures(self, toy):
        run = Relaxation(toy, EXACT)
        overlapping = Atoms("CH", [[0, 0, 0], [0, 0, 0.05]])
        assert "atoms 0 and 1 overlap: 0.05 Å" in attempt(run, Task("a", (overlapping,))).reason
        assert "not a finite number" in attempt(run, Task("a", (Atoms("H", [[np.nan, 0, 0]]),))).reason
        assert "U" in attempt(run, Task("a", (Atoms("U"),))).reason

    def test_fragments(self):
        pair = molecule("H2O")
        far = pair.copy()
        far.translate([0, 0, 5])
        assert fragments(pair) == 1 and fragments(pair + far) == 2
        assert fragments(bulk("Cu", cubic=True)) == 1

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"hessian": "none"}, "Newton steps need a Hessian"),
            ({"optimizer": "sd"}, "optimizer is 'sd'"),
            ({"fmax": 0.0}, "fmax must be positive"),
            ({"every": 0}, "every at least 1"),
        ],
    )
    def test_bad_settings(self, options, message):
        with pytest.raises(ConfigError, match=message):
            RelaxSettings(**options)


class TestMany:
    def test_what_fails_half_way_costs_one_structure(self, tmp_path):
        tasks = [Task(name, (molecule(name),)) for name in ("H2O", "CH3SH", "CH4")]
        for jobs in (1, 2):
            counts = run_batch(make_toy, tasks, tmp_path / str(jobs), EXACT.as_dict(), jobs=jobs)
            assert (counts.finished, counts.failed) == (2, 1)
        reasons = {found.name: found.reason for found in read_outcomes(tmp_path / "1")}
        assert reasons["CH3SH"].startswith("after ") and reasons["CH3SH"].endswith("the backbone is tired")
        assert (tmp_path / "1" / TABLE).read_text() == (tmp_path / "2" / TABLE).read_text()

    def test_tasks_of_files(self, tmp_path):
        write(tmp_path / "a.xyz", [molecule("H2O"), molecule("CH4")])
        (tmp_path / "b.xyz").write_text("1\n\nH nan 0 0\n")
        found = tasks_of([tmp_path / "a.xyz", tmp_path / "b.xyz"])
        assert [task.name for task in found] == ["a.xyz#0", "a.xyz#1", "b.xyz#0"]
        assert "not a finite number" in found[2].problem


def command(*arguments):
    return CliRunner().invoke(app, ["relax", *map(str, arguments)])


class TestCommand:
    def test_two_molecules_and_a_bad_one(self, tmp_path):
        frames = [molecule("H2O"), molecule("CH3OH")]
        frames[0].rattle(0.05, seed=0)
        write(tmp_path / "good.xyz", frames)
        (tmp_path / "bad.xyz").write_text("2\n\nH 0 0 0\nH 0 0 0.01\n")
        arguments = (tmp_path / "good.xyz", tmp_path / "bad.xyz", "--out", tmp_path / "run", "--fmax", 0.02)
        result = command(*arguments, "--json")
        assert result.exit_code == 1, result.output  # not everything that was asked for was found
        water, methanol, bad = json.loads(result.stdout)
        assert water["status"] == methanol["status"] == "done" and water["steps"] < 10
        assert water["largest_force"] <= 0.02
        assert bad["status"] == "failed" and "overlap" in bad["reason"]
        with (tmp_path / "run" / TABLE).open() as file:
            assert [row["name"] for row in csv.DictReader(file)] == ["good.xyz#0", "good.xyz#1", "bad.xyz#0"]
        ends = read(tmp_path / "run" / "relaxed.extxyz", ":")
        assert [atoms.info["name"] for atoms in ends] == ["good.xyz#0", "good.xyz#1"]
        assert ends[0].get_potential_energy() == pytest.approx(water["energy"], abs=1e-3)
        again = command(*arguments)
        assert "0 done, 0 failed, 3 skipped" in again.output and "overlap" in again.output and again.exit_code == 1
        assert command(tmp_path / "good.xyz", "--out", tmp_path / "fine", "--fmax", 0.02).exit_code == 0
        other = command(*arguments, "--steps", 7)
        assert other.exit_code == 2 and "steps = 200, now it is 7" in other.output

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["missing.xyz"], "there is no such file"),
            (["{water}", "--hessian", "none"], "Newton steps need a Hessian"),
            (["{water}", "--jobs", "0"], "number of jobs is 0"),
            (["{water}", "--model", "nothing"], "nothing"),
            (["{empty}"], "empty.xyz: it is empty"),
            (["{close}"], "close.xyz#0 cannot be relaxed: atoms 0 and 1 overlap: 0.01 Å apart"),
            (["{nan}", "{close}"], "nan.xyz#0 cannot be relaxed, nor can the other 1: structure has a position"),
        ],
    )
    def test_refusals_are_one_line(self, tmp_path, arguments, message):
        contents = {"empty": "", "close": "2\n\nH 0 0 0\nH 0 0 0.01\n", "nan": "1\n\nH 0 0 nan\n"}
        for name, content in contents.items():
            (tmp_path / f"{name}.xyz").write_text(content)
        write(tmp_path / "water.xyz", molecule("H2O"))
        files = {name: tmp_path / f"{name}.xyz" for name in ("water", *contents)}
        result = command(*(a.format(**files) for a in arguments), "--out", tmp_path / "run")
        assert result.exit_code == 2 and message in result.output, result.output
        assert result.stderr.count("\n") == 1 and not result.stdout
