"""Runs over many structures: what goes wrong costs one of them, what is stopped goes on, settings do not mix."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.constraints import FixAtoms
from workflow_cases import Weigh

from hip_ext.errors import ConfigError, DataError
from hip_ext.processes import DIED
from hip_ext.workflows.batch import run_batch
from hip_ext.workflows.journal import OUTCOMES, TABLE, read_outcomes
from hip_ext.workflows.outcome import Task

SETTINGS = {"workflow": "weigh", "limits": (1, 2)}

SCRIPT = """
import signal
import sys
from functools import partial
from test_batch import SETTINGS, waters
from workflow_cases import Weigh
from hip_ext.workflows.batch import run_batch
if __name__ == "__main__":
    # Whatever starts the tests in the background may have told all its children to ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    run_batch(partial(Weigh, pause=0.3), waters(), sys.argv[1], SETTINGS, jobs=int(sys.argv[2]))
"""


def waters(count=10):
    found = []
    for seed in range(count):
        atoms = molecule("H2O")
        atoms.rattle(0.05, seed=seed)
        found.append(Task(f"water#{seed}", (atoms,)))
    return found


def tasks(*names):
    return [Task(name, (molecule(name),)) for name in names]


def outcomes(folder):
    return {found.name: found for found in read_outcomes(folder)}


def table(folder, without=("process",)):
    with (Path(folder) / TABLE).open() as file:
        return [{name: value for name, value in row.items() if name not in without} for row in csv.DictReader(file)]


class TestResults:
    def test_what_comes_back_is_what_was_found_to_the_last_bit(self, tmp_path):
        atoms = molecule("CH3OH")
        atoms.set_constraint(FixAtoms([0, 2]))
        atoms.info["charge"] = 0
        counts = run_batch(Weigh, [Task("a", (atoms,))], tmp_path / "run", SETTINGS)
        assert (counts.finished, counts.failed, counts.skipped, counts.total) == (1, 0, 0, 1)
        (found,) = read_outcomes(tmp_path / "run")
        moved = found.frames["moved"][0]
        assert found.status == "done" and found.reason == ""
        assert found.values == {"mass": float(atoms.get_masses().sum()), "process": os.getpid(), "nothing": None}
        assert np.array_equal(moved.positions, atoms.positions + 1 / 3)
        assert moved.constraints[0].index.tolist() == [0, 2] and moved.info == {"charge": 0}

    def test_the_table_has_the_order_of_the_tasks_and_every_reason(self, tmp_path):
        given = [*tasks("H2O", "NH3", "CH3SH"), Task("bad", problem="no atoms in it")]
        counts = run_batch(Weigh, given, tmp_path / "run", SETTINGS, jobs=2)
        assert (counts.finished, counts.failed) == (1, 3)
        assert table(tmp_path / "run") == [
            {"name": "H2O", "status": "done", "reason": "", "mass": "18.015", "nothing": ""},
            {"name": "NH3", "status": "failed", "reason": "nitrogen has no weight", "mass": "", "nothing": ""},
            {"name": "CH3SH", "status": "failed", "reason": "ZeroDivisionError: division by zero"}
            | {"mass": "", "nothing": ""},
            {"name": "bad", "status": "failed", "reason": "no atoms in it", "mass": "", "nothing": ""},
        ]

    def test_two_workers_give_what_one_gives(self, tmp_path):
        for jobs in (1, 2):
            run_batch(Weigh, waters(), tmp_path / str(jobs), SETTINGS, jobs=jobs)
        assert table(tmp_path / "1") == table(tmp_path / "2")
        one, two = outcomes(tmp_path / "1"), outcomes(tmp_path / "2")
        for name, found in one.items():
            assert np.array_equal(found.frames["moved"][0].positions, two[name].frames["moved"][0].positions)
        assert {found.values["process"] for found in one.values()} == {os.getpid()}
        assert os.getpid() not in {found.values["process"] for found in two.values()}

    def test_progress_is_reported(self, tmp_path):
        seen = []
        run_batch(Weigh, waters(3), tmp_path / "run", SETTINGS)
        run_batch(Weigh, waters(5), tmp_path / "run", SETTINGS, report=lambda now: seen.append((now.done, str(now))))
        assert seen[0] == (3, "0 done, 0 failed, 3 skipped")
        assert seen[-1] == (5, "2 done, 0 failed, 3 skipped")


class TestAgain:
    def test_finished_and_failed_are_skipped_unless_asked_for(self, tmp_path):
        given = tasks("H2O", "NH3")
        run_batch(Weigh, given, tmp_path, SETTINGS)
        again = run_batch(Weigh, given, tmp_path, SETTINGS)
        assert (again.finished, again.failed, again.skipped) == (0, 0, 2)
        retried = run_batch(
            lambda: lambda task: Weigh()(Task(task.name, (molecule("H2O"),))),
            given,
            tmp_path,
            SETTINGS,
            retry_failed=True,
        )
        assert (retried.finished, retried.failed, retried.skipped) == (1, 0, 1)
        assert [row["status"] for row in table(tmp_path)] == ["done", "done"]
        assert len(outcomes(tmp_path)) == 2

    def test_a_killed_worker_costs_one_structure(self, tmp_path):
        counts = run_batch(Weigh, tasks("H2O", "CH3Cl", "CH4", "C2H6"), tmp_path, SETTINGS, jobs=2)
        assert (counts.finished, counts.failed) == (3, 1)
        assert outcomes(tmp_path)["CH3Cl"].reason == DIED

    @pytest.mark.parametrize("jobs", [1, 2])
    @pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, -2)])
    def test_killed_and_started_again_gives_the_same(self, tmp_path, jobs, number, code):
        script = tmp_path / "script.py"
        script.write_text(SCRIPT)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
        command = [sys.executable, str(script), str(tmp_path / "run"), str(jobs)]
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as process:
            journal = tmp_path / "run" / OUTCOMES
            while process.poll() is None and not (journal.exists() and journal.read_text().count("\n") > 1):
                time.sleep(0.05)
            process.send_signal(number)
            process.communicate(timeout=60)
        assert process.returncode == code
        before = len(outcomes(tmp_path / "run"))
        assert 2 <= before < 10
        assert (tmp_path / "run" / TABLE).exists() == (number == signal.SIGINT)
        with journal.open("a") as file:
            file.write('{"name": "water#9", "sta')  # what a crash in the middle of a line leaves
        counts = run_batch(Weigh, waters(), tmp_path / "run", SETTINGS)
        assert (counts.finished, counts.skipped) == (10 - before, before)
        run_batch(Weigh, waters(), tmp_path / "whole", SETTINGS)
        assert table(tmp_path / "run") == table(tmp_path / "whole")

    def test_an_executor_works_in_place_of_our_processes(self, tmp_path):
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context

        with ProcessPoolExecutor(2, get_context("spawn")) as executor:
            counts = run_batch(Weigh, [*waters(4), *tasks("NH3")], tmp_path, SETTINGS, executor=executor)
        assert (counts.finished, counts.failed) == (4, 1)
        assert os.getpid() not in {found.values.get("process") for found in read_outcomes(tmp_path)}

    def test_a_cluster_of_two_workers(self, tmp_path):
        distributed = pytest.importorskip("distributed", reason="Dask is not installed: pip install 'hip-ext[cluster]'")
        with (
            distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
            distributed.Client(cluster) as client,
        ):
            given = [*waters(8), *tasks("NH3")]
            counts = run_batch(
                partial(Weigh, pause=0.1), given, tmp_path / "2", SETTINGS, executor=client.get_executor()
            )
        assert (counts.finished, counts.failed) == (8, 1)
        run_batch(Weigh, given, tmp_path / "1", SETTINGS)
        assert table(tmp_path / "1") == table(tmp_path / "2")
        assert len({found.values["process"] for found in read_outcomes(tmp_path / "2") if found.status == "done"}) == 2


class TestRefused:
    @pytest.mark.parametrize("jobs", [1, 2])
    def test_a_workflow_that_cannot_be_made_ends_the_run(self, tmp_path, jobs):
        with pytest.raises(ConfigError, match="no such balance"):
            run_batch(partial(Weigh, broken=True), tasks("H2O"), tmp_path, SETTINGS, jobs=jobs)

    def test_other_settings(self, tmp_path):
        run_batch(Weigh, tasks("H2O"), tmp_path, SETTINGS)
        with pytest.raises(ConfigError, match=r"results of limits = \[1, 2\], now it is \[1, 3\]"):
            run_batch(Weigh, tasks("H2O"), tmp_path, SETTINGS | {"limits": (1, 3)})

    def test_another_structure_of_the_same_name(self, tmp_path):
        run_batch(Weigh, tasks("H2O"), tmp_path, SETTINGS)
        with pytest.raises(ConfigError, match="another structure H2O"):
            run_batch(Weigh, [Task("H2O", (molecule("CH4"),))], tmp_path, SETTINGS)

    def test_other_constraints_make_another_structure(self):
        free = fixed = molecule("H2O")
        fixed = free.copy()
        fixed.set_constraint(FixAtoms([0]))
        assert Task("a", (free,)).digest != Task("a", (fixed,)).digest

    def test_a_structure_that_is_not_finite_has_a_digest(self):
        assert Task("a", (Atoms("H", [[np.nan, 0, 0]]),)).digest

    def test_a_folder_with_something_else_in_it(self, tmp_path):
        (tmp_path / "thesis.tex").write_text("")
        with pytest.raises(ConfigError, match=r"holds something else \(thesis.tex\)"):
            run_batch(Weigh, tasks("H2O"), tmp_path, SETTINGS)

    def test_a_second_run_in_the_same_folder(self, tmp_path):
        from hip_ext.workflows.journal import open_journal

        with (
            open_journal(tmp_path, SETTINGS),
            pytest.raises(ConfigError, match="another run is at work"),
        ):
            run_batch(Weigh, tasks("H2O"), tmp_path, SETTINGS)

    def test_damaged_files(self, tmp_path):
        run_batch(Weigh, tasks("H2O", "CH4"), tmp_path, SETTINGS)
        lines = (tmp_path / OUTCOMES).read_text().splitlines()
        (tmp_path / OUTCOMES).write_text(f"{lines[0]}\n{{}}\n")
        with pytest.raises(DataError, match=r"line 2 of .* is damaged"):
            run_batch(Weigh, tasks("H2O", "CH4"), tmp_path, SETTINGS)
        (tmp_path / "settings.json").write_text("[")
        with pytest.raises(DataError, match=r"settings\.json is damaged"):
            run_batch(Weigh, tasks("H2O", "CH4"), tmp_path, SETTINGS)

    def test_names_and_jobs(self, tmp_path):
        with pytest.raises(ConfigError, match="two structures have the name H2O"):
            run_batch(Weigh, tasks("H2O", "H2O"), tmp_path, SETTINGS)
        with pytest.raises(ConfigError, match="number of jobs is 0"):
            run_batch(Weigh, tasks("H2O"), tmp_path, SETTINGS, jobs=0)

    def test_no_results(self, tmp_path):
        with pytest.raises(DataError, match="not the folder of a run"):
            list(read_outcomes(tmp_path))

    def test_the_journal_is_plain_json_lines(self, tmp_path):
        run_batch(Weigh, tasks("H2O"), tmp_path, SETTINGS)
        (line,) = (tmp_path / OUTCOMES).read_text().splitlines()
        assert json.loads(line)["values"]["mass"] == pytest.approx(18.015)
