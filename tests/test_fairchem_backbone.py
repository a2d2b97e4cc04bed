"""fairchem's eSCN models with random weights: the conformance suite, and what is special about them."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import all_changes

pytest.importorskip("fairchem.core", reason="needs fairchem-core")

from fairchem_cases import dense, direct, experts, predict_unit, task, write_checkpoint
from handed import handed_molecule, mirrored

from hip_ext import attach_head, from_pretrained
from hip_ext.backbones import load_backbone
from hip_ext.backbones.fairchem import FairchemBackbone
from hip_ext.calculator import HessianCalculator
from hip_ext.errors import BackboneError, CheckpointError, StructureError
from hip_ext.head import HeadConfig
from hip_ext.structures import Structures
from hip_ext.testing import (
    BackboneCase,
    BackboneConformance,
    assert_close,
    assert_same_features,
    features_of,
    methanol_crystal,
    organic_structures,
)

MODELS = {"dense": dense, "experts": experts, "direct": direct}
ROUNDED = 1e-6
"""fairchem rounds experts to float32 when it merges them, relative to what they give."""

SMALL = HeadConfig(scalars=8, channels=4, hidden=8, pair_channels=2, coordinates=4, cutoff=3.0)


@pytest.fixture(scope="module", autouse=True)
def quiet():
    """Neither fairchem's log nor its warnings."""
    import logging

    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("fairchem")
    return {name: write_checkpoint(folder / f"{name}.pt", *make()) for name, make in MODELS.items()}


@pytest.fixture(scope="module")
def unit(checkpoints):
    """A dense unit in float64 that has predicted before."""
    return used(predict_unit(checkpoints["dense"]))


@pytest.fixture(scope="module")
def uma(checkpoints):
    """A unit with experts and the tasks omol and omat, which has predicted before."""
    return used(predict_unit(checkpoints["experts"]))


def used(unit: Any) -> Any:
    """The unit after its first prediction, which freezes the weights."""
    fairchem_calculator(unit, "omol").calculate(molecule("H2O"), ["energy"])
    return unit


def fairchem_calculator(unit: Any, task: str = "omol") -> Any:
    """fairchem's own calculator, which may be called as other calculators may."""
    from fairchem.core.calculate.ase_calculator import FAIRChemCalculator

    class Own(FAIRChemCalculator):
        def calculate(self, atoms, properties, system_changes=all_changes):
            super().calculate(atoms, properties, system_changes)

    return Own(unit, task_name=task)


def assert_one_line(error: pytest.ExceptionInfo[BaseException]) -> None:
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


# The conformance suite


@pytest.fixture(scope="module", params=["dense", "experts", "direct", "dense so3"])
def case(request, checkpoints) -> BackboneCase:
    name, _, parity = request.param.partition(" ")

    def attach(source: Any, **options: Any) -> FairchemBackbone:
        return load_backbone("fairchem", source, task="omol", parity=parity or "o3", **options)

    return BackboneCase(
        make_model=lambda: used(predict_unit(checkpoints[name])),
        attach=attach,
        own_calculator=fairchem_calculator,
        unknown_element="Og",
        module=lambda unit: unit.model.module,
        refused=frozenset() if name == "dense" else frozenset({"one atom"}),
        conservative=name != "direct",
        repeats=1e-12,
    )


class TestFairchem(BackboneConformance):
    pass


# Parity


def normalised(model: Any, atoms: Atoms) -> Any:
    model.head.fit_normalisation(features_of(model.backbone, atoms))
    return model


@pytest.mark.parametrize("parity", ["o3", "so3"])
@pytest.mark.parametrize("make", [handed_molecule, methanol_crystal])
def test_mirror_images_have_one_spectrum(unit, parity, make):
    model = normalised(attach_head(FairchemBackbone(unit, parity=parity), SMALL), make())
    spectra = [torch.linalg.eigvalsh(model.hessian(atoms).dense()) for atoms in (make(), mirrored(make()))]
    assert_close(*spectra, 1e-10)


@pytest.mark.parametrize("make", [handed_molecule, methanol_crystal])
def test_without_an_average_mirror_images_would_differ(unit, make):
    model = normalised(attach_head(FairchemBackbone(unit, parity="so3"), SMALL), make())
    spectra = []
    for atoms in (make(), mirrored(make())):
        structures = Structures.from_ase(atoms)
        with torch.no_grad():
            blocks = model.head(features_of(model.backbone, atoms), structures)
        spectra.append(torch.linalg.eigvalsh(blocks.dense()))
    assert (spectra[0] - spectra[1]).abs().max() > 1e-3 * spectra[0].abs().max()


def test_features_take_one_pass_of_both_copies(unit):
    counts = []
    hook = unit.model.module.backbone.register_forward_hook(lambda module, args, out: counts.append(len(args[0].pos)))
    try:
        for parity, atoms in (("o3", 18), ("so3", 9)):
            features_of(FairchemBackbone(unit, parity=parity), molecule("CH3CH2OH"))
            assert counts.pop() == atoms
            assert not counts
    finally:
        hook.remove()


@pytest.mark.parametrize("name", ["dense", "experts"])
@pytest.mark.parametrize(("parity", "passes"), [("o3", 2), ("so3", 1)])
def test_energy_and_forces_share_their_pass_with_the_features(checkpoints, name, parity, passes):
    """Only the inverted copies take one more pass."""
    unit = used(predict_unit(checkpoints[name]))
    backbone = FairchemBackbone(unit, task="omol", parity=parity)
    structures = Structures.from_ase([molecule("CH3CH2OH"), handed_molecule(), methanol_crystal()[:3]])
    expected = backbone.features(backbone.prepare(structures))
    counts = []
    hook = unit.model.module.backbone.register_forward_hook(
        lambda module, args, out: counts.append(len(args[0].natoms))
    )
    try:
        found = backbone.evaluate(structures, stress=True)
    finally:
        hook.remove()
    assert counts == [3] * passes
    assert found.features.parity == parity
    assert_same_features(found.features, expected)


@pytest.mark.parametrize("setting", ["tf32", "compile"])
def test_where_their_pass_would_not_do_the_features_take_their_own(checkpoints, setting):
    """Copies in different precision would not average to features with parity; compiled models do not heed hooks."""
    unit = used(predict_unit(checkpoints["dense"]))
    setattr(unit.inference_settings, setting, True)  # after the first prediction it compiles nothing any more
    backbone = FairchemBackbone(unit)
    counts = []
    hook = unit.model.module.backbone.register_forward_hook(lambda module, args, out: counts.append(len(args[0].pos)))
    try:
        backbone.evaluate(Structures.from_ase(handed_molecule()))
    finally:
        hook.remove()
    assert counts == [len(handed_molecule()), 2 * len(handed_molecule())]


@pytest.mark.parametrize("version", [1, 2, 3])
def test_every_neighbour_list_of_fairchem_sees_the_inverted_copy(checkpoints, unit, version):
    backbone = FairchemBackbone(predict_unit(checkpoints["dense"], internal_graph_gen_version=version))
    for atoms in organic_structures():  # one by one, since version 1 takes molecules or crystals
        assert_same_features(features_of(backbone, atoms), features_of(FairchemBackbone(unit), atoms))


def test_euler_angles_give_features_and_forces_but_no_exact_hessian(checkpoints, unit):
    euler = FairchemBackbone(predict_unit(checkpoints["dense"], use_quaternion_wigner=False))
    plain, atoms = FairchemBackbone(unit), handed_molecule()
    assert_same_features(features_of(euler, atoms), features_of(plain, atoms))
    found, expected = (b.evaluate(Structures.from_ase(atoms)) for b in (euler, plain))
    assert_close(found.forces, expected.forces)
    with torch.no_grad():
        assert_close(euler.energy(euler.prepare(Structures.from_ase(atoms))), expected.energy)
    with pytest.raises(BackboneError, match="Euler angles are wrong: load the model with use_quaternion") as error:
        HessianCalculator(attach_head(euler, SMALL)).get_hessian(atoms, "autograd")
    assert_one_line(error)


# fairchem's own numbers


@pytest.mark.parametrize("which", [0, 2], ids=["molecule", "crystal"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_numbers_are_those_of_fairchem_to_the_last_bit(checkpoints, which, dtype):
    """With the same roll angles, which fairchem draws anew at each call."""
    atoms = organic_structures()[which]
    own = fairchem_calculator(used(predict_unit(checkpoints["experts"], base_precision_dtype=dtype)))
    torch.manual_seed(0)
    own.calculate(atoms, ["energy", "forces", "stress"])
    backbone = load_backbone("fairchem", checkpoints["experts"], task="omol", dtype=dtype)
    calculator = HessianCalculator(attach_head(backbone, SMALL))
    calculator.calculate(atoms, ["energy", "forces", "stress"])
    found = backbone.evaluate(Structures.from_ase(atoms), stress=True)
    assert calculator.results["energy"] == own.results["energy"] == float(found.energy)
    for forces in (calculator.results["forces"], found.forces.numpy()):
        np.testing.assert_array_equal(forces, own.results["forces"])
    np.testing.assert_array_equal(calculator.results["stress"], own.results["stress"])


def test_results_repeat_to_the_last_bit_and_leave_random_numbers_alone(checkpoints):
    structures = Structures.from_ase(list(organic_structures()))
    torch.manual_seed(7)
    before = torch.get_rng_state()
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    backbone = load_backbone("fairchem", checkpoints["dense"])  # has not predicted yet
    first = backbone.features(backbone.prepare(structures))
    energy = backbone.energy(backbone.prepare(structures))
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    torch.manual_seed(8)
    assert_same_features(backbone.features(backbone.prepare(structures)), first, 0.0)
    assert torch.equal(backbone.energy(backbone.prepare(structures)), energy)


def test_forces_and_stress_are_switched_off_for_a_call_only(unit):
    backbone = FairchemBackbone(unit)
    inputs = backbone.prepare(Structures.from_ase(molecule("CH3OH")))
    config = unit.model.module.backbone.regress_config
    before = dict(vars(config))
    assert before["forces"]
    seen = []
    hook = unit.model.module.backbone.register_forward_pre_hook(lambda *_: seen.append((config.forces, config.stress)))
    try:
        with torch.no_grad():
            assert not backbone.features(inputs).scalars.requires_grad
        backbone.energy(inputs)
    finally:
        hook.remove()
    assert seen == [(False, False)] * 2
    assert vars(config) == before
    del inputs["charge"]
    with pytest.raises(KeyError):
        backbone.features(inputs)
    assert vars(config) == before
    assert not inputs["positions"].requires_grad


def test_direct_forces_are_not_the_gradient_but_the_energy_has_a_hessian(checkpoints):
    model = attach_head("fairchem", SMALL, source=checkpoints["direct"], dtype=torch.float64)
    structures = Structures.from_ase(handed_molecule())
    inputs = model.backbone.prepare(structures)
    (gradient,) = torch.autograd.grad(
        model.backbone.energy(inputs | {"positions": inputs["positions"].requires_grad_(True)}).sum(),
        inputs["positions"],
    )
    found = model.backbone.evaluate(structures)
    assert (found.forces + gradient).abs().max() > 0.1 * found.forces.abs().max()
    with pytest.raises(BackboneError, match="the task 'omol' of this fairchem model has no stress") as error:
        model.backbone.evaluate(structures, stress=True)
    assert_one_line(error)
    exact = HessianCalculator(model).get_hessian(handed_molecule(), "autograd")
    step, row = 1e-4, 4
    plus, minus = (gradient_at(model.backbone, structures, row, sign * step) for sign in (1, -1))
    assert_close(exact[row], (plus - minus) / (2 * step), 1e-6)


def gradient_at(backbone: FairchemBackbone, structures: Structures, coordinate: int, step: float) -> torch.Tensor:
    moved = structures.positions.clone()
    moved.view(-1)[coordinate] += step
    inputs = backbone.prepare(structures.with_positions(moved))
    positions = inputs["positions"].requires_grad_(True)
    return torch.autograd.grad(backbone.energy(inputs).sum(), positions)[0].flatten()


def test_three_hessians_of_one_calculator(unit):
    model = attach_head(FairchemBackbone(unit), SMALL)
    atoms = molecule("H2O")
    atoms.rattle(0.05, seed=0)
    atoms.calc = HessianCalculator(model)
    hessians = {method: atoms.calc.get_hessian(atoms, method) for method in ("direct", "autograd", "finite_difference")}
    assert all(matrix.shape == (9, 9) and matrix.dtype == np.float64 for matrix in hessians.values())
    assert_close(hessians["finite_difference"], hessians["autograd"], 1e-3)  # of a step of 0.005 Å
    assert not np.allclose(hessians["direct"], hessians["autograd"], atol=1e-3)

    from hip_ext.reference import finite_difference_hessian

    calculator = model.backbone.calculator()

    def forces(positions: np.ndarray) -> np.ndarray:
        moved = atoms.copy()
        moved.positions = positions
        calculator.calculate(moved, ["forces"])
        return calculator.results["forces"]

    pairs = [finite_difference_hessian(forces, atoms, step).hessian for step in (2e-3, 1e-3)]
    assert_close((4 * pairs[1] - pairs[0]) / 3, hessians["autograd"], 1e-6)  # without the error of second order


def test_slabs_and_crystals(unit):
    slab = bulk("Cu", cubic=True)
    slab.rattle(0.05, seed=0)
    slab.pbc = [True, True, False]
    bare = slab.copy()
    bare.cell[2] = 0
    backbone = FairchemBackbone(unit)
    full, without = (backbone.evaluate(Structures.from_ase(atoms)) for atoms in (slab, bare))
    assert_close(without.energy, full.energy)
    assert_close(without.forces, full.forces)
    bare.calc = backbone.calculator()
    assert bare.get_potential_energy() == pytest.approx(float(full.energy), rel=1e-12)
    model = normalised(attach_head(backbone, SMALL), slab)
    assert_close(model.hessian(bare).dense(), model.hessian(slab).dense())


# Charge, spin, task


def test_charge_and_multiplicity_reach_the_model(uma):
    atoms = molecule("OH")
    plain = {}
    for charge, spin in ((0, 2), (0, 4), (-1, 1), (1, 3)):
        for name, info in (("own", {"charge": charge, "spin": spin}), ("multiplicity", {"multiplicity": float(spin)})):
            stated = atoms.copy()
            stated.info = info | {"charge": charge}
            own = fairchem_calculator(uma)
            reference = stated.copy()
            reference.info = {"charge": charge, "spin": spin}
            own.calculate(reference, ["energy"])
            backbone = FairchemBackbone(uma, task="omol")
            energy = float(backbone.evaluate(Structures.from_ase(stated)).energy)
            assert energy == pytest.approx(own.results["energy"], rel=1e-12)
            stated.calc = HessianCalculator(attach_head(backbone, SMALL))
            assert stated.get_potential_energy() == pytest.approx(own.results["energy"], rel=1e-12)
            plain[charge, spin, name] = energy
    assert len({round(energy, 9) for energy in plain.values()}) == 4


@pytest.mark.parametrize("name", ["omol", "omat"])
def test_a_task_has_its_own_numbers(uma, name):
    atoms = methanol_crystal()
    own = fairchem_calculator(uma, name)
    own.calculate(atoms.copy(), ["energy", "forces"])
    backbone = FairchemBackbone(uma, task=name)
    found = backbone.evaluate(Structures.from_ase(atoms))
    assert float(found.energy) == pytest.approx(own.results["energy"], rel=1e-12)
    assert_close(found.forces, own.results["forces"])
    with torch.no_grad():
        assert_close(backbone.energy(backbone.prepare(Structures.from_ase(atoms))), found.energy, 1e-12)
    other = features_of(FairchemBackbone(uma, task="omat" if name == "omol" else "omol"), atoms)
    assert (features_of(backbone, atoms).scalars - other.scalars).abs().max() > 1e-6
    atoms.calc = backbone.calculator()
    assert atoms.get_potential_energy() == pytest.approx(own.results["energy"], rel=1e-12)
    assert atoms.info == {}, "nothing is written into the user's structure"
    results = atoms.calc.results
    atoms.get_forces()
    assert atoms.calc.results is results, "nothing is computed twice"


def test_a_calculator_brings_its_task(uma):
    assert load_backbone("fairchem", fairchem_calculator(uma, "omat")).task == "omat"
    assert load_backbone("fairchem", fairchem_calculator(uma, "omat"), task="omol").task == "omol"


def test_wrong_tasks(uma, checkpoints, tmp_path):
    with pytest.raises(BackboneError, match=r"has the tasks omat, omol: name one, as in task='omat'") as error:
        FairchemBackbone(uma)
    assert_one_line(error)
    with pytest.raises(BackboneError, match=r"has no task 'omo'; did you mean 'omol'\?; it has omat, omol") as error:
        load_backbone("fairchem", uma, task="omo")
    assert_one_line(error)
    model, _ = dense(dataset_mapping={"omol": "omol", "omat": "omat"})
    path = write_checkpoint(tmp_path / "mixed.pt", model, [task("energy"), task("forces", "omat")])
    assert load_backbone("fairchem", path).task == "omol"
    with pytest.raises(BackboneError, match=r"has no energy in its task 'omat'.*; it has omol"):
        load_backbone("fairchem", path, task="omat")
    path = write_checkpoint(tmp_path / "forces.pt", dense()[0], [task("forces")])
    with pytest.raises(BackboneError, match=r"has no energy task: it has omol \(forces\)") as error:
        load_backbone("fairchem", path)
    assert_one_line(error)


def test_an_element_without_a_reference_energy_is_unknown(tmp_path):
    model, (energy, forces) = dense()
    energy["element_references"]["element_references"]["_args_"] = [[0.0] * 9]
    path = write_checkpoint(tmp_path / "light.pt", model, [energy, forces])
    backbone = load_backbone("fairchem", path)
    assert backbone.elements == frozenset(range(1, 9))
    with pytest.raises(BackboneError, match="does not know F; it knows H, He, Li, Be, B, C, N, O") as error:
        backbone.prepare(Structures.from_ase(molecule("HF")))
    assert_one_line(error)


@pytest.mark.parametrize("info", [{"charge": -101}, {"charge": 200}, {"charge": 1, "spin": 102}])
def test_electrons_out_of_range(unit, info):
    atoms = bulk("Ag", cubic=True).repeat((2, 2, 1))
    atoms.info = info
    with pytest.raises(BackboneError, match=r"charges from -100 to 100 and multiplicities up to 100, found") as error:
        FairchemBackbone(unit).prepare(Structures.from_ase(atoms))
    assert_one_line(error)


def test_atoms_on_one_spot_are_refused(unit):
    atoms = Atoms("CHH", positions=[[0, 0, 0], [0, 0, 1.1], [0, 0, 1.1]])
    with pytest.raises(StructureError, match="two atoms on one spot"):
        FairchemBackbone(unit).prepare(Structures.from_ase(atoms))


# Merged experts, copies, files


def test_merged_experts(checkpoints, uma):
    """The model is replaced at the first prediction, and again for another composition."""
    unit = predict_unit(checkpoints["experts"], merge_mole=True)
    plain = FairchemBackbone(uma, task="omol")
    early = FairchemBackbone(unit, task="omol")  # before the merge
    assert early.source == plain.source
    water, alcohol = molecule("H2O"), handed_molecule()
    networks = []
    for atoms, relative in ((water, ROUNDED), (water, ROUNDED), (alcohol, 1e-10), (water, 1e-10)):
        assert_same_features(features_of(early, atoms), features_of(plain, atoms), relative)
        found, expected = (b.evaluate(Structures.from_ase(atoms)) for b in (early, plain))
        assert_close(found.energy, expected.energy, relative)
        assert_close(found.forces, expected.forces, 10 * relative)
        with torch.no_grad():
            assert_close(early.energy(early.prepare(Structures.from_ase(atoms))), found.energy, 1e-12)
        assert early.model is unit.model.module
        networks.append(unit.model.module.backbone)
    assert networks[0] is networks[1]
    assert networks[1] is not networks[2], "fairchem has loaded the model again for another composition"

    merged = used(predict_unit(checkpoints["experts"], merge_mole=True))
    late = FairchemBackbone(merged, task="omol")  # after the merge
    assert late.source.fingerprint == plain.source.fingerprint
    assert_same_features(features_of(late, water), features_of(plain, water), ROUNDED)
    many = [water, alcohol, methanol_crystal()]
    assert_same_features(features_of(late, many), features_of(plain, many))


def test_a_merged_model_and_a_lone_atom(checkpoints):
    backbone = FairchemBackbone(used(predict_unit(checkpoints["experts"], merge_mole=True)), task="omol")
    with pytest.raises(BackboneError, match=r"Single atom system.*load it with inference_settings='batch'") as error:
        features_of(backbone, Atoms("C"))
    assert_one_line(error)


def test_a_lone_atom_has_no_hessian_wherever_it_is(checkpoints):
    model = attach_head("fairchem", SMALL, source=checkpoints["direct"], dtype=torch.float64)
    assert not model.hessian(Atoms("C")).dense().any()
    with_others = model.hessian([Atoms("C"), molecule("H2O")]).dense_list()
    assert not with_others[0].any()
    assert_close(with_others[1], model.hessian(molecule("H2O")).dense())
    with pytest.raises(BackboneError, match="fairchem cannot evaluate this: Single atom system") as error:
        model.backbone.evaluate(Structures.from_ase(Atoms("C")))
    assert_one_line(error)
    atoms = Atoms("C", calculator=HessianCalculator(model))
    with pytest.raises(BackboneError, match="fairchem cannot evaluate this: Single atom system"):
        atoms.get_potential_energy()


def test_a_model_that_was_saved_and_loaded_by_torch(unit, tmp_path):
    torch.save(unit.model.module, tmp_path / "model.pt")
    again = copy.deepcopy(unit)
    again.model.module = torch.load(tmp_path / "model.pt", weights_only=False)
    atoms = organic_structures()[0]
    expected = features_of(FairchemBackbone(unit), atoms)
    backbone = FairchemBackbone(again)
    assert_same_features(features_of(backbone, atoms), expected, 1e-12)
    with torch.no_grad():
        for parameter in again.model.module.backbone.parameters():
            parameter.mul_(1.1)  # as an average over training steps does
    assert (features_of(backbone, atoms).vectors - expected.vectors).abs().max() > 1e-3
    assert_same_features(features_of(FairchemBackbone(unit), atoms), expected, 0.0)


@pytest.mark.parametrize("name", list(MODELS))
def test_checkpoint_of_a_head(checkpoints, tmp_path, name):
    model = attach_head("fairchem", SMALL, source=checkpoints[name], task="omol", dtype=torch.float64)
    model.save_pretrained(tmp_path / "head")
    atoms = organic_structures()[0]
    expected = model.hessian(atoms).dense()
    with pytest.raises(CheckpointError, match=r"not a released model.*or trust_source=True") as error:
        from_pretrained(tmp_path / "head")
    assert_one_line(error)
    again = from_pretrained(tmp_path / "head", trust_source=True)
    assert again.dtype == torch.float64
    assert_close(again.hessian(atoms).dense(), expected, 1e-12)
    backbone = load_backbone("fairchem", predict_unit(checkpoints[name]), task="omol")
    assert_close(from_pretrained(tmp_path / "head", backbone=backbone).hessian(atoms).dense(), expected, 1e-12)
    other = write_checkpoint(tmp_path / "other.pt", *MODELS[name](), seed=1)
    with pytest.raises(CheckpointError, match="was made for fairchem"):
        from_pretrained(tmp_path / "head", backbone=load_backbone("fairchem", other, task="omol"))
    raw = load_backbone("fairchem", checkpoints[name], task="omol", parity="so3")
    with pytest.raises(CheckpointError, match=r"was made with .*'parity': 'o3'"):
        from_pretrained(tmp_path / "head", backbone=raw)


def test_a_file_is_loaded_in_single_precision_unless_asked(checkpoints):
    atoms = organic_structures()[2]
    single, double = (load_backbone("fairchem", checkpoints["dense"], dtype=dtype) for dtype in (None, torch.float64))
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    assert single.source == double.source
    assert_same_features(features_of(single, atoms).to(torch.float64), features_of(double, atoms), 1e-5)
    assert load_backbone("fairchem", single.unit).unit is single.unit
    assert load_backbone("fairchem", single.unit, dtype=torch.float64).unit is not single.unit
    assert single.dtype == torch.float32


# Bad input


def test_sources_that_are_none(checkpoints, tmp_path, unit):
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes(checkpoints["dense"].read_bytes()[:5000])
    training = tmp_path / "training.pt"
    torch.save({"state_dict": {}}, training)
    for source, message in (
        (tmp_path / "missing.pt", "there is no fairchem checkpoint at .*missing.pt.*'uma-s-1p2'"),
        ("uma-s-1p22", r"no released model of that name; did you mean 'uma-s-1p2"),
        (damaged, "damaged.pt' cannot be read as a fairchem checkpoint"),
        (training, "holds a dict, not an inference checkpoint: give the inference_ckpt.pt"),
        (torch.nn.Linear(1, 1), "cannot be made from Linear: give an MLIPPredictUnit, a FAIRChemCalculator"),
        (None, "cannot be made without a source: give"),
    ):
        with pytest.raises(BackboneError, match=message) as error:
            load_backbone("fairchem", source)
        assert_one_line(error)
    with pytest.raises(BackboneError, match=r"not in torch\.float16"):
        load_backbone("fairchem", unit, dtype=torch.float16)
    with pytest.raises(BackboneError, match="parity is 'O3', expected 'o3' or 'so3'"):
        load_backbone("fairchem", unit, parity="O3")
    with pytest.raises(BackboneError, match="has no option 'tsk'; did you mean 'task'"):
        load_backbone("fairchem", unit, tsk="omol")


def test_gated_models_say_how_to_get_access(monkeypatch, tmp_path):
    import huggingface_hub.constants

    pretrained = pytest.importorskip("fairchem.core.calculate.pretrained_mlip")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(pretrained, "CACHE_DIR", str(tmp_path))
    with pytest.raises(BackboneError, match="uma-s-1p2 could not be fetched") as error:
        load_backbone("fairchem", "uma-s-1p2")
    assert_one_line(error)
    assert "(1) ask for access at https://huggingface.co/facebook/UMA" in str(error.value)
    assert "(2) run 'hf auth login' or set HF_TOKEN" in str(error.value)


@pytest.mark.parametrize(
    "network", ["escaip.EScAIP.EScAIPBackbone", "allscaip.AllScAIP.AllScAIPBackbone"], ids=["EScAIP", "AllScAIP"]
)
def test_models_without_equivariant_features_are_refused(tmp_path, network):
    from fairchem.core.units.mlip_unit.api.inference import MLIPInferenceCheckpoint

    config = {"backbone": {"model": f"fairchem.core.models.{network}"}}
    torch.save(MLIPInferenceCheckpoint(config, {}, {}, []), tmp_path / "model.pt")
    name = network.rpartition(".")[2]
    with pytest.raises(BackboneError, match=rf"eSCN models \(UMA, eSEN\), found {name}: .*turn with the") as error:
        load_backbone("fairchem", tmp_path / "model.pt")
    assert_one_line(error)


def test_models_of_another_package_are_refused(tmp_path):
    from fairchem.core.units.mlip_unit.api.inference import MLIPInferenceCheckpoint

    config = {"backbone": {"model": "a_package_that_is_not_there.Network"}}
    torch.save(MLIPInferenceCheckpoint(config, {}, {}, []), tmp_path / "model.pt")
    with pytest.raises(BackboneError, match="names no known backbone: ") as error:
        load_backbone("fairchem", tmp_path / "model.pt")
    assert_one_line(error)


def test_features_without_tensors_are_refused(tmp_path):
    path = write_checkpoint(tmp_path / "vectors.pt", *dense(lmax=1, mmax=1))
    with pytest.raises(BackboneError, match=r"up to l = 2, this eSCN model has lmax = 1") as error:
        load_backbone("fairchem", path)
    assert_one_line(error)


def test_nitro_is_refused(checkpoints):
    """Its module needs a GPU; what it is recognised by does not."""
    unit = predict_unit(checkpoints["experts"])
    unit.inference_settings.nitro = True
    with pytest.raises(BackboneError, match="Nitro shows no node features: load the model with") as error:
        FairchemBackbone(unit, task="omol")
    assert_one_line(error)


def test_structures_of_many_sizes_in_one_call(uma):
    model = attach_head(FairchemBackbone(uma, task="omol"), SMALL)
    many = [molecule(name) for name in ("H2O", "CH4", "CH3CH2OH", "C6H6")] + [methanol_crystal()]
    for found, atoms in zip(model.hessian(many).dense_list(), many, strict=True):
        assert found.shape == (3 * len(atoms), 3 * len(atoms))
        assert_close(found, model.hessian(atoms).dense())
