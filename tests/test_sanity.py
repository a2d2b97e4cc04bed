"""A Hessian that is none is an error wherever it would leave, in one line that names the structure and the reason."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import ase.io
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from toy_backbone import ToyBackbone

from hip_ext import HeadConfig, HessianCalculator, HessianModel, attach_head
from hip_ext.errors import DataError, StructureError
from hip_ext.evaluation.inputs import Contestant
from hip_ext.sanity import LARGEST, check_matrix
from hip_ext.workflows.one_pass import OnePassCalculator

SMALL = HeadConfig(scalars=8, channels=4, hidden=8, pair_channels=2, coordinates=4, cutoff=3.0)


def carbon_monoxide(distance: float) -> Atoms:
    return Atoms("CO", positions=[(0, 0, 0), (0, 0, distance)])


@pytest.fixture
def model() -> HessianModel:
    """Blocks of a sane size beyond some 1 Å, and of any size below."""
    made = attach_head(ToyBackbone(), SMALL)
    made.head.block_scale.log_scale[0] = 40.0  # at 0.5 Å
    return made


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(("spoil", "size"), [(40.0, "eV/Å²"), (3000.0, "not finite")])
def test_atoms_too_close(model, spoil, size):
    model.head.block_scale.log_scale[0] = spoil
    close, ways = carbon_monoxide(0.3), []
    ways.append(lambda: model.hessian(close))
    ways.append(lambda: model.energy_forces_hessian(close))
    ways.append(lambda: HessianCalculator(model).get_hessian(close))
    ways.append(lambda: OnePassCalculator(model).get_hessian(close))
    ways.append(lambda: Contestant("toy", model.backbone, model).predict([close]))
    for way in ways:
        with pytest.raises((StructureError, DataError), match="means nothing") as error:
            way()
        assert "atom 0 (C) and atom 1 (O) are 0.30 Å apart" in one_line(error)
        assert size in one_line(error)
    assert HessianCalculator(model).get_hessian(carbon_monoxide(2.0)).shape == (6, 6)


def test_the_structure_of_a_batch(model):
    with pytest.raises(StructureError, match="structure 1: ") as error:
        model.hessian([molecule("H2O"), carbon_monoxide(0.3)])
    assert "atom 0 (C) and atom 1 (O)" in one_line(error)


def test_nothing_close(model):
    model.head.block_scale.log_scale.fill_(60.0)
    with pytest.raises(StructureError, match="far from what the head was taught"):
        model.hessian(carbon_monoxide(1.13))


def test_gradients_are_not_looked_at(model):
    structures = model.structures(carbon_monoxide(0.3))
    features = model.backbone.features(model.backbone.prepare(structures))
    assert float(model.head(features, structures).dense().detach().abs().max()) > LARGEST


def test_one_matrix():
    check_matrix(torch.full((6, 6), LARGEST), carbon_monoxide(1.13))
    check_matrix(torch.zeros(3, 3), Atoms("C"))
    for bad in (2 * LARGEST, -2 * LARGEST, float("nan")):
        matrix = torch.zeros(6, 6)
        matrix[0, 1] = bad
        with pytest.raises(StructureError, match="means nothing"):
            check_matrix(matrix, carbon_monoxide(1.13))


@pytest.mark.skipif(find_spec("sevenn") is None, reason="needs sevenn")
@pytest.mark.parametrize("distance", [0.5, 0.9])
def test_shipped_head(tmp_path, distance):
    ase.io.write(tmp_path / "close.xyz", Atoms("PtC", positions=[(0, 0, 0), (0, 0, distance)]))
    asked = ["hessian", "close.xyz", "--model", "hip-7net-0", "--out", "out.npz"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, filter(None, sys.path)))}
    command = [sys.executable, "-m", "hip_ext.cli", *asked]
    found = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert found.returncode == 2 and not (tmp_path / "out.npz").exists()
    assert f"atom 0 (Pt) and atom 1 (C) are {distance:.2f} Å apart" in found.stderr.replace("\n", " ")
    assert "Traceback" not in found.stderr
