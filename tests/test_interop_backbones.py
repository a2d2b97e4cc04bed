"""MACE and SO3LR under fairchem's heads, predict unit and calculator."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import Calculator

pytest.importorskip("mace", reason="needs mace-torch")
pytest.importorskip("so3krates_torch", reason="needs so3krates-torch")
pytest.importorskip("fairchem.core", reason="needs fairchem-core")

from backbone_cases import (
    default_dtype,
    mace_calculator,
    organic_structures,
    random_mace,
    random_orthogonal,
    so3lr_calculator,
)
from fairchem.core import FAIRChemCalculator
from fairchem.core.datasets.atomic_data import AtomicData, atomicdata_list_to_batch
from fairchem.core.models.base import HydraModel
from fairchem.core.units.mlip_unit import InferenceSettings, load_predict_unit

from hip_ext.backbones import load_backbone
from hip_ext.errors import BackboneError, ConfigError, StructureError
from hip_ext.features import tensor_from_e3nn_l2
from hip_ext.model import HessianModel
from hip_ext.plugins.fairchem.borrowed_backbone import HipExtBackbone
from hip_ext.plugins.fairchem.own_energy import OwnEnergyHead, write_inference_checkpoint
from hip_ext.reference import autograd_hessian
from hip_ext.structures import Structures

OWN = {"mace": mace_calculator, "so3lr": so3lr_calculator}
OWN_HEAD = "hip_ext.plugins.fairchem.own_energy.OwnEnergyHead"
BACKBONE = "hip_ext.plugins.fairchem.borrowed_backbone.HipExtBackbone"


@pytest.fixture(scope="module")
def mace_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small MACE with random weights in float64, as MACE itself would write it."""
    path = tmp_path_factory.mktemp("mace") / "random.model"
    torch.save(random_mace(), path)
    return path


@pytest.fixture(scope="module")
def checkpoints(mace_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Checkpoints of fairchem by kind and precision."""
    folder = tmp_path_factory.mktemp("checkpoints")
    paths = {}
    for kind, source in (("mace", str(mace_file)), ("so3lr", None)):
        for precision in ("float32", "float64"):
            path = paths[kind, precision] = folder / f"{kind}-{precision}.pt"
            write_inference_checkpoint(path, kind, source, dtype=getattr(torch, precision))
    return paths


def unit_of(path: Path, precision: str = "float64", **settings: Any) -> Any:
    return load_predict_unit(path, InferenceSettings(base_precision_dtype=precision, **settings), device="cpu")


def own_calculator(kind: str, precision: str = "float64") -> Calculator:
    """The framework's own calculator around the model that the checkpoints were made of."""
    model = random_mace() if kind == "mace" else load_backbone("so3lr", dtype=torch.float64).model
    if precision == "float32":
        if kind == "mace":
            from mace.calculators import MACECalculator

            return MACECalculator(models=[model], default_dtype=precision)
        return load_backbone("so3lr", dtype=torch.float32).calculator()
    return OWN[kind](model)


def batch_of(structures: list[Atoms], dtype: torch.dtype = torch.float64) -> AtomicData:
    return atomicdata_list_to_batch(
        [AtomicData.from_ase(atoms, task_name="omol", target_dtype=dtype) for atoms in structures]
    )


def borrowed(kind: str, source: Path | None = None, **options: Any) -> HipExtBackbone:
    with default_dtype(torch.float64):
        return HipExtBackbone(kind, None if source is None else str(source), **options)


def relative(found: Any, expected: Any) -> float:
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-6), ("float64", 1e-10)])
@pytest.mark.parametrize("kind", ["mace", "so3lr"])
def test_energies_and_forces_through_fairchem_are_the_models_own(
    checkpoints: dict[tuple[str, str], Path], kind: str, precision: str, tolerance: float
) -> None:
    through = FAIRChemCalculator(unit_of(checkpoints[kind, precision], precision), task_name="omol")
    with default_dtype(getattr(torch, precision)):
        own = own_calculator(kind, precision)
        for atoms in organic_structures():
            assert relative(through.get_potential_energy(atoms), own.get_potential_energy(atoms)) < tolerance
            # Forces are differences of larger numbers; in single precision they are rounded where those are.
            assert relative(through.get_forces(atoms), own.get_forces(atoms)) < tolerance * 10


@pytest.mark.parametrize("kind", ["mace", "so3lr"])
def test_stress_and_autograd_hessian_on_demand(checkpoints: dict[tuple[str, str], Path], kind: str) -> None:
    settings = {"predict_untrained_stress": {"omol"}, "predict_untrained_hessian": {"omol"}}
    through = FAIRChemCalculator(unit_of(checkpoints[kind, "float64"], **settings), task_name="omol")
    *_, crystal = organic_structures()
    with default_dtype(torch.float64):
        own = own_calculator(kind)
        assert relative(through.get_stress(crystal), own.get_stress(crystal)) < 1e-10
        water = molecule("H2O")
        through.calculate(water, ["hessian"], [])
        adapter = load_backbone(kind, random_mace() if kind == "mace" else None, dtype=torch.float64)
        expected = autograd_hessian(adapter, Structures.from_ase(water))
    assert relative(through.results["hessian"], expected) < 1e-10


def test_every_structure_of_a_mixed_batch_gets_its_own_numbers(checkpoints: dict[tuple[str, str], Path]) -> None:
    unit = unit_of(checkpoints["mace", "float64"])
    structures = [*organic_structures(), molecule("H2O"), Atoms("O")]
    together = unit.predict(batch_of(structures))
    alone = [unit.predict(batch_of([atoms])) for atoms in structures]
    torch.testing.assert_close(together["energy"], torch.cat([one["energy"] for one in alone]), rtol=1e-12, atol=0)
    torch.testing.assert_close(together["forces"], torch.cat([one["forces"] for one in alone]), rtol=0, atol=1e-12)


def test_charge_and_spin_reach_the_model(checkpoints: dict[tuple[str, str], Path]) -> None:
    through = FAIRChemCalculator(unit_of(checkpoints["so3lr", "float64"]), task_name="omol")
    ammonium = molecule("NH3")
    ammonium.append("H")
    ammonium.positions[-1] = [0.0, 0.0, 1.1]
    adapter = load_backbone("so3lr", dtype=torch.float64)
    energies = {}
    for charge, multiplicity in ((0, 2), (1, 1)):
        ammonium.info = {"charge": charge, "multiplicity": multiplicity}
        expected = float(adapter.evaluate(Structures.from_ase(ammonium)).energy)
        energies[charge] = through.get_potential_energy(ammonium.copy())
        assert energies[charge] == pytest.approx(expected, rel=1e-10)
    assert abs(energies[0] - energies[1]) > 0.1
    ammonium.info = {"charge": 0, "spin": 3}
    with pytest.raises(StructureError, match="11 electrons, which cannot leave 2 unpaired"):
        through.get_potential_energy(ammonium.copy())


@pytest.mark.parametrize("kind", ["mace", "so3lr"])
def test_the_embedding_turns_as_fairchem_says_also_under_reflections(kind: str, mace_file: Path) -> None:
    from e3nn import o3

    backbone = borrowed(kind, mace_file if kind == "mace" else None)
    *_, crystal = organic_structures()
    embedding = backbone(batch_of([crystal]))["node_embedding"]
    assert embedding.shape == (len(crystal), 9, backbone.sphere_channels)
    for determinant in (1, -1):
        q = random_orthogonal(5, determinant)
        turned = crystal.copy()
        turned.set_cell(crystal.cell.array @ q.numpy().T)
        turned.positions = crystal.positions @ q.numpy().T
        found = backbone(batch_of([turned]))["node_embedding"]
        with default_dtype(torch.float64):
            proper = determinant * q
            degrees = [(0, 1, torch.ones(1, 1)), (1, 4, q), (4, 9, o3.Irrep(2, 1).D_from_matrix(proper))]
        for start, stop, matrix in degrees:
            expected = torch.einsum("ab,nbc->nac", matrix.to(q), embedding[:, start:stop])
            assert relative(found[:, start:stop].detach(), expected.detach()) < 1e-9


@pytest.mark.parametrize("kind", ["mace", "so3lr"])
def test_the_embedding_holds_the_features_and_zeros(kind: str, mace_file: Path) -> None:
    backbone = borrowed(kind, mace_file if kind == "mace" else None)
    structures = list(organic_structures()[:2])
    out = backbone(batch_of(structures))
    expected = backbone.adapter.features(backbone.adapter.prepare(Structures.from_ase(structures)))
    embedding, (c0, c1, c2) = out["node_embedding"], backbone.widths
    torch.testing.assert_close(embedding[:, 0, :c0], expected.scalars)
    torch.testing.assert_close(embedding[:, 1:4, :c1].transpose(1, 2), expected.vectors)
    tensors = tensor_from_e3nn_l2(embedding[:, 4:9, :c2].transpose(1, 2))
    torch.testing.assert_close(tensors, expected.tensors, rtol=1e-12, atol=1e-12)
    for rows, width in ((slice(0, 1), c0), (slice(1, 4), c1), (slice(4, 9), c2)):
        assert bool((embedding[:, rows, width:] == 0).all())
    assert out["node_features"].widths == backbone.widths == expected.widths
    assert backbone.parity == "o3"


def test_a_checkpoint_follows_its_source_and_refuses_another(
    checkpoints: dict[tuple[str, str], Path], mace_file: Path, tmp_path: Path
) -> None:
    original = tmp_path / "original.model"
    original.write_bytes(mace_file.read_bytes())
    checkpoint = tmp_path / "moved.pt"
    write_inference_checkpoint(checkpoint, "mace", original, dtype=torch.float64)
    moved, other = tmp_path / "elsewhere.model", tmp_path / "other.model"
    original.rename(moved)
    torch.save(random_mace(seed=1), other)

    def load(**overrides: Any) -> Any:
        settings = InferenceSettings(base_precision_dtype="float64")
        return load_predict_unit(checkpoint, settings, overrides=overrides or None, device="cpu")

    with pytest.raises(Exception, match=r"no MACE model file.*overrides"):
        load()
    with pytest.raises(BackboneError, match=r"fingerprint .*, found .*other"):
        load(backbone={"source": str(other)})
    water = batch_of([molecule("H2O")])
    expected = unit_of(checkpoints["mace", "float64"]).predict(water)
    assert torch.equal(load(backbone={"source": str(moved)}).predict(water)["forces"], expected["forces"])


def test_the_default_settings_of_fairchem_are_put_up_with(checkpoints: dict[tuple[str, str], Path]) -> None:
    unit = load_predict_unit(checkpoints["mace", "float32"], device="cpu")
    expected = unit_of(checkpoints["mace", "float32"], "float32")
    for name in ("H2O", "CH3OH"):
        data = batch_of([molecule(name)], torch.float32)
        assert torch.equal(unit.predict(data.clone())["energy"], expected.predict(data)["energy"])


def test_copies_and_averages_run_on_their_own_weights(mace_file: Path) -> None:
    with default_dtype(torch.float64):
        model = HydraModel(
            {"model": BACKBONE, "kind": "mace", "source": str(mace_file)},
            {"own": {"module": OWN_HEAD}},
            pass_through_head_outputs=True,
        ).eval()
    data = batch_of([molecule("H2O")])
    before = model(data)["energy"]["energy"]
    averaged = torch.optim.swa_utils.AveragedModel(model)
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    assert not torch.allclose(model(data)["energy"]["energy"], before)
    assert torch.equal(averaged(data)["energy"]["energy"], before)
    assert torch.equal(copied(data)["energy"]["energy"], before)


@pytest.mark.parametrize("freeze", [False, True])
def test_training_reaches_the_borrowed_weights_unless_they_are_frozen(mace_file: Path, freeze: bool) -> None:
    with default_dtype(torch.float64):
        model = HydraModel(
            {"model": BACKBONE, "kind": "mace", "source": str(mace_file)},
            {"own": {"module": OWN_HEAD, "prefix": "omol"}},
            pass_through_head_outputs=True,
            freeze_backbone=freeze,
        )
    data = batch_of(list(organic_structures()))
    evaluated = model.eval()(data)
    learning = model.train()(data)
    if freeze:
        with pytest.raises(ConfigError, match="'omol_forces' cannot be trained with a frozen backbone"):
            learning["omol_forces"]["forces"]
        return
    for name in ("energy", "forces"):
        found, expected = learning[f"omol_{name}"][name], evaluated[f"omol_{name}"][name]
        torch.testing.assert_close(found.detach(), expected, rtol=1e-12, atol=1e-12)
        assert found.requires_grad
    (learning["omol_energy"]["energy"].sum() + (learning["omol_forces"]["forces"] ** 2).sum()).backward()
    # Data-parallel training, which fairchem always does, wants a gradient of every weight.
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_fairchems_own_head_takes_forces_from_the_features(mace_file: Path) -> None:
    torch.manual_seed(0)
    with default_dtype(torch.float64):
        model = HydraModel(
            {"model": BACKBONE, "kind": "mace", "source": str(mace_file), "regress_forces": True},
            {"efs": {"module": "fairchem.core.models.uma.escn_md.MLP_EFS_Head"}},
            pass_through_head_outputs=True,
        ).eval()
    atoms = organic_structures()[0]
    forces = model(batch_of([atoms]))["forces"]["forces"].detach()
    step = 1e-4
    for atom, axis in ((0, 0), (4, 2)):
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * step
            energies.append(model(batch_of([moved]))["energy"]["energy"].item())
        numerical = -(energies[0] - energies[1]) / (2 * step)
        assert numerical == pytest.approx(forces[atom, axis].item(), rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("kind", ["mace", "so3lr"])
def test_the_hessian_head_gets_what_it_gets_outside_fairchem(kind: str, mace_file: Path) -> None:
    config = {"scalars": 16, "channels": 8, "hidden": 16, "pair_channels": 8, "coordinates": 8}
    head = {"module": "hip_ext.plugins.fairchem.head.DirectHessianHead", "tasks": ["omol_direct_hessian"]}
    backbone = {"model": BACKBONE, "kind": kind, "source": str(mace_file) if kind == "mace" else None}
    with default_dtype(torch.float64):
        model = HydraModel(backbone, {"hessian": head | {"config": config}}, pass_through_head_outputs=True)
    model = model.to(torch.float64).eval()
    structures = list(organic_structures())
    found = model(batch_of(structures))["omol_direct_hessian"]["hessian"].detach()
    outside = HessianModel(model.backbone.adapter, model.output_heads["hessian"].head).hessian(structures)
    for matrix, expected in zip(found, outside.dense_list(), strict=True):
        size = len(expected)
        assert relative(matrix[:size, :size], expected) < 1e-12
        assert not bool(matrix[size:].any())


def test_the_own_energy_needs_a_borrowed_backbone() -> None:
    with pytest.raises(BackboneError, match="Identity has no energy of its own"):
        OwnEnergyHead(torch.nn.Identity())


def test_an_unknown_element_is_named(checkpoints: dict[tuple[str, str], Path]) -> None:
    through = FAIRChemCalculator(unit_of(checkpoints["mace", "float64"]), task_name="omol")
    with pytest.raises(BackboneError, match="does not know Cl; it knows H, C, N, O"):
        through.get_potential_energy(molecule("CH3Cl"))
