"""Backbones for tests: SO3LR from its wheel, MACE with random weights, MACE with trained weights from ../shared.

Each case comes with structures of elements that it knows: two molecules and a small triclinic crystal in which atoms
are neighbours of their own images.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import Calculator
from torch import Tensor, nn

from hip_ext.backbones import Backbone, load_backbone
from hip_ext.features import NodeFeatures


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Torch's default dtype for the length of the block: frameworks build and evaluate models under it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


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


def methanol_crystal() -> Atoms:
    """One methanol in a triclinic cell so small that its images are its neighbours, with atoms outside the cell."""
    atoms = molecule("CH3OH")
    atoms.set_cell([[4.6, 0.0, 0.0], [1.1, 4.9, 0.0], [-0.7, 0.9, 5.2]])
    atoms.pbc = True
    atoms.rattle(0.05, seed=3)
    return atoms


def telluride_crystal() -> Atoms:
    """Four atoms of Ge, Sb and Te near a rock-salt lattice, in a triclinic cell."""
    cell = [[4.3, 0.0, 0.0], [2.1, 3.7, 0.0], [2.2, 1.3, 7.2]]
    scaled = [[0.0, 0.0, 0.0], [0.5, 0.5, 0.26], [0.02, 0.0, 0.5], [0.5, 0.48, 0.75]]
    atoms = Atoms("GeTeSbTe", scaled_positions=scaled, cell=cell, pbc=True)
    atoms.rattle(0.05, seed=3)
    return atoms


def organic_structures() -> tuple[Atoms, Atoms, Atoms]:
    """Two rattled molecules and a crystal of H, C, N and O."""
    ethanol, nitromethane = molecule("CH3CH2OH"), molecule("CH3NO2")
    ethanol.rattle(0.05, seed=1)
    nitromethane.rattle(0.05, seed=2)
    return ethanol, nitromethane, methanol_crystal()


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


@dataclass(frozen=True)
class BackboneCase:
    """A backbone and what to try it on.

    Attributes:
        kind: registry name.
        make_model: builds the framework's module anew, given the folder of trained weights.
        structures: two molecules and a crystal.
        own_calculator: the framework's own ASE calculator around a module, in float64.
        layers: the attribute that lists the layers which a forward pass calls once each.
    """

    kind: str
    make_model: Callable[[Any], nn.Module]
    structures: Callable[[], tuple[Atoms, Atoms, Atoms]]
    own_calculator: Callable[[nn.Module], Calculator]
    layers: str

    def attach(self, model: nn.Module) -> Backbone:
        """The adapter around a module."""
        return load_backbone(self.kind, model)


def _so3lr_model(_: object) -> nn.Module:
    pytest.importorskip("so3krates_torch", reason="needs so3krates-torch")
    return load_backbone("so3lr", dtype=torch.float64).model


def _trained(name: str) -> Callable[[Any], nn.Module]:
    return lambda request: trained_mace(request.getfixturevalue("shared") / "weights", name)


CASES = {
    "so3lr": BackboneCase("so3lr", _so3lr_model, organic_structures, so3lr_calculator, "euclidean_transformers"),
    "mace": BackboneCase("mace", lambda _: random_mace(), organic_structures, mace_calculator, "interactions"),
    "mace_spice": BackboneCase("mace", _trained("mace_spice"), organic_structures, mace_calculator, "interactions"),
    "mace_gst": BackboneCase("mace", _trained("mace_gst"), telluride_structures, mace_calculator, "interactions"),
}


def assert_same_features(found: NodeFeatures, expected: NodeFeatures, relative: float = 1e-10) -> None:
    """Compares degree by degree, relative to the largest component of the degree."""
    for name in ("scalars", "vectors", "tensors"):
        a, b = getattr(found, name), getattr(expected, name)
        assert a.shape == b.shape
        scale = float(b.abs().max()) if b.numel() else 1.0
        assert float((a - b).abs().max() if b.numel() else 0.0) <= relative * scale, name


def turned(features: NodeFeatures, q: Tensor) -> NodeFeatures:
    """The features as they must be after x → Q x, with Q in O(3)."""
    vectors = torch.einsum("xy,ncy->ncx", q, features.vectors)
    tensors = torch.einsum("xa,ncab,yb->ncxy", q, features.tensors, q)
    return NodeFeatures(features.scalars, vectors, tensors, features.parity)


def random_orthogonal(seed: int, determinant: int) -> Tensor:
    """A random element of O(3) with the given determinant, float64."""
    generator = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    q = q * torch.sign(torch.diagonal(r))
    return q * (determinant * torch.sign(torch.linalg.det(q)))
