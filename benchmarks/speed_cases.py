"""What the speed benchmark measures on: zig-zag alkanes, and backbones in float32 with a head of the shipped size."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

from hip_ext import HeadConfig, HessianModel, attach_head
from hip_ext.backbones import Backbone, load_backbone

BACKBONES = ("so3lr", "mace", "mace_spice")
WEIGHTS = Path(__file__).resolve().parents[2] / "shared" / "weights"
HEAD = HeadConfig(layers=1, channels=24, pair_channels=16, hidden=160, scalars=128, coordinates=48, cutoff=5.0)
"""Of the SO3LR checkpoint that ships."""

# 128x0e+128x1o, two layers, r_max 5 Å: the size of MACE's medium models.
MACE: dict[str, Any] = {
    "r_max": 5.0,
    "num_bessel": 8,
    "num_polynomial_cutoff": 5,
    "max_ell": 3,
    "interaction_cls": "RealAgnosticResidualInteractionBlock",
    "interaction_cls_first": "RealAgnosticResidualInteractionBlock",
    "num_interactions": 2,
    "num_elements": 4,
    "hidden_irreps": "128x0e+128x1o",
    "MLP_irreps": "16x0e",
    "atomic_energies": [-1.0, -3.0, -4.0, -5.0],
    "avg_num_neighbors": 15.0,
    "atomic_numbers": [1, 6, 7, 8],
    "correlation": 3,
    "use_reduced_cg": False,
    "atomic_inter_scale": 1.0,
    "atomic_inter_shift": 0.0,
}


def alkane(atoms: int, seed: int = 0) -> Atoms:
    """The zig-zag alkane C_n H_2n+2 whose number of atoms, 3n + 2, is nearest to `atoms`, shaken by 0.02 Å."""
    carbons = max(1, round((atoms - 2) / 3))
    half = np.radians(111.5) / 2
    step, rise, bond, spread = 1.53 * np.sin(half), 1.53 * np.cos(half), 1.09, np.radians(53.5)
    chain = np.array([[k * step, 0.0, (k % 2) * rise] for k in range(carbons)])
    hydrogens = []
    for k, carbon in enumerate(chain):
        up = 1.0 if k % 2 else -1.0
        sides = [carbon + bond * np.array([0.0, y * np.sin(spread), up * np.cos(spread)]) for y in (1.0, -1.0)]
        ends = [x for x, there in ((-1.0, k == 0), (1.0, k == carbons - 1)) if there]
        hydrogens += sides + [carbon + bond * np.array([x * np.sin(half), 0.0, -up * np.cos(half)]) for x in ends]
    molecule = Atoms(f"C{carbons}H{len(hydrogens)}", np.concatenate((chain, hydrogens)))
    molecule.rattle(0.02, seed=seed)
    return molecule


def load_model(name: str, device: str, head: HeadConfig = HEAD) -> HessianModel:
    """A backbone of `BACKBONES` in float32 with an untrained head.

    Raises:
        FileNotFoundError: the trained weights of "mace_spice" are not there.
    """
    return attach_head(_backbone(name, device), head)


def _backbone(name: str, device: str) -> Backbone:
    if name == "so3lr":
        return load_backbone("so3lr", device=device, dtype=torch.float32)
    if name == "mace":
        return load_backbone("mace", _mace(MACE), device=device, dtype=torch.float32)
    from safetensors.torch import load_file

    model = _mace(json.loads((WEIGHTS / f"{name}.json").read_text()))
    model.load_state_dict(load_file(WEIGHTS / f"{name}.safetensors"), strict=True)
    return load_backbone("mace", model, device=device, dtype=torch.float32)


def _mace(config: dict[str, Any]) -> torch.nn.Module:
    from mace.modules import ScaleShiftMACE, interaction_classes

    # isort: split
    # Only after mace, which makes e3nn 0.4 readable for torch 2.6 and later.
    from e3nn.o3 import Irreps

    config = dict(config)
    for key in ("hidden_irreps", "MLP_irreps"):
        config[key] = Irreps(config[key])
    for key in ("interaction_cls", "interaction_cls_first"):
        config[key] = interaction_classes[config[key]]
    config["atomic_energies"] = np.array(config["atomic_energies"])
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        # e3nn's scripted modules warn about their own annotations, once for every module.
        with warnings.catch_warnings(action="ignore"):
            torch.manual_seed(0)
            return ScaleShiftMACE(gate=torch.nn.functional.silu, **config)
    finally:
        torch.set_default_dtype(before)
