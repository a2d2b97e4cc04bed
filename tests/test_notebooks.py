"""The notebooks of examples/notebooks run from their first cell to their last, each in an empty folder."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from hip_ext.shipped import shipped_checkpoints

FOLDER = Path(__file__).resolve().parents[1] / "examples/notebooks"
NEEDS = {
    "add_a_head_to_your_mace": ("mace",),
    "distil": ("so3krates_torch", "rdkit", "lmdb", "lightning", "matplotlib"),
    "frequencies": ("so3krates_torch",),
    "transition_state": ("so3krates_torch", "sella", "geodesic_interpolate"),
    "phonons": ("so3krates_torch", "matplotlib"),
}
"""Packages that a notebook imports beyond those of hip_ext itself."""


def test_every_notebook_is_run_here():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(NEEDS)


@pytest.mark.parametrize("name", NEEDS)
def test_notebook_runs(name, tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="needs the extra dev: pip install -e '.[dev]'")
    client = pytest.importorskip("nbclient", reason="needs the extra dev: pip install -e '.[dev]'")
    pytest.importorskip("ipykernel", reason="needs the extra dev: pip install -e '.[dev]'")
    for package in NEEDS[name]:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells), "committed clean"
    if "hip-so3lr-organic" in str(notebook) and "hip-so3lr-organic" not in shipped_checkpoints():
        pytest.skip("the checkpoint hip-so3lr-organic is not in this checkout")
    root = str(FOLDER.parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", "")))))
    monkeypatch.setenv("MPLBACKEND", "agg")
    client.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
