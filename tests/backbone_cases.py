"""Backbones for tests: SO3LR from its wheel, MACE with random weights, MACE with trained weights from ../shared.

Each case comes with structures of elements that it knows: two molecules and a small triclinic crystal in which atoms
are neighbours of their own images.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator
from torch import nn

from hip_ext.backbones import load_backbone
from hip_ext.testing import (
    BackboneCase,
    assert_same_features,
    default_dtype,
    methanol_crystal,
    organic_structures,
    random_orthogonal,
    turned,
)

__all__ = [
    "CASES",
    "BackboneCase",
    "assert_same_features",
    "default_dtype",
    "mace_calculator",
    "methanol_crystal",
    "organic_structures",
    "random_mace",
    "random_orthogonal",
    "so3lr_calculator",
    "telluride_structures",
    "trained_mace",
    "turned",
]

SHARED = Path(__file__).resolve().parents[2] / "shared"


def random_mace(hidden: str = "16x0e+16x1o", seed: int = 0, **changes: Any) -> nn.Module:
    """A ScaleShiftMACE with random weights in float64 for H, C, N, O."""
    pytest.importorskip("mace", reason="needs mace-torch")
    from e3nn import o3
    from mace.modules import ScaleShiftMACE, interaction_classes

    config: dict[str, Any] = {
        "r_max": 4.0,
        "num_bessel": 6,
        "num_polynomial_cutoff": 5,
        "max_ell": 3,
        "interaction_cls": interaction_classes["RealAgnosticResidualInteractionBlock"],
        "interaction_cls_first": interaction_classes["RealAgnosticInteractionBlock"],
        "num_interactions": 2,
        "num_elements": 4,
        "hidden_irreps": o3.Irreps(hidden),
        "MLP_irreps": o3.Irreps("8x0e"),
        "atomic_energies": np.array([-1.0, -3.0, -4.0, -5.0]),
        "avg_num_neighbors": 6.0,
        "atomic_numbers": [1, 6, 7, 8],
        "correlation": 2,
        "gate": torch.nn.functional.silu,
        "use_reduced_cg": False,
        "atomic_inter_scale": 1.0,
        "atomic_inter_shift": 0.0,
    }
    with default_dtype(torch.float64):
        torch.manual_seed(seed)
        return ScaleShiftMACE(**(config | changes))


def trained_mace(weights: Path, name: str) -> nn.Module:
    """A ScaleShiftMACE with the trained weights `name` of the folder `weights`, in float64."""
    pytest.importorskip("mace", reason="needs mace-torch")
    from e3nn import o3
    from mace.modules import ScaleShiftMACE, interaction_classes
    from safetensors.torch import load_file

    config = json.loads((weights / f"{name}.json").read_text())
    for key in ("hidden_irreps", "MLP_irreps"):
        config[key] = o3.Irreps(config[key])
    for key in ("interaction_cls", "interaction_cls_first"):
        config[key] = interaction_classes[config[key]]
    config["atomic_energies"] = np.array(config["atomic_energies"])
    with default_dtype(torch.float64):
        model = ScaleShiftMACE(gate=torch.nn.functional.silu, **config)
    exact = {key: value.clone() for key, value in model.state_dict().items() if "U_matrix" in key or "_w3j" in key}
    model.load_state_dict(load_file(weights / f"{name}.safetensors"), strict=True)
    # One of the models was stored in float32: with its coupling constants rounded it is equivariant to 1e-8 only.
    for key, value in exact.items():
        torch.testing.assert_close(model.state_dict()[key], value, rtol=0, atol=1e-7)
        model.state_dict()[key].copy_(value)
    return model


def telluride_crystal() -> Atoms:
    """Four atoms of Ge, Sb and Te near a rock-salt lattice, in a triclinic cell."""
    cell = [[4.3, 0.0, 0.0], [2.1, 3.7, 0.0], [2.2, 1.3, 7.2]]
    scaled = [[0.0, 0.0, 0.0], [0.5, 0.5, 0.26], [0.02, 0.0, 0.5], [0.5, 0.48, 0.75]]
    atoms = Atoms("GeTeSbTe", scaled_positions=scaled, cell=cell, pbc=True)
    atoms.rattle(0.05, seed=3)
    return atoms


def telluride_structures() -> tuple[Atoms, Atoms, Atoms]:
    """Two clusters and a crystal of Ge, Sb and Te."""
    crystal = telluride_crystal()
    first, second = crystal.repeat((2, 1, 1)), crystal.repeat((1, 2, 1))
    for cluster in (first, second):
        cluster.pbc, cluster.cell = False, None
    return first[:7], second[:5], crystal


def so3lr_calculator(model: nn.Module) -> Calculator:
    """so3krates-torch's own calculator with the settings of the published SO3LR; leaves the default dtype changed."""
    from so3krates_torch.calculator.so3 import TorchkratesCalculator

    return TorchkratesCalculator(
        models=model,
        r_max_lr=12.0,
        dispersion_energy_cutoff_lr_damping=2.0,
        compute_stress=True,
        default_dtype="float64",
    )


def mace_calculator(model: nn.Module) -> Calculator:
    """MACE's own calculator."""
    from mace.calculators import MACECalculator

    return MACECalculator(models=[model], default_dtype="float64")


@cache
def _so3lr_model() -> nn.Module:
    pytest.importorskip("so3krates_torch", reason="needs so3krates-torch")
    return load_backbone("so3lr", dtype=torch.float64).model


@cache
def _trained_model(name: str) -> nn.Module:
    if not (SHARED / "weights").is_dir():
        pytest.skip("needs the folder ../shared (trained MACE weights), which is not here")
    return trained_mace(SHARED / "weights", name)


def _copies_of(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """Makes copies of one model: they take a tenth of the time in which e3nn sets up its products."""
    return lambda: copy.deepcopy(build())


_so3lr, _mace = partial(load_backbone, "so3lr"), partial(load_backbone, "mace")
_random, _spice, _gst = cache(random_mace), partial(_trained_model, "mace_spice"), partial(_trained_model, "mace_gst")
CASES = {
    "so3lr": BackboneCase(_copies_of(_so3lr_model), _so3lr, so3lr_calculator, layers="euclidean_transformers"),
    "mace": BackboneCase(_copies_of(_random), _mace, mace_calculator, layers="interactions"),
    "mace_spice": BackboneCase(_copies_of(_spice), _mace, mace_calculator, layers="interactions"),
    "mace_gst": BackboneCase(_copies_of(_gst), _mace, mace_calculator, telluride_structures, layers="interactions"),
}
