"""A backbone with a head: batches, precision, and all the ways in which people name a backbone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from backbone_cases import CASES, default_dtype, mace_calculator, methanol_crystal, random_mace
from toy_backbone import ToyBackbone, ToyModel

from hip_ext import HeadConfig, HessianHead, HessianModel, attach_head
from hip_ext.errors import BackboneError, CheckpointError, HipExtError, StructureError
from hip_ext.structures import Structures

SMALL = HeadConfig(scalars=8, channels=4, hidden=8, pair_channels=2, coordinates=4, cutoff=3.0)


def one_line(error: pytest.ExceptionInfo[HipExtError]) -> str:
    text = str(error.value)
    assert text and "\n" not in text
    return text


def some_atoms() -> list[Atoms]:
    water, nitromethane = molecule("H2O"), molecule("CH3NO2")
    for seed, atoms in enumerate((water, nitromethane)):
        atoms.rattle(0.05, seed=seed)
    return [water, methanol_crystal(), Atoms("O", positions=[(1.0, 2.0, 3.0)]), nitromethane]


def same_weights(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture(scope="module", params=["toy", "so3lr", "mace", "mace_spice"])
def model(request) -> HessianModel:
    name = request.param
    backbone = ToyBackbone() if name == "toy" else CASES[name].attach(CASES[name].make_model())
    return attach_head(backbone, SMALL)


def assert_close(found: torch.Tensor, expected: torch.Tensor, relative: float = 1e-12) -> None:
    scale = float(expected.abs().max()) if expected.numel() else 1.0
    torch.testing.assert_close(found, expected, rtol=0, atol=relative * max(scale, 1e-3))


# Predictions


def test_a_batch_gives_what_its_structures_give(model):
    many = some_atoms()
    batch = model.energy_forces_hessian(many)
    parts = batch.forces.split([len(atoms) for atoms in many])
    matrices = batch.hessian.dense_list()
    assert batch.stress is None
    for b, atoms in enumerate(many):
        alone = model.energy_forces_hessian(atoms)
        assert_close(batch.energy[b : b + 1], alone.energy)
        assert_close(parts[b], alone.forces)
        assert matrices[b].shape == (3 * len(atoms), 3 * len(atoms))
        assert_close(matrices[b], alone.hessian.dense())
        assert_close(alone.hessian.dense(), model.hessian(atoms).dense())


def test_the_order_of_the_structures_makes_no_difference(model):
    many = some_atoms()
    forward, backward = model.hessian(many).dense_list(), model.hessian(many[::-1]).dense_list()
    for a, b in zip(forward, backward[::-1], strict=True):
        assert_close(a, b)


def test_energy_and_forces_are_those_of_the_frameworks_calculator(model):
    crystal = methanol_crystal()
    found = model.energy_forces_hessian(crystal, stress=True)
    own = model.backbone.calculator()
    own.calculate(crystal, ["energy", "forces", "stress"])
    assert float(found.energy) == pytest.approx(own.results["energy"], rel=1e-12)
    scale = np.abs(own.results["forces"]).max()
    np.testing.assert_allclose(found.forces, own.results["forces"], rtol=0, atol=1e-11 * scale)
    stress = found.stress[0].numpy()[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    np.testing.assert_allclose(stress, own.results["stress"], rtol=0, atol=1e-10 * np.abs(stress).max())


def test_forces_are_the_gradient_of_the_energy(model):
    atoms = molecule("H2O")
    atoms.rattle(0.05, seed=1)
    forces, step = model.energy_forces_hessian(atoms).forces, 1e-3
    for i, x in [(0, 2), (1, 1), (2, 0)]:
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[i, x] += sign * step
            energies.append(float(model.energy_forces_hessian(moved).energy))
        assert (energies[1] - energies[0]) / (2 * step) == pytest.approx(float(forces[i, x]), abs=2e-5)


def test_structures_are_taken_as_they_are(model):
    atoms = some_atoms()[0]
    given = Structures.from_ase(atoms, dtype=torch.float32)
    assert model.structures(given).positions.dtype == torch.float64
    exact = Structures.from_ase(atoms)
    assert torch.equal(model.hessian(exact).dense(), model.hessian(atoms).dense())


def test_nothing_is_differentiable_and_the_backbone_is_left_alone(model):
    flags = [p.requires_grad for p in model.backbone.model.parameters()]
    found = model.energy_forces_hessian(some_atoms()[0])
    for tensor in (found.energy, found.forces, found.hessian.pair, found.hessian.diagonal):
        assert not tensor.requires_grad
    assert [p.requires_grad for p in model.backbone.model.parameters()] == flags
    assert all(p.grad is None for p in model.parameters())


def test_float32_agrees_with_float64():
    exact = attach_head(ToyBackbone(), SMALL)
    single = attach_head(ToyBackbone(ToyModel().float()), SMALL)
    assert (single.dtype, exact.dtype) == (torch.float32, torch.float64)
    atoms = some_atoms()[3]
    found = single.hessian(atoms).dense()
    assert found.dtype == torch.float32
    assert_close(found.double(), exact.hessian(atoms).dense(), 1e-4)


def test_bad_structures_are_refused(model):
    overlapping = molecule("H2O")
    overlapping.positions[1] = overlapping.positions[2]
    for ask in (model.hessian, model.energy_forces_hessian):
        for bad, kind in [(Atoms(), StructureError), (overlapping, StructureError), (Atoms("Xe"), BackboneError)]:
            with pytest.raises(kind) as error:
                ask(bad)
            one_line(error)
        with pytest.raises(StructureError, match="structure 1 is empty"):
            ask([molecule("H2O"), Atoms()])
        with pytest.raises(StructureError, match="no structure given"):
            ask([])


# Attaching


def test_attach_by_name():
    pytest.importorskip("so3krates_torch", reason="needs so3krates-torch")
    model = attach_head("so3lr", SMALL)
    assert (model.backbone.source.kind, model.backbone.source.name, model.dtype) == ("so3lr", "so3lr", torch.float32)
    assert model.head.widths == tuple(model.backbone.widths)
    assert attach_head("so3lr", SMALL, dtype=torch.float64).hessian(molecule("H2O")).dense().dtype == torch.float64
    assert attach_head("so3lr", SMALL, long_range_cutoff=6.0).backbone.source.options["long_range_cutoff"] == 6.0


def test_attach_to_a_mace_module_calculator_or_file(tmp_path):
    module = random_mace()
    torch.save(module, tmp_path / "mine.model")
    atoms = molecule("CH3OH")
    sources = {"in-memory": module, "calculator": mace_calculator(module), "file": tmp_path / "mine.model"}
    models = {name: attach_head("mace", SMALL, source=source) for name, source in sources.items()}
    models["backbone"] = attach_head(models["in-memory"].backbone, SMALL)
    names = {name: model.backbone.source.name for name, model in models.items()}
    assert names == {
        "in-memory": "in-memory",
        "calculator": "calculator",
        "file": str(tmp_path / "mine.model"),
        "backbone": "in-memory",
    }
    expected = models["in-memory"].hessian(atoms).dense()
    for model in models.values():
        assert model.backbone.source.fingerprint == models["in-memory"].backbone.source.fingerprint
        assert_close(model.hessian(atoms).dense(), expected)


def test_the_seed_decides_and_nothing_else_does():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = attach_head(ToyBackbone(), SMALL)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    with default_dtype(torch.float64):
        second = attach_head(ToyBackbone(), SMALL)
        assert torch.get_default_dtype() == torch.float64
    assert same_weights(first.head, second.head)
    atoms = molecule("H2O")
    assert torch.equal(first.hessian(atoms).dense(), second.hessian(atoms).dense())
    assert not same_weights(first.head, attach_head(ToyBackbone(), SMALL, seed=1).head)


def test_what_cannot_be_attached():
    pytest.importorskip("so3krates_torch", reason="needs so3krates-torch")
    cases = [
        (lambda: attach_head("so3l"), "did you mean 'so3lr'?"),
        (lambda: attach_head("so3lr", long_range_cutof=6.0), "did you mean 'long_range_cutoff'?"),
        (lambda: attach_head(ToyModel()), "found ToyModel: give a model as attach_head('mace', source=model)"),
        (lambda: attach_head(None), "found NoneType"),
        (lambda: attach_head(ToyBackbone(), dtype=torch.float32), "loaded already"),
        (lambda: attach_head(ToyBackbone(), source="other.model"), "loaded already"),
        (lambda: attach_head(ToyBackbone(), head="pbe"), "loaded already"),
        (lambda: attach_head("so3lr", dtype=torch.float16), "torch.float32 or torch.float64"),
        (lambda: attach_head("so3lr", source="not/there.model"), "no SO3LR model file"),
    ]
    for attach, message in cases:
        with pytest.raises(BackboneError) as error:
            attach()
        assert message in one_line(error)


def test_a_head_of_other_widths_is_refused():
    backbone = ToyBackbone()
    with pytest.raises(
        CheckpointError, match=r"expects \(3, 2, 1\) features, the backbone gives \(12, 6, 6\)"
    ) as error:
        HessianModel(backbone, HessianHead((3, 2, 1), SMALL))
    one_line(error)
