"""What follows from the adapter without another line: a head by name, distillation, checkpoints, the command line."""

import json
import subprocess
import sys

import ase.io
import numpy as np
import pytest
import torch
from ase.build import molecule

from cartnet.hessian import CartNetBackbone
from hip_ext import HeadConfig, attach_head, from_pretrained
from hip_ext.backbones import availability
from hip_ext.errors import BackboneError
from hip_ext.reference import autograd_hessian
from hip_ext.structures import Structures
from hip_ext.training.config import DistillConfig, LabelConfig, TrainConfig
from hip_ext.training.distill import distill

HEAD = HeadConfig(scalars=16, channels=8, hidden=16, pair_channels=4, coordinates=8, cutoff=4.0)
MOLECULES = ("H2O", "CH4", "NH3", "CH3OH", "HCN", "C2H4", "H2CO", "C2H2", "CH3CHO", "CH3NO2")


def rattled(copies):
    frames = []
    for seed, name in enumerate(copies * MOLECULES):
        frames.append(molecule(name))
        frames[-1].rattle(0.05, seed=seed)
    return frames


def test_the_entry_point_is_found():
    (found,) = (one for one in availability() if one.kind == "cartnet")
    assert (found.origin, found.usable, found.hint) == ("cartnet 0.1.0", True, "")
    model = attach_head("cartnet", HEAD, source="cartnet-wide", dtype=torch.float32)
    assert isinstance(model.backbone, CartNetBackbone)
    assert model.hessian(molecule("CH3OH")).dense().dtype == torch.float32
    with pytest.raises(BackboneError, match="there is no CartNet 'cartnet-huge'"):
        attach_head("cartnet", source="cartnet-huge")


@pytest.fixture(scope="module")
def distilled(tmp_path_factory):
    """A head taught for a few seconds."""
    recipe = DistillConfig(
        backbone="cartnet",
        source="cartnet-demo",
        labels=LabelConfig(relaxed=0.0, shard=16),
        head=HEAD,
        train=TrainConfig(steps=150, batch=8, warmup=10, evaluate_every=50, average=0.9),
    )
    return distill(recipe, rattled(4), tmp_path_factory.mktemp("cartnet") / "run", held_out=rattled(1)[:6])


def test_a_head_learns_the_hessian_of_its_backbone(distilled):
    """On other states of the molecules, against the exact one: a good part of what there is to learn."""
    errors, sizes = [], []
    for name in MOLECULES[:5]:
        atoms = molecule(name)
        atoms.rattle(0.05, seed=99)
        exact = autograd_hessian(distilled.model.backbone, Structures.from_ase(atoms))
        errors.append(float((distilled.model.hessian(atoms).dense() - exact).abs().mean()))
        sizes.append(float(exact.abs().mean()))
    assert np.mean(errors) < 0.5 * np.mean(sizes)


def test_its_checkpoint_is_loaded_by_name_in_another_process(distilled, tmp_path):
    atoms = molecule("CH3OH")
    ase.io.write(tmp_path / "methanol.xyz", atoms)
    expected = distilled.model.hessian(atoms).dense()
    torch.testing.assert_close(from_pretrained(distilled.checkpoint).hessian(atoms).dense(), expected)
    command = ["-m", "hip_ext.cli", "hessian", "methanol.xyz", "-m", str(distilled.checkpoint), "--out", "found.json"]
    subprocess.run([sys.executable, *command], cwd=tmp_path, check=True)
    (found,) = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    np.testing.assert_allclose(found["hessian"], expected.numpy(), rtol=0, atol=1e-6)
