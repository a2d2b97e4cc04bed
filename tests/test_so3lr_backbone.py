"""SO3LR: charged and radical species, long-range settings, and the elements that it was trained on."""

from __future__ import annotations

import copy
import json
import shutil

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from backbone_cases import assert_same_features, default_dtype, so3lr_calculator

from hip_ext.backbones import Backbone, load_backbone
from hip_ext.checkpoint.verification import verify
from hip_ext.errors import BackboneError
from hip_ext.features import NodeFeatures
from hip_ext.shipped import checkpoints_folder
from hip_ext.structures import Structures

pytest.importorskip("so3krates_torch", reason="needs so3krates-torch")


def features_of(backbone: Backbone, atoms: Atoms) -> NodeFeatures:
    with torch.no_grad():
        return backbone.features(backbone.prepare(Structures.from_ase(atoms)))


def test_so3lr_charged_and_radical_species():
    backbone = load_backbone("so3lr", dtype=torch.float64)
    with default_dtype(torch.float64):
        calculator = so3lr_calculator(copy.deepcopy(backbone.model))
    states = [("CH3OH", 0, 0.0), ("OH", 0, 0.5), ("OH", -1, 0.0), ("CH3NO2", -1, 0.5), ("NH3", 1, 0.5), ("O2", 0, 1.0)]
    many, energies, start = [molecule(name) for name, _, _ in states], [], 0
    for atoms, (_, charge, spin) in zip(many, states, strict=True):
        atoms.info |= {"charge": charge, "total_spin": spin}
    found = backbone.evaluate(Structures.from_ase(many))
    for b, atoms in enumerate(many):
        with default_dtype(torch.float64):
            calculator.calculate(atoms)
        assert float(found.energy[b]) == pytest.approx(calculator.results["energy"], rel=1e-10)
        np.testing.assert_allclose(found.forces[start : start + len(atoms)], calculator.results["forces"], atol=1e-10)
        energies.append(float(found.energy[b]))
        start += len(atoms)
    assert abs(energies[1] - energies[2]) > 0.1


def test_so3lr_long_range_settings_are_the_backbones_own():
    """Two methanols 8 Å apart see each other's charges beyond 4.5 Å, but not with a long-range cutoff of 6 Å."""
    far = molecule("CH3OH")
    other = far.copy()
    other.positions += [8.0, 0.0, 0.0]
    pair = far + other
    default, short = (load_backbone("so3lr", dtype=torch.float64, **o) for o in ({}, {"long_range_cutoff": 6.0}))

    def attraction(backbone: Backbone) -> float:
        energies = backbone.evaluate(Structures.from_ase([pair, far])).energy
        return float(energies[0] - 2 * energies[1])

    assert abs(attraction(default)) > 1e-4
    assert abs(attraction(short)) < 1e-9
    assert short.source.options == {"long_range_cutoff": 6.0, "dispersion_damping": 2.0}
    assert_same_features(features_of(default, pair), features_of(short, pair), 0.0)
    assert default.source.options == {"long_range_cutoff": 12.0, "dispersion_damping": 2.0}
    model = copy.deepcopy(default.model)
    model.r_max_lr, model.dispersion_energy_cutoff_lr_damping = 9.0, 1.5
    own = load_backbone("so3lr", model, dispersion_damping=1.0)
    assert own.source.options == {"long_range_cutoff": 9.0, "dispersion_damping": 1.0}


def test_so3lr_knows_the_elements_that_it_was_trained_on():
    from so3krates_torch.modules.models import So3krates

    backbone = load_backbone("so3lr")
    assert backbone.elements == {1, 6, 7, 8, 9, 15, 16, 17}
    with pytest.raises(BackboneError, match="does not know Br; it knows H, C, N, O, F, P, S, Cl"):
        backbone.prepare(Structures.from_ase(molecule("CH3Cl") + Atoms("Br", [(0, 0, 5)])))
    with default_dtype(torch.float32):
        fresh = So3krates(r_max=4.0, num_radial_basis_fn=8, degrees=[1, 2], num_features=32, num_heads=2, num_layers=2)
    assert load_backbone("so3lr", fresh).elements == frozenset(range(1, 119))
    assert features_of(load_backbone("so3lr", fresh), molecule("CH3OH")).widths == (64, 2, 2)


def test_so3lr_with_several_energies_is_refused():
    from so3krates_torch.modules.models import MultiHeadSO3LR

    with default_dtype(torch.float32):
        model = MultiHeadSO3LR(
            num_output_heads=2,
            energy_regression_dim=16,
            r_max=4.0,
            num_radial_basis_fn=8,
            degrees=[1, 2],
            num_features=32,
            num_heads=2,
            num_layers=2,
        )
    with pytest.raises(BackboneError, match="found a MultiHeadSO3LR"):
        load_backbone("so3lr", model)


@pytest.mark.parametrize("cutoff", [10000, 50.1, 1e308, -1, 0, 0.5, 5e-324, float("nan"), float("inf")])
def test_so3lr_long_range_cutoff_out_of_range(cutoff):
    with pytest.raises(BackboneError, match=r"long_range_cutoff is \S+ Å, expected 1 to 50 Å$"):
        load_backbone("so3lr", long_range_cutoff=cutoff)


@pytest.mark.parametrize("damping", [-1, 0, 5e-324, 12.1, 1e308, float("nan"), float("inf")])
def test_so3lr_dispersion_damping_out_of_range(damping):
    with pytest.raises(BackboneError, match=r"dispersion_damping is \S+ Å, expected 0.01 to 12 Å$"):
        load_backbone("so3lr", dispersion_damping=damping)


def test_so3lr_checkpoint_with_long_range_settings_of_any_size(tmp_path):
    shutil.copytree(checkpoints_folder() / "hip-so3lr-organic", tmp_path / "head")
    path = tmp_path / "head" / "config.json"
    config = json.loads(path.read_text())
    for name, value in {"long_range_cutoff": 10000, "dispersion_damping": 1e308}.items():
        changed = copy.deepcopy(config)
        changed["backbone"]["options"][name] = value
        path.write_text(json.dumps(changed))
        with pytest.raises(BackboneError, match=f"{name} is"):
            verify(tmp_path / "head")
