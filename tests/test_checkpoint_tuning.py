"""Checkpoints of a backbone that was trained together with its head: changed tensors, or all of them."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ase.build import molecule
from safetensors.torch import load_file, save_file
from test_checkpoint import SMALL, contents, one_line
from toy_backbone import ToyBackbone, ToyModel

from hip_ext import HessianModel, attach_head, from_pretrained
from hip_ext.backbones import load_backbone
from hip_ext.checkpoint import Tuning, backbone_delta
from hip_ext.errors import BackboneError, CheckpointError


def trained(base: ToyBackbone, name: str = "coefficients", factor: float = 1.01) -> ToyBackbone:
    """A copy with one tensor changed, which still says of itself that it is its base, as after training in place."""
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        tuned.model.state_dict()[name].mul_(factor)
    return tuned


def tuned_model(dtype: torch.dtype = torch.float64) -> HessianModel:
    base = ToyBackbone(ToyModel().to(dtype))
    tuned = trained(base)
    return HessianModel(tuned, attach_head(tuned, SMALL).head, elements=(1, 8), tuning=Tuning.between(base, tuned))


@pytest.fixture(scope="module")
def model() -> HessianModel:
    return tuned_model()


@pytest.fixture
def folder(model, tmp_path) -> Path:
    model.save_pretrained(tmp_path / "head")
    return tmp_path / "head"


def same(a: HessianModel, b: HessianModel) -> bool:
    atoms = molecule("CH3OH")
    first, second = a.energy_forces_hessian(atoms), b.energy_forces_hessian(atoms)
    return (
        torch.equal(first.energy, second.energy)
        and torch.equal(first.forces, second.forces)
        and torch.equal(first.hessian.dense(), second.hessian.dense())
    )


def test_the_changed_tensors_and_no_others_are_written(model, folder):
    assert set(contents(folder)) == {"config.json", "model.safetensors", "backbone.safetensors", "README.md"}
    stored = load_file(folder / "backbone.safetensors")
    assert set(stored) == {"coefficients"}
    assert torch.equal(stored["coefficients"], model.backbone.model.coefficients)
    record = json.loads((folder / "config.json").read_text())
    base, after = ToyBackbone().source.fingerprint, ToyBackbone(model.backbone.model).source.fingerprint
    assert record["backbone"]["fingerprint"] == base != after
    assert record["backbone"]["tuned"] == {"fingerprint": after, "tensors": 1, "whole": False}
    assert set(record["sha256"]) == {"model.safetensors", "backbone.safetensors"}
    assert record["license"] == "other"
    card = (folder / "README.md").read_text()
    assert "the 1 tensors that changed" in card and "license: other" in card and "stay as they are" not in card


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_copy_of_the_users_base_is_tuned(tmp_path, dtype):
    model = tuned_model(dtype)
    model.save_pretrained(tmp_path / "head")
    base = ToyBackbone(ToyModel().to(dtype))
    before = copy.deepcopy(base.model.state_dict())
    found = from_pretrained(tmp_path / "head", backbone=base)
    assert found.backbone is not base and found.dtype == dtype
    assert all(torch.equal(value, before[name]) for name, value in base.model.state_dict().items())
    assert base.source == ToyBackbone().source
    assert found.backbone.source.fingerprint == ToyBackbone(model.backbone.model).source.fingerprint
    assert found.tuning == model.tuning
    assert same(found, model)
    found.save_pretrained(tmp_path / "again")
    first, second = contents(tmp_path / "head"), contents(tmp_path / "again")
    assert all(first[name] == second[name] for name in first if name != "README.md")


def test_the_tuned_backbone_itself_is_taken_as_it_is(model, folder):
    own = ToyBackbone(copy.deepcopy(model.backbone.model))
    found = from_pretrained(folder, backbone=own)
    assert found.backbone is own and same(found, model)


def test_single_precision_tensors_go_onto_a_double_precision_base(tmp_path):
    model = tuned_model(torch.float32)
    model.save_pretrained(tmp_path / "head")
    found = from_pretrained(tmp_path / "head", backbone=ToyBackbone(ToyModel().float().double()))
    assert found.dtype == torch.float64
    assert torch.equal(found.backbone.model.coefficients.float(), model.backbone.model.coefficients)


def test_a_backbone_that_was_not_changed_leaves_no_file(tmp_path):
    base = ToyBackbone()
    model = attach_head(base, SMALL)
    HessianModel(base, model.head, tuning=Tuning.between(base, copy.deepcopy(base))).save_pretrained(tmp_path / "head")
    assert set(contents(tmp_path / "head")) == {"config.json", "model.safetensors", "README.md"}
    assert from_pretrained(tmp_path / "head", backbone=base).tuning is None


def test_tuning_goes_on_from_a_tuned_model(model, folder, tmp_path):
    first = from_pretrained(folder, backbone=ToyBackbone())
    again = trained(first.backbone, "depth")
    tuning = Tuning.between(first.backbone, again, earlier=first.tuning)
    assert tuning.changed == {"coefficients", "depth"} and tuning.base == ToyBackbone().source
    HessianModel(again, first.head, tuning=tuning).save_pretrained(tmp_path / "second")
    found = from_pretrained(tmp_path / "second", backbone=ToyBackbone())
    assert torch.equal(found.backbone.model.depth, again.model.depth)
    assert torch.equal(found.backbone.model.coefficients, model.backbone.model.coefficients)


def test_delta_is_exact_and_of_one_architecture():
    before, model = copy.deepcopy(ToyModel()), ToyModel()
    assert backbone_delta(before.state_dict(), model) == {}
    assert backbone_delta(before.float().state_dict(), ToyModel().float()) == {}
    with torch.no_grad():
        model.weights[0, 0] = torch.nextafter(model.weights[0, 0], torch.tensor(9.0, dtype=torch.float64))
    assert set(backbone_delta(ToyModel().state_dict(), model)) == {"weights"}
    with pytest.raises(CheckpointError, match="another architecture than its base: they differ in 'centres'") as error:
        backbone_delta(ToyModel(channels=3).state_dict(), model)
    one_line(error)


def test_a_whole_backbone_needs_a_licence_and_no_base(tmp_path):
    model = tuned_model()
    with pytest.raises(CheckpointError, match="give license=") as error:
        model.save_pretrained(tmp_path / "head", whole_backbone=True)
    one_line(error)
    assert not (tmp_path / "head").exists()
    model.save_pretrained(tmp_path / "head", whole_backbone=True, license="apache-2.0")
    assert set(load_file(tmp_path / "head" / "backbone.safetensors")) == set(model.backbone.model.state_dict())
    other = ToyBackbone(ToyModel(seed=4))
    assert same(from_pretrained(tmp_path / "head", backbone=other), model)
    assert other.source == ToyBackbone(ToyModel(seed=4)).source
    again = from_pretrained(tmp_path / "head", backbone=ToyBackbone())
    again.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["license"] == "apache-2.0"
    with pytest.raises(CheckpointError, match=r"centres is .* \(6,\), expected .* \(4,\)"):
        from_pretrained(tmp_path / "head", backbone=ToyBackbone(ToyModel(channels=4)))


def test_base_and_delta_that_do_not_belong_together(folder, model):
    def refused(backbone: ToyBackbone) -> str:
        with pytest.raises(CheckpointError) as error:
            from_pretrained(folder, backbone=backbone)
        return one_line(error)

    assert "was made for toy" in refused(ToyBackbone(ToyModel(seed=1)))
    impostor = ToyBackbone(ToyModel(seed=1))
    impostor.source = replace(impostor.source, fingerprint=ToyBackbone().source.fingerprint)
    assert "they do not belong together" in refused(impostor)
    path, config = folder / "backbone.safetensors", json.loads((folder / "config.json").read_text())
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert "sha256" in refused(ToyBackbone())
    (folder / "config.json").write_text(json.dumps(config | {"sha256": {}}))
    assert "they do not belong together" in refused(ToyBackbone())
    for tensors, message in (
        ({"coefficients": torch.zeros(3, 5, dtype=torch.float64)}, "expected torch.float32 or torch.float64 (3, 6)"),
        ({"coefficients": torch.zeros(3, 6, dtype=torch.int64)}, "is torch.int64 (3, 6)"),
        ({"other": torch.zeros(1)}, "has the unknown tensor 'other'"),
        ({"coefficients": torch.full((3, 6), torch.nan)}, "not finite"),
        ({"coefficients": torch.zeros(3, 6), "depth": torch.zeros(10)}, "has 2 tensors, config.json says 1"),
        ({}, "has 0 tensors, config.json says 1"),
    ):
        save_file(tensors, path)
        assert message in refused(ToyBackbone())
    path.unlink()
    assert f"cannot read {path}" in refused(ToyBackbone())


def test_what_could_not_be_read_again_is_not_written(model, tmp_path):
    spoilt = copy.deepcopy(model)
    with torch.no_grad():
        spoilt.head.curvature.weight[0, 0] = float("nan")
    wrong = HessianModel(model.backbone, model.head, tuning=Tuning(ToyBackbone().source, frozenset({"coefficient"})))
    unprintable = HessianModel(model.backbone, model.head, {"note": "a\x1bb"})
    for bad, message in (
        (spoilt, "curvature.weight has values that are not finite: nothing is written"),
        (wrong, "no tensor 'coefficient'"),
        (unprintable, "characters that cannot be printed"),
    ):
        with pytest.raises(CheckpointError, match=message) as error:
            bad.save_pretrained(tmp_path / "head")
        one_line(error)
        assert not list(tmp_path.iterdir())


def test_device_and_dtype_are_for_a_backbone_that_is_loaded(folder):
    for options in ({"device": "cpu"}, {"dtype": torch.float32}):
        with pytest.raises(BackboneError, match="loaded already") as error:
            from_pretrained(folder, backbone=ToyBackbone(), **options)
        one_line(error)


def test_a_released_base_is_fetched_and_tuned(tmp_path):
    pytest.importorskip("so3krates_torch", reason="needs so3krates-torch")
    base = load_backbone("so3lr")
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        name, parameter = next(iter(tuned.model.named_parameters()))
        parameter.mul_(1.01)
    head = attach_head(tuned, SMALL).head
    HessianModel(tuned, head, tuning=Tuning.between(base, tuned)).save_pretrained(tmp_path / "head")
    config = json.loads((tmp_path / "head" / "config.json").read_text())
    assert config["backbone"]["source"] == "release"
    assert config["backbone"]["revision"].startswith("so3krates-torch 0.2.")
    assert set(load_file(tmp_path / "head" / "backbone.safetensors")) == {name}
    found = from_pretrained(tmp_path / "head")
    assert same(found, HessianModel(tuned, head))
    exact = from_pretrained(tmp_path / "head", dtype=torch.float64)
    assert exact.dtype == torch.float64 and exact.backbone.source.fingerprint == found.backbone.source.fingerprint


def test_a_tuned_mace_comes_back(tmp_path):
    pytest.importorskip("mace", reason="needs mace-torch")
    from backbone_cases import random_mace

    base = load_backbone("mace", random_mace())
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        for parameter in tuned.model.interactions.parameters():
            parameter.mul_(1.01)
    model = HessianModel(tuned, attach_head(tuned, SMALL).head, tuning=Tuning.between(base, tuned))
    model.save_pretrained(tmp_path / "head")
    assert all(name.startswith("interactions.") for name in load_file(tmp_path / "head" / "backbone.safetensors"))
    found = from_pretrained(tmp_path / "head", backbone=load_backbone("mace", random_mace()))
    first, second = model.energy_forces_hessian(molecule("CH3OH")), found.energy_forces_hessian(molecule("CH3OH"))
    # TorchScript takes its sums in another order from the second pass on.
    torch.testing.assert_close(first.forces, second.forces, rtol=0, atol=1e-14)
    torch.testing.assert_close(first.hessian.dense(), second.hessian.dense(), rtol=0, atol=1e-12)
