"""What MACE prints when it is imported is not in the middle of a command's JSON."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from ase.build import molecule
from ase.io import write
from backbone_cases import random_mace

from hip_ext import attach_head
from hip_ext.head import HeadConfig

pytest.importorskip("mace", reason="needs mace-torch")


def test_json_of_a_mace_model_is_json(tmp_path):
    torch.save(random_mace(), tmp_path / "mine.model")
    attach_head("mace", HeadConfig(layers=0), source=tmp_path / "mine.model").save_pretrained(tmp_path / "head")
    write(tmp_path / "water.xyz", molecule("H2O"))
    options = ["--model", "head", "--trust-source", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "hip_ext.cli", "hessian", "water.xyz", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)
