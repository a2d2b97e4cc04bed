"""A run that labels many structures: what goes wrong costs one of them, what is stopped goes on, levels do not mix."""

from __future__ import annotations

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
from ase.build import bulk, molecule
from ase.io import write
from label_cases import Springs
from typer.testing import CliRunner

from hip_ext.cli import app
from hip_ext.data.record import HessianRecord
from hip_ext.data.store import HessianStore
from hip_ext.errors import ConfigError
from hip_ext.labelling.run import label_into
from hip_ext.labelling.tasks import Tasks, Wanted
from hip_ext.processes import DIED

SPRINGS = """
import sys
from functools import partial
from label_cases import Springs
from hip_ext.data.store import HessianStore
from hip_ext.labelling.run import label_into
from hip_ext.labelling.tasks import Tasks
if __name__ == "__main__":
    with HessianStore(sys.argv[2], "a") as store:
        label_into(store, Tasks([sys.argv[1]]), partial(Springs, pause=0.3))
"""


@pytest.fixture
def water(tmp_path):
    """Twelve waters, each different."""
    frames = []
    for seed in range(12):
        frames.append(molecule("H2O"))
        frames[-1].rattle(0.05, seed=seed)
    write(tmp_path / "water.xyz", frames, format="extxyz")
    return tmp_path / "water.xyz"


def labelled(path):
    with HessianStore(path) as store:
        return {key: store[store.index(key)] for key in store.keys()}  # noqa: SIM118 - not a mapping


def command(*arguments):
    result = CliRunner().invoke(app, ["label", *map(str, arguments)])
    return result.exit_code, result.output


def test_failures_and_a_killed_worker_cost_one_structure_each(tmp_path):
    frames = [molecule(name) for name in ("H2O", "NH3", "CH4", "CO", "HCl")]
    write(tmp_path / "some.xyz", frames, format="extxyz")
    (tmp_path / "some.smi").write_text("# a comment\nO\nno molecule\n")
    tasks = Tasks([f"{tmp_path}/some.xyz", f"smiles:{tmp_path}/some.smi"])
    seen = []
    with HessianStore(tmp_path / "labels.lmdb", "a") as store:
        counts = label_into(store, tasks, Springs, workers=2, report=lambda now: seen.append(now.done))
        failures = {key.split("-")[0]: reason for key, reason in store.failures().items()}
        assert failures == {
            "some.xyz#1": "nitrogen is not a spring",
            "some.xyz#4": DIED,
            "some.smi#1": "not a valid SMILES string: 'no'",
        }
        assert (counts.labelled, counts.failed, counts.skipped, len(store)) == (4, 3, 0, 4)
        assert seen == sorted(seen) and seen[-1] == len(tasks) == 7
        for record in store:
            expected = np.diag(2.0 * np.repeat(record.numbers, 3))
            np.testing.assert_array_equal(record.hessian(), expected)
        # neither labels nor failures are made again, unless failures are asked for
        again = label_into(store, tasks, Springs)
        assert (again.labelled, again.failed, again.skipped) == (0, 0, 7)
        once_more = label_into(store, tasks, partial(Springs, careful=True), retry_failed=True)
        assert (once_more.labelled, once_more.failed, once_more.skipped) == (2, 1, 4)
        assert list(store.failures()) == ["some.smi#1"]
        assert len(store.metadata["runs"]) == 3
        assert store.metadata["runs"][0]["versions"]["ase"]


def test_killed_and_started_again_gives_the_same(tmp_path, water):
    script = tmp_path / "springs.py"
    script.write_text(SPRINGS)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}

    def start(out):
        return subprocess.Popen([sys.executable, script, water, tmp_path / out], env=environment)

    running = start("killed.lmdb")
    _wait_for(lambda: _count(tmp_path / "killed.lmdb"))
    workers = _children_of(running.pid)
    running.kill()
    running.wait()
    assert workers
    _wait_for(lambda: not _running(workers))
    assert 0 < len(labelled(tmp_path / "killed.lmdb")) < 12
    assert start("killed.lmdb").wait() == 0
    found, expected = labelled(tmp_path / "killed.lmdb"), {task.key: task for task in Tasks([str(water)])}
    assert set(found) == set(expected) and len(found) == 12
    for key, record in found.items():
        np.testing.assert_array_equal(record.positions, expected[key].atoms.positions)
        np.testing.assert_array_equal(record.hessian(), Springs().label(expected[key].atoms).hessian())


def _count(path):
    try:
        with HessianStore(path) as store:
            return len(store)
    except Exception:  # not there yet, or just being made
        return 0


def _wait_for(condition):
    """Until it is true, two minutes at most."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _processes():
    """Number and parent of every process that is not over."""
    found = subprocess.run(["ps", "-eo", "pid,ppid,stat"], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in found.splitlines()[1:]]
    return {int(pid): int(parent) for pid, parent, state in rows if not state.startswith("Z")}


def _children_of(pid):
    return [child for child, parent in _processes().items() if parent == pid]


def _running(pids):
    return set(pids) & set(_processes())


def test_stopped_by_a_signal(tmp_path, water):
    out = tmp_path / "labels.lmdb"
    arguments = [water, "--with", "calculator:label_cases:make_slow_emt", "--trust-code", "--out", out]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    call = [sys.executable, "-m", "hip_ext.cli", "label", *map(str, arguments)]
    running = subprocess.Popen(call, env=environment, stderr=subprocess.PIPE, text=True)
    _wait_for(lambda: _count(out))
    children = _children_of(running.pid)
    running.send_signal(signal.SIGTERM)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130
    assert errors == "hip-ext: interrupted\n"
    assert 0 < len(labelled(out)) < 12
    assert children
    _wait_for(lambda: not _running(children))


def test_a_store_has_one_level(tmp_path, water):
    tasks, out = Tasks([str(water)]), tmp_path / "labels.lmdb"
    with HessianStore(out, "a") as store:
        label_into(store, Tasks([str(water)], limit=1), Springs)
        with pytest.raises(ConfigError, match=r"was made with stiffness = 2.0, now it is 3.0"):
            label_into(store, tasks, partial(Springs, stiffness=3.0))
        with pytest.raises(ConfigError, match="was made with wanted"):
            label_into(store, Tasks([str(water)], Wanted(rows=1)), Springs)
        with pytest.raises(ConfigError, match="workers is 0"):
            label_into(store, tasks, Springs, workers=0)
        assert len(store) == 1
    with HessianStore(tmp_path / "other.lmdb", "a") as store:
        store.append([HessianRecord.from_atoms(molecule("H2O"))])
        with pytest.raises(ConfigError, match="unknown level"):
            label_into(store, tasks, Springs)


def test_a_store_without_records_is_taken_over_by_another_level(tmp_path):
    write(tmp_path / "ammonia.xyz", molecule("NH3"), format="extxyz")
    tasks = Tasks([str(tmp_path / "ammonia.xyz")])
    with HessianStore(tmp_path / "labels.lmdb", "a") as store:
        assert label_into(store, tasks, Springs).failed == 1
        assert label_into(store, tasks, Springs).skipped == 1
        assert label_into(store, tasks, partial(Springs, stiffness=3.0, careful=True)).labelled == 1
        assert store.metadata["level"]["stiffness"] == 3.0 and not store.failures()


class TestTasks:
    @pytest.fixture(autouse=True)
    def _installed(self):
        pytest.importorskip("rdkit", reason="needs rdkit")

    def test_states_are_repeatable_and_sample_all_molecules_first(self, tmp_path):
        (tmp_path / "m.smi").write_text("CO\nCCO\n")
        name = f"smiles:{tmp_path}/m.smi"
        first, second = (list(Tasks([name], Wanted(rows=2), states=3)) for _ in range(2))
        assert [task.key for task in first] == [task.key for task in second]
        assert [task.key.rsplit("-", 1)[0] for task in first[:3]] == ["m.smi#0-0", "m.smi#1-0", "m.smi#0-1"]
        assert len({task.key for task in first}) == 6
        for one, other in zip(first, second, strict=True):
            np.testing.assert_array_equal(one.target.atoms, other.target.atoms)
            assert len(one.target.atoms) == 2
        assert [task.key for task in Tasks([name], states=3, seed=1)] != [task.key for task in first]
        assert len(Tasks([name], states=3, limit=4)) == len(list(Tasks([name], states=3, limit=4))) == 4

    def test_crystals_have_no_random_states(self, tmp_path):
        write(tmp_path / "cu.xyz", bulk("Cu"), format="extxyz")
        (task,) = Tasks([str(tmp_path / "cu.xyz")], states=1)
        assert "periodic" in task.problem
        (task,) = Tasks([str(tmp_path / "cu.xyz")])
        assert not task.problem


class TestCommand:
    def test_partial_labels_of_a_crystal_end_to_end(self, tmp_path):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.05, seed=0)
        write(tmp_path / "cu.xyz", atoms, format="extxyz")
        out = tmp_path / "cu.lmdb"
        code, text = command(
            tmp_path / "cu.xyz", "--with", "calculator:emt", "--out", out, "--rows", 2, "--probes", 3,
            "--probe-kind", "low-modes", "--step", 0.002, "--json",
        )  # fmt: skip
        assert code == 0, text
        assert json.loads(text) == {"labelled": 1, "failed": 0, "skipped": 0}
        (record,) = labelled(out).values()
        assert record.pbc.all() and len(record.labelled) == 2 and record.products.shape == (3, 4, 3)
        assert record.method == "emt" and record.info["step"] == 0.002
        with HessianStore(out) as store:
            assert store.metadata["level"]["wanted"] == {"rows": 2, "probes": 3, "probe_kind": "low-modes"}

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--with", "calculator:nosuch"], "ASE cannot make a calculator 'nosuch'"),
            (["--with", "pyscff:hf/sto-3g"], "did you mean 'pyscf'"),
            (["--with", "calculator:label_cases:make_emt"], "--trust-code"),
            (["--with", "calculator:emt", "--rows", "0"], "rows is 0"),
            (["--with", "calculator:emt", "--grid-level", "5"], "--grid-level is for pyscf:…, not for calculator:emt"),
            (["--with", "backbone:so3lr", "--grid-level", "12"], "--grid-level is for pyscf:…, not for backbone:so3lr"),
            (["--with", "tblite:GFN2-xTB", "--float64"], "--float64 is for backbone:…, not for tblite:GFN2-xTB"),
            (["--with", "backbone:so3lr", "--step", "0.01"], "--step is for pyscf:…, tblite:…, calculator:…, not for"),
            (["--with", "calculator:emt", "--probes", "1", "--probe-kind", "soft"], "no probes of kind 'soft'"),
            (["--with", "calculator:emt", "--distort", "0"], "--distort is 0"),
            (["--with", "calculator:emt", "--limit", "-1"], "--limit is -1"),
            (["--with", "calculator:emt", "--step", "-0.1"], "step is -0.1"),
            (["--with", "calculator:emt", "--grid", "99x590"], "--grid 99x590"),
            (["--with", "calculator:emt", "--workers", "0"], "workers is 0"),
        ],
    )
    def test_bad_options_are_one_line(self, tmp_path, water, arguments, message):
        code, text = command(water, "--out", tmp_path / "labels.lmdb", *arguments)
        assert code == 2
        assert text.startswith("hip-ext: error: ") and message in text and text.count("\n") == 1

    def test_labelling_nothing_is_no_success(self, tmp_path, water):
        write(tmp_path / "argon.xyz", Atoms("Ar", positions=[[0, 0, 0]]))  # which EMT does not know
        common = ("--with", "calculator:emt", "--out", tmp_path / "labels.lmdb")
        code, text = command(tmp_path / "argon.xyz", *common)
        assert code == 1 and "0 labelled, 1 failed" in text
        code, text = command(tmp_path / "argon.xyz", water, *common)
        assert code == 0 and "12 labelled, 0 failed, 1 skipped" in text

    def test_missing_files_make_no_store(self, tmp_path):
        code, text = command(tmp_path / "none.xyz", "--with", "calculator:emt", "--out", tmp_path / "labels.lmdb")
        assert code == 2 and "cannot read" in text
        assert not (tmp_path / "labels.lmdb").exists()
