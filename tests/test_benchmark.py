"""The speed benchmark on tiny sizes: what it writes, and that it goes on where it ended."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

hessian_speed = pytest.importorskip("hessian_speed", reason="the benchmarks are not part of an installed package")
from speed_cases import alkane, load_model  # noqa: E402


def test_alkanes_have_the_bonds_of_alkanes():
    molecule = alkane(20, seed=1)
    assert molecule.get_chemical_formula() == "C6H14"
    distances = molecule.get_all_distances()
    numbers = molecule.numbers
    bonded = (distances > 0) & (distances < np.where(numbers[:, None] + numbers == 12, 1.8, 1.35))
    np.testing.assert_array_equal(bonded.sum(1), np.where(numbers == 6, 4, 1))
    apart = distances[~bonded & ~np.eye(20, dtype=bool)]
    assert apart.min() > 1.6


@pytest.mark.parametrize("atoms", [1, 10, 20, 40, 80])
def test_alkanes_are_as_large_as_asked_for(atoms):
    assert abs(len(alkane(atoms)) - atoms) <= (1 if atoms > 3 else 4)


def test_every_quantity_is_measured_and_the_run_is_resumed(tmp_path, capsys):
    pytest.importorskip("so3krates_torch", reason="needs so3krates-torch")
    pytest.importorskip("matplotlib", reason="the plot needs matplotlib")
    out = tmp_path / "speed.json"
    arguments = ["--backbone", "so3lr", "--sizes", "5", "--out", str(out)]
    hessian_speed.main([*arguments, "--batches", "1"])
    first = json.loads(out.read_text())
    (case,) = first["cases"]
    assert (case["backbone"], case["atoms"], case["batch"]) == ("so3lr", 5, 1)
    assert case["clock"] == "processor time"
    quantities = {"direct", "energy", "energy_with_graph", "energy_forces", "autograd", "finite_differences"}
    assert set(case["seconds"]) == quantities
    for timing in case["seconds"].values():
        assert 0 < timing["min"] <= timing["median"] <= timing["max"]
    expected = case["seconds"]["autograd"]["median"] / case["seconds"]["direct"]["median"]
    assert case["ratios"]["autograd / direct"] == pytest.approx(expected)
    assert first["machine"]["threads"] == 1
    assert out.with_suffix(".png").stat().st_size > 0

    hessian_speed.main([*arguments, "--batches", "1", "2", "--quick", "--resume"])
    resumed = json.loads(out.read_text())["cases"]
    assert resumed[0] == case
    assert [(c["atoms"], c["batch"]) for c in resumed] == [(5, 1), (5, 2)]
    assert set(resumed[1]["seconds"]) == quantities - {"autograd", "finite_differences"}
    assert "so3lr" in capsys.readouterr().out


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_peak_memory_is_what_a_call_needs():
    clock = hessian_speed.Clock(hessian_speed.torch.device("cpu"))
    assert clock.peak_memory(lambda: np.ones(8_000_000)) == pytest.approx(64, rel=0.05)
    assert clock.peak_memory(lambda: None) < 2


def test_a_missing_file_of_weights_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("speed_cases.WEIGHTS", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"mace_spice\.json"):
        load_model("mace_spice", "cpu")
