"""The Hessian head inside fairchem: shapes, symmetry, names, and whose backbone it works on."""

import copy
import functools
import io
import logging

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

pytest.importorskip("fairchem.core", reason="needs fairchem-core")

import fairchem_cases as cases
from fairchem.core import FAIRChemCalculator
from fairchem.core.common.registry import registry
from fairchem.core.datasets.atomic_data import AtomicData, atomicdata_list_to_batch
from fairchem.core.units.mlip_unit import InferenceSettings, load_predict_unit
from fairchem.core.units.mlip_unit.utils import load_inference_model

from hip_ext import attach_head
from hip_ext.backbones.fairchem import FairchemBackbone
from hip_ext.errors import BackboneError, ConfigError, DataError, StructureError
from hip_ext.head import HeadConfig, HessianHead
from hip_ext.plugins.fairchem import (
    DirectHessianCalculator,
    DirectHessianHead,
    HessianHydraModel,
    add_hessian_head,
    attach,
    hessian_model,
    unpadded,
)
from hip_ext.plugins.fairchem.embedding import structures_of
from hip_ext.structures import Structures

SMALL = {"scalars": 12, "channels": 4, "hidden": 12, "pair_channels": 4, "coordinates": 6, "cutoff": 3.0}
HEAD = {"module": "hip_ext.plugins.fairchem.head.DirectHessianHead", "tasks": ["omol_direct_hessian"], "config": SMALL}
MERGEABLE = cases.experts(regress_stress=True)  # without, fairchem's own stress fails after merging
TARGET = "hip_ext.plugins.fairchem.model.HessianHydraModel"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fairchem")


@pytest.fixture(scope="module")
def dense(folder):
    return cases.write_checkpoint(folder / "dense.pt", *cases.dense())


@pytest.fixture(scope="module")
def experts(folder):
    return cases.write_checkpoint(folder / "experts.pt", *MERGEABLE)


def with_head(case, target=TARGET, datasets=("omol",)):
    """A model and tasks with a Hessian head of its own, as a training run leaves them."""
    model, tasks = case
    names = [f"{dataset}_direct_hessian" for dataset in datasets]
    model = copy.deepcopy(model)
    model["heads"]["hessian"] = HEAD | {"tasks": names}
    for name, dataset in zip(names, datasets, strict=True):
        hessian = cases.task("hessian", dataset)
        hessian["normalizer"]["rmsd"] = 1.0
        tasks = [*tasks, hessian | {"name": name}]
    return ({"_target_": target} if target else {}) | model, tasks


@pytest.fixture(scope="module")
def trained(folder):
    return cases.write_checkpoint(folder / "trained.pt", *with_head(cases.dense()))


@pytest.fixture(scope="module")
def trained_experts(folder):
    return cases.write_checkpoint(folder / "trained_experts.pt", *with_head(MERGEABLE, datasets=("omol", "omat")))


def small_head(channels=8, seed=1):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return HessianHead((channels,) * 3, HeadConfig(**SMALL))


def chiral():
    """CHFClBr with its hydrogen pushed aside: no mirror plane, no rotation axis."""
    positions = [[0, 0, 0], [0.3, 0.2, 1.07], [1.35, 0.1, -0.4], [-0.8, 1.5, -0.5], [-0.9, -1.6, -0.6]]
    return Atoms("CHFClBr", positions=positions, info={"charge": 0, "spin": 1})


def named(name):
    atoms = molecule(name)
    atoms.info.update(charge=0, spin=1)
    return atoms


def batch(structures, dataset="omol", dtype=torch.float64):
    data = [
        AtomicData.from_ase(a, task_name=dataset, r_data_keys=["charge", "spin"], target_dtype=dtype)
        for a in structures
    ]
    return atomicdata_list_to_batch(data)


def unit_with_head(path, **settings):
    unit = cases.predict_unit(path, **settings)
    attach(unit, small_head())
    return unit


def predicted(unit, structures, prop="hessian"):
    return unpadded(unit.predict(batch(structures))[prop], [len(a) for a in structures])


def close(a, b, tolerance=1e-10):
    scale = max(float(b.abs().max()), 1e-3)
    return float((a - b).abs().max()) <= tolerance * scale


def test_registered_under_a_short_name_and_by_its_path():
    assert registry.get_model_class("hip_direct_hessian") is DirectHessianHead
    assert registry.get_model_class(HEAD["module"]) is DirectHessianHead
    assert registry.get_model_class(TARGET) is HessianHydraModel


def test_each_matrix_of_a_mixed_batch_is_that_of_the_structure_alone(dense):
    unit = unit_with_head(dense)
    structures = [named("H2O"), named("CH3CH2OH"), chiral()]
    together = predicted(unit, structures)
    for atoms, matrix in zip(structures, together, strict=True):
        (alone,) = predicted(unit, [atoms])
        assert alone.shape == (3 * len(atoms),) * 2
        assert float(alone.abs().max()) > 1e-3
        assert close(matrix, alone)
        assert close(alone, alone.T, 1e-14)
        rows = alone.view(-1, len(atoms), 3).sum(1)
        assert float(rows.abs().max()) < 1e-12 * float(alone.abs().max())


def test_prediction_is_padded_with_zeros_and_wrong_sizes_are_refused(dense):
    unit = unit_with_head(dense)
    prediction = unit.predict(batch([named("H2O"), chiral()]))["hessian"]
    assert prediction.shape == (2, 15, 15)
    assert not prediction[0, 9:].any() and not prediction[0, :, 9:].any()
    with pytest.raises(DataError, match="found"):
        unpadded(prediction, [3, 4])


@pytest.mark.parametrize("merged", [False, True])
def test_rotations_turn_and_inversion_keeps_the_hessian(experts, merged):
    unit = unit_with_head(experts, merge_mole=merged)
    atoms = chiral()
    (plain,) = predicted(unit, [atoms])
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3)))[0]
    if torch.linalg.det(rotation) > 0:
        rotation = -rotation  # a rotation with an inversion
    turned = atoms.copy()
    turned.positions = atoms.positions @ rotation.T.numpy()
    whole = torch.block_diag(*[rotation] * len(atoms))
    assert close(predicted(unit, [turned])[0], whole @ plain @ whole.T)
    mirrored = atoms.copy()
    mirrored.positions *= [-1, 1, 1]
    spectra = [torch.linalg.eigvalsh(predicted(unit, [a])[0]) for a in (atoms, mirrored)]
    assert close(*spectra)


def test_raw_features_would_tell_mirror_images_apart(dense):
    unit = unit_with_head(dense)
    unit.predict(batch([named("H2O")]))
    backbone = unit.model.module.backbone
    data = batch([chiral()])
    inverted = batch([chiral()])
    inverted.pos = -inverted.pos
    plain, other = (backbone(d)["node_embedding"].detach() for d in (data, inverted))
    assert float((plain[:, 1:4] + other[:, 1:4]).abs().max()) > 1e-3 * float(plain[:, 1:4].abs().max())


def test_crystals(dense):
    unit = unit_with_head(dense)
    cell = bulk("Cu", cubic=True)
    cell.rattle(0.05, seed=0)
    cell.info.update(charge=0, spin=1)
    (plain,) = predicted(unit, [cell])
    inverted = cell.copy()
    inverted.positions *= -1
    inverted.cell[:] = -cell.cell
    assert float(plain.abs().max()) > 1e-6
    assert close(predicted(unit, [inverted])[0], plain)
    assert close(plain, plain.T, 1e-14)


@pytest.mark.parametrize("case", ["dense", "experts"])
def test_everything_else_is_predicted_as_without_the_head(case, request):
    path, structures = request.getfixturevalue(case), [named("H2O"), named("NH3")]
    plain, grown = cases.predict_unit(path), unit_with_head(path)
    results = []
    for unit in (plain, grown):
        torch.manual_seed(7)
        results.append(unit.predict(batch(structures)) | {"state": torch.get_rng_state()})
    for name in ("energy", "forces", "stress", "state"):
        assert torch.equal(results[0][name], results[1][name]), name


def test_no_graph_and_the_settings_of_the_backbone_come_back(dense):
    unit = unit_with_head(dense)
    prediction = unit.predict(batch([named("H2O")]))
    assert not prediction["hessian"].requires_grad
    config = unit.model.module.backbone.regress_config
    assert config.forces and config.stress and not config.hessian


def test_state_dict_holds_the_backbone_once(dense):
    unit = unit_with_head(dense)
    model = unit.model.module
    keys = [key for key in model.state_dict() if key.startswith("output_heads.zz_direct_hessian.")]
    assert keys and all(key.startswith("output_heads.zz_direct_hessian.head.") for key in keys)
    assert sum(p.numel() for p in model.output_heads["zz_direct_hessian"].parameters()) == sum(
        p.numel() for p in small_head().parameters()
    )


def saved_and_read(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "averaged": lambda model: torch.optim.swa_utils.AveragedModel(model).module,
    "saved": saved_and_read,
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("owner", ["plain", "aware"])
def test_a_copy_has_a_head_on_its_own_backbone(trained, folder, how, owner):
    path = trained
    if owner == "plain":
        path = cases.write_checkpoint(folder / "plain.pt", *with_head(cases.dense(), target=None))
    model, _ = load_inference_model(str(path))
    model = model.double().eval()
    data = batch([named("H2O")])
    before = model(data)["omol_direct_hessian"]["hessian"]
    other = COPIES[how](model)
    assert other.output_heads["hessian"].backbone is other.backbone
    assert other.backbone is not model.backbone
    assert close(other(batch([named("H2O")]))["omol_direct_hessian"]["hessian"], before)
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter.mul_(1.5)
    assert not close(model(batch([named("H2O")]))["omol_direct_hessian"]["hessian"], before, 1e-3)
    assert close(other(batch([named("H2O")]))["omol_direct_hessian"]["hessian"], before)


def test_merged_experts_are_followed(trained_experts):
    structures = [named("H2O")]
    plain = cases.predict_unit(trained_experts)
    merged = cases.predict_unit(trained_experts, merge_mole=True)
    # fairchem merges the experts' weights in float32, before it converts the model.
    assert close(predicted(merged, structures)[0], predicted(plain, structures)[0], 1e-5)
    model = merged.model.module
    assert type(model.backbone).__name__ == "eSCNMDBackbone"
    assert model.output_heads["hessian"].backbone is model.backbone
    # Another composition: fairchem loads the model anew, and the head with it.
    other = [named("NH3")]
    assert close(predicted(merged, other)[0], predicted(plain, other)[0])


def test_a_plain_hydra_model_goes_on_unmerged(folder, caplog):
    path = cases.write_checkpoint(folder / "unaware.pt", *with_head(MERGEABLE, target=None))
    with caplog.at_level(logging.WARNING):
        merged = cases.predict_unit(path, merge_mole=True)
        (found,) = predicted(merged, [named("H2O")])
    assert "HessianHydraModel" in caplog.text
    assert not merged.inference_settings.merge_mole
    assert close(found, predicted(cases.predict_unit(path), [named("H2O")])[0])


def test_calculators_give_the_direct_hessian(trained):
    atoms = named("CH3CH2OH")
    unit = load_predict_unit(str(trained), device="cpu", inference_settings="batch")
    stock, ours = FAIRChemCalculator(unit, task_name="omol"), DirectHessianCalculator(unit, task_name="omol")
    atoms.calc = stock
    atoms.get_potential_energy()
    direct = ours.get_hessian(atoms)
    assert direct.dtype == np.float64 and direct.shape == (27, 27)
    np.testing.assert_allclose(stock.results["hessian"], direct, atol=1e-5 * abs(direct).max())
    np.testing.assert_array_equal(direct, ours.results["direct_hessian"])
    np.testing.assert_allclose(ours.results["forces"], stock.results["forces"], atol=1e-5)


@pytest.mark.parametrize("how", ["checkpoint", "attached"])
def test_both_hessians_are_kept_apart(dense, trained, how):
    settings = {"predict_untrained_hessian": {"omol"}, "hessian_vmap": False}
    if how == "checkpoint":
        both, autograd, direct = cases.predict_unit(trained, **settings), None, cases.predict_unit(trained)
    else:
        both, autograd, direct = (cases.predict_unit(dense, **s) for s in (settings, settings, {}))
        attach(both, small_head())
        attach(direct, small_head())
    atoms = named("H2O")
    found = both.predict(batch([atoms]))
    if autograd is None:
        autograd = cases.predict_unit(dense, **settings)
        autograd.model.module.load_state_dict(
            {k: v for k, v in both.model.module.state_dict().items() if "output_heads.hessian" not in k}
        )
    assert close(found["hessian"][0], autograd.predict(batch([atoms]))["hessian"][0].detach())
    assert close(found["direct_hessian"][0], predicted(direct, [atoms])[0])
    assert not close(found["direct_hessian"][0], found["hessian"][0].detach(), 1e-2)
    atoms.calc = calc = DirectHessianCalculator(both, task_name="omol")
    atoms.get_forces()
    np.testing.assert_allclose(calc.results["direct_hessian"], found["direct_hessian"][0], rtol=0, atol=1e-9)
    np.testing.assert_allclose(calc.results["hessian"], found["hessian"][0].detach(), rtol=0, atol=1e-9)


def test_both_hessians_in_a_plain_hydra_model_are_refused(folder):
    path = cases.write_checkpoint(folder / "plain2.pt", *with_head(cases.dense(), target=None))
    unit = cases.predict_unit(path, predict_untrained_hessian={"omol"})
    with pytest.raises(BackboneError, match="HessianHydraModel"):
        unit.predict(batch([named("H2O")]))


def test_direct_force_models_have_a_direct_hessian(folder):
    path = cases.write_checkpoint(folder / "direct.pt", *cases.direct())
    unit = unit_with_head(path)
    (matrix,) = predicted(unit, [named("H2O")])
    assert matrix.shape == (9, 9) and close(matrix, matrix.T, 1e-14)


def test_compiled(folder, monkeypatch):
    path = cases.write_checkpoint(folder / "shallow.pt", *cases.dense(num_layers=1))
    # fairchem's own call, traced as ever, but without generating code, which takes minutes.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    plain, unit = unit_with_head(path), unit_with_head(path, compile=True)
    (found,), (expected,) = (predicted(one, [named("H2O")]) for one in (unit, plain))
    assert isinstance(unit.model, torch._dynamo.OptimizedModule)
    assert close(found, expected)


@pytest.mark.parametrize("case", ["dense", "experts"])
def test_grown_model_keeps_all_weights(case, request):
    path = request.getfixturevalue(case)
    before, checkpoint = load_inference_model(str(path), use_ema=True)
    grown = add_hessian_head(path, ["omol_direct_hessian"], head=SMALL)
    state = grown.state_dict()
    for name, value in before.module.state_dict().items():
        assert torch.equal(value, state[name]), name
    learning = {name for name, p in grown.named_parameters() if p.requires_grad}
    assert learning and all(name.startswith("output_heads.hessian.") for name in learning)
    everything = add_hessian_head(path, ["omol_direct_hessian"], head=SMALL, trainable="everything")
    fixed = {name for name, p in before.module.named_parameters() if not p.requires_grad}
    assert {name for name, p in everything.named_parameters() if not p.requires_grad} == fixed
    assert grown.finetune_model_full_config["heads"].keys() == {*checkpoint.model_config["heads"], "hessian"}


def test_hessian_model_of_a_checkpoint(trained, dense, tmp_path):
    from hip_ext import HessianCalculator, from_pretrained
    from hip_ext.backbones import load_backbone

    unit = cases.predict_unit(trained)
    model = hessian_model(unit)
    atoms = named("CH3CH2OH")
    (expected,) = predicted(unit, [atoms])
    assert close(model.hessian(atoms).dense(), expected)
    assert "hessian" in unit.model.module.output_heads
    model.save_pretrained(tmp_path / "head")
    again = from_pretrained(tmp_path / "head", backbone=model.backbone)
    assert close(again.hessian(atoms).dense(), expected)
    np.testing.assert_allclose(HessianCalculator(model).get_hessian(atoms), expected, atol=1e-9)
    other = load_backbone("fairchem", cases.predict_unit(dense))
    assert other.widths == model.backbone.widths
    back = cases.predict_unit(dense)
    attach(back, model.head)
    assert predicted(back, [atoms])[0].shape == expected.shape


def test_bad_input(dense, trained, folder, tmp_path):
    unit = cases.predict_unit(dense)
    with pytest.raises(BackboneError, match="there is no task 'omat', only omol"):
        attach(unit, small_head(), datasets=["omat"])
    with pytest.raises(BackboneError, match="expects"):
        attach(unit, small_head(channels=5))
    attach(unit, small_head())
    with pytest.raises(BackboneError, match="already"):
        attach(unit, small_head())
    with pytest.raises(BackboneError, match="nitro=False"):
        attach(torch.nn.Linear(2, 2))
    with pytest.raises(BackboneError, match="no Hessian head"):
        DirectHessianCalculator(cases.predict_unit(dense), task_name="omol")
    with pytest.raises(BackboneError, match="Invalid task_name 'omat'"):
        DirectHessianCalculator(unit, task_name="omat")
    with pytest.raises(BackboneError, match="no Hessian head"):
        hessian_model(dense)
    with pytest.raises(BackboneError, match="is for the task 'omat', only for omol"):
        hessian_model(unit, task="omat")
    with pytest.raises(BackboneError, match="no fairchem checkpoint"):
        hessian_model(tmp_path / "none.pt")
    model, tasks = cases.dense()
    forces_only = cases.write_checkpoint(folder / "forces.pt", model, [t for t in tasks if t["property"] == "forces"])
    with pytest.raises(BackboneError, match="no energy task"):
        add_hessian_head(forces_only, ["omol_direct_hessian"])
    with pytest.raises(BackboneError, match="no energy task"):
        attach(cases.predict_unit(forces_only), small_head())
    with pytest.raises(BackboneError, match="'hessian' already"):
        add_hessian_head(trained, ["omol_direct_hessian"])
    with pytest.raises(ConfigError, match=r"…direct_hessian.*found 'omol_hessian'"):
        add_hessian_head(dense, ["omol_hessian"])
    (tmp_path / "bad.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(BackboneError, match="cannot be read"):
        add_hessian_head(tmp_path / "bad.pt", ["omol_direct_hessian"])
    flat = cases.write_checkpoint(folder / "flat.pt", *cases.dense(lmax=1, mmax=1))
    with pytest.raises(BackboneError, match="lmax of at least 2, found 1"):
        attach(cases.predict_unit(flat))
    used = cases.predict_unit(dense)
    used.predict(batch([named("H2O")]))
    used.inference_settings.compile = True
    with pytest.raises(BackboneError, match="compiled already: attach the head before the first prediction"):
        attach(used, small_head())


ATTENTION = {
    "hidden_size": 8,
    "num_layers": 1,
    "activation": "gelu",
    "regress_forces": True,
    "direct_forces": False,
    "use_compile": False,
    "use_pbc": False,
    "max_num_elements": 20,
    "max_atoms": 20,
    "max_batch_size": 2,
    "max_radius": 5.0,
    "knn_k": 8,
    "knn_soft": True,
    "knn_sigmoid_scale": 0.2,
    "knn_lse_scale": 0.1,
    "knn_use_low_mem": True,
    "knn_pad_size": 10,
    "atten_name": "math",
    "atten_num_heads": 2,
}


@pytest.mark.parametrize("family", ["escaip.EScAIP.EScAIP", "allscaip.AllScAIP.AllScAIP"], ids=["EScAIP", "AllScAIP"])
def test_a_yaml_with_a_backbone_of_another_family_is_refused(family):
    backbone = {"model": f"fairchem.core.models.{family}Backbone"} | ATTENTION
    name = family.rpartition(".")[2]
    with pytest.raises(BackboneError, match=rf"^{name}Backbone gives no equivariant features up to l = 2") as error:
        HessianHydraModel(backbone, {"hessian": HEAD})
    assert "\n" not in str(error.value)


def test_a_unit_with_another_model_than_fairchems_composable_one_is_refused(dense):
    """Nitro's is one: a module of its own, without heads."""
    unit = cases.predict_unit(dense)
    unit.model.module = torch.nn.Identity()
    for use in (attach, hessian_model):
        with pytest.raises(BackboneError, match=r"found Identity: load it with workers=1 and .* nitro=False"):
            use(unit)


def nothing():
    """A batch without structures, which fairchem's own collater cannot make."""
    data = batch([named("H2O")])
    for name in ("pos", "atomic_numbers", "cell", "pbc", "natoms", "charge", "spin", "batch"):
        data[name] = data[name][:0]
    return data


def test_a_batch_of_nothing(dense):
    unit = unit_with_head(dense)
    model = hessian_model(unit)
    empty = structures_of(nothing(), torch.float64)
    for call in (model.hessian, model.energy_forces_hessian, model.backbone.evaluate):
        with pytest.raises(StructureError, match="a batch of 0 structures with 0 atoms: give at least one structure"):
            call(empty)
    with pytest.raises(StructureError, match="no structure given"):
        model.hessian([])
    (head,) = (one for one in unit.model.module.output_heads.values() if isinstance(one, DirectHessianHead))
    with pytest.raises(StructureError, match="a batch of 0 structures with 0 atoms"):
        head(nothing(), {})
    with pytest.raises(BackboneError, match="Atoms object has no atoms inside"):
        DirectHessianCalculator(unit, task_name="omol").get_hessian(Atoms())


def lookup(path, **settings):
    """A unit with fairchem's table of lone atoms, as released models have it."""
    chosen = InferenceSettings(base_precision_dtype=torch.float64, activation_checkpointing=False, **settings)
    return load_predict_unit(path, chosen, device="cpu", atom_refs={"omol": {6: {0: -1030.5}}})


@pytest.mark.parametrize("autograd", [False, True])
def test_a_lone_atom_from_the_table_has_no_hessian(experts, autograd):
    settings = {"predict_untrained_hessian": {"omol"}} if autograd else {}
    unit = lookup(experts, **settings)
    attach(unit, small_head(), datasets=["omol"])
    carbon, own = (Atoms("C", info={"charge": 0, "spin": 3}) for _ in range(2))
    own.calc = FAIRChemCalculator(lookup(experts), task_name="omol")
    carbon.calc = calculator = DirectHessianCalculator(unit, task_name="omol")
    np.testing.assert_array_equal(calculator.get_hessian(carbon), np.zeros((3, 3)))
    assert carbon.get_potential_energy() == own.get_potential_energy() == -1030.5
    np.testing.assert_array_equal(carbon.get_forces(), np.zeros((1, 3)))
    assert calculator.results["hessian"].shape == (3, 3)
    with pytest.raises(BackboneError, match="cannot evaluate this: No atom reference for element 8 with charge 0"):
        calculator.get_hessian(Atoms("O", info={"charge": 0, "spin": 3}))
    # The adapter around a unit with an attached head.
    found = FairchemBackbone(unit, task="omol").evaluate(Structures.from_ase(carbon))
    assert float(found.energy) == -1030.5


def test_a_lone_atom_that_goes_through_the_model_has_no_hessian(dense):
    unit = unit_with_head(dense)
    carbon, own = (Atoms("C", info={"charge": 0, "spin": 3}) for _ in range(2))
    own.calc = FAIRChemCalculator(cases.predict_unit(dense), task_name="omol")
    carbon.calc = calculator = DirectHessianCalculator(unit, task_name="omol")
    np.testing.assert_array_equal(calculator.get_hessian(carbon), np.zeros((3, 3)))
    assert carbon.get_potential_energy() == own.get_potential_energy()
    for matrix in predicted(unit, [carbon, named("H2O")])[:1]:
        assert not matrix.any()


def test_a_lone_atom_without_a_table_is_refused(experts):
    unit = cases.predict_unit(experts)
    attach(unit, small_head(), datasets=["omol"])
    with pytest.raises(BackboneError, match="cannot evaluate this: Single atom system encountered but no atom_refs"):
        DirectHessianCalculator(unit, task_name="omol").get_hessian(Atoms("C", info={"charge": 0, "spin": 3}))


def test_merged_experts_without_stress(folder):
    path = cases.write_checkpoint(folder / "stressless.pt", *cases.experts(regress_stress=False))
    water = named("H2O")
    unit = cases.predict_unit(path, merge_mole=True)
    attach(unit, small_head(), datasets=["omol"])
    with pytest.raises(BackboneError, match=r"batch' or with overrides=.*regress_stress") as error:
        DirectHessianCalculator(unit, task_name="omol").get_hessian(water)
    assert "\n" not in str(error.value)
    backbone = FairchemBackbone(unit, task="omol")
    for call in (lambda: backbone.evaluate(Structures.from_ase(water)), lambda: own_forces(backbone, water)):
        with pytest.raises(BackboneError, match="forces of merged experts only together with stress"):
            call()
    assert attach_head(backbone, HeadConfig(**SMALL)).hessian(water).dense().any()  # which takes no forces
    # What the message advises.
    chosen = InferenceSettings(base_precision_dtype=torch.float64, activation_checkpointing=False, merge_mole=True)
    advised = load_predict_unit(path, chosen, device="cpu", overrides={"backbone": {"regress_stress": True}})
    assert FairchemBackbone(advised, task="omol").evaluate(Structures.from_ase(water)).forces.any()


def own_forces(backbone, atoms):
    atoms = atoms.copy()
    atoms.calc = backbone.calculator()
    return atoms.get_forces()


def test_an_attached_head_that_is_gone(experts):
    unit = unit_with_head(experts, merge_mole=True)
    calculator = DirectHessianCalculator(unit, task_name="omol")
    assert calculator.get_hessian(named("H2O")).shape == (9, 9)
    with pytest.raises(BackboneError, match="loaded its model anew, without the attached head: attach it again"):
        calculator.get_hessian(named("NH3"))
    attach(unit, small_head())
    assert DirectHessianCalculator(unit, task_name="omol").get_hessian(named("NH3")).shape == (12, 12)
