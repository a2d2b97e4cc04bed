"""Checkpoints: what is written comes back to the last bit, and whatever is not exactly that is refused in one line."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import socket
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ase.build import molecule
from backbone_cases import default_dtype, random_mace
from safetensors.torch import load_file, save_file
from toy_backbone import ToyBackbone, ToyModel

import hip_ext.checkpoint.writing
import hip_ext.shipped
from hip_ext import HeadConfig, HessianModel, attach_head, from_pretrained
from hip_ext.backbones import load_backbone
from hip_ext.errors import BackboneError, CheckpointError, HipExtError

SMALL = HeadConfig(scalars=8, channels=4, hidden=8, pair_channels=2, coordinates=4, cutoff=3.0)
FILES = {"config.json", "model.safetensors", "README.md"}


def one_line(error: pytest.ExceptionInfo[HipExtError]) -> str:
    text = str(error.value)
    assert text and "\n" not in text and "\r" not in text
    return text


def toy_model(seed: int = 0, dtype: torch.dtype = torch.float64) -> HessianModel:
    model = attach_head(ToyBackbone(ToyModel().to(dtype)), SMALL, seed=seed)
    return HessianModel(
        model.backbone, model.head, {"data": "tests", "steps": 3}, {"water": {"mae": 0.5, "cosine": 0.25}}, (8, 1)
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "head"
    toy_model().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """A checkpoint to spoil."""
    return Path(shutil.copytree(saved, tmp_path / "head"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refused(folder: Path | str, kind: type[HipExtError] = CheckpointError, **options: Any) -> str:
    with pytest.raises(kind) as error:
        from_pretrained(folder, **({"backbone": ToyBackbone()} | options))
    return one_line(error)


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "config.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def respell(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    sign(folder)


def sign(folder: Path) -> None:
    """Puts the right digest of the weights into config.json, so that something else must find what is wrong."""
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    edit(folder, lambda values: values["sha256"].update({"model.safetensors": digest}))


# There and back


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("written_under", [torch.float32, torch.float64])
def test_round_trip_is_exact(tmp_path, dtype, written_under):
    with default_dtype(written_under):
        model = toy_model(dtype=dtype)
        model.save_pretrained(tmp_path / "new" / "head")
    found = from_pretrained(tmp_path / "new" / "head", backbone=model.backbone)
    for name, value in model.head.state_dict().items():
        assert found.head.state_dict()[name].dtype == value.dtype == dtype
        assert torch.equal(found.head.state_dict()[name], value)
    assert found.head.config == SMALL and not found.head.training
    assert found.training_record == model.training_record and found.metrics == model.metrics
    assert found.elements == [1, 8]
    atoms = [molecule("H2O"), molecule("CH3OH")]
    assert torch.equal(found.hessian(atoms).flat(), model.hessian(atoms).flat())
    found.save_pretrained(tmp_path / "again")
    first, second = contents(tmp_path / "new" / "head"), contents(tmp_path / "again")
    assert first["config.json"] == second["config.json"]
    assert first["model.safetensors"] == second["model.safetensors"]


def test_the_folder_is_that_of_a_hub_repository(saved):
    assert {path.name for path in saved.iterdir()} == FILES
    assert {path.name for path in saved.parent.iterdir()} == {"head"}
    config = json.loads((saved / "config.json").read_text())
    assert config["schema_version"] == 2 and config["dtype"] == "float64"
    assert config["units"] == {"hessian": "eV/Å^2", "length": "Å"}
    assert config["backbone"]["fingerprint"] == ToyBackbone().source.fingerprint
    assert config["backbone"]["features"] == {"widths": [12, 6, 6], "parity": "o3"}
    assert (config["backbone"]["source"], config["backbone"]["revision"]) == ("memory", None)
    assert config["sha256"] == {
        "model.safetensors": hashlib.sha256((saved / "model.safetensors").read_bytes()).hexdigest()
    }
    card = (saved / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: hip-ext\n") and 'from_pretrained("head", backbone=backbone)' in card
    assert "Elements: H, O" in card and "| water | 0.5 | 0.25 |" in card
    umask = os.umask(0)
    os.umask(umask)
    assert saved.stat().st_mode & 0o777 == 0o777 & ~umask
    assert all(path.stat().st_mode & 0o777 == 0o666 & ~umask for path in saved.iterdir())


def test_only_the_head_is_written(saved):
    model = toy_model()
    found = load_file(saved / "model.safetensors")
    assert found.keys() == model.head.state_dict().keys()
    assert sum(value.numel() for value in found.values()) == sum(v.numel() for v in model.head.state_dict().values())


def test_a_float32_head_follows_a_float64_backbone(tmp_path):
    model = toy_model(dtype=torch.float32)
    model.save_pretrained(tmp_path / "head")
    # A double-precision copy of the model is the same model.
    found = from_pretrained(tmp_path / "head", backbone=ToyBackbone(copy.deepcopy(model.backbone.model).double()))
    atoms = molecule("CH3OH")
    assert found.dtype == torch.float64
    exact, single = found.hessian(atoms).dense(), model.hessian(atoms).dense().double()
    torch.testing.assert_close(exact, single, rtol=0, atol=1e-4 * float(exact.abs().max()))


def test_released_backbones_come_back_by_name(tmp_path, monkeypatch):
    pytest.importorskip("so3krates_torch", reason="needs so3krates-torch")
    monkeypatch.chdir(tmp_path)
    model = attach_head("so3lr", SMALL)
    model.save_pretrained("head")
    (tmp_path / "so3lr").mkdir()  # of the user's own, and no model
    found = from_pretrained("head")
    atoms = molecule("CH3OH")
    assert found.backbone.source == model.backbone.source
    assert torch.equal(found.hessian(atoms).dense(), model.hessian(atoms).dense())
    assert from_pretrained("head", dtype=torch.float64).dtype == torch.float64
    short = load_backbone("so3lr", long_range_cutoff=6.0)
    message = refused("head", backbone=short)
    assert "'long_range_cutoff': 12.0" in message and "'long_range_cutoff': 6.0" in message
    for options in ({"long_range_cutoff": "far"}, {"device": "cpu"}, {"kind": "mace"}, {"long_range_cutoff": [1]}):
        edit(tmp_path / "head", lambda values, options=options: values["backbone"].update(options=options))
        assert "options that cannot be used" in refused("head", backbone=None)
    edit(tmp_path / "head", lambda values: values["backbone"].update(options={"colour": 1}))
    assert "has no option 'colour'" in refused("head", BackboneError, backbone=None)


def test_shipped_checkpoints_by_name(tmp_path, monkeypatch, saved):
    shelf = tmp_path / "checkpoints"
    shutil.copytree(saved, shelf / "hip-toy")
    monkeypatch.setattr(hip_ext.shipped, "checkpoints_folder", lambda: shelf)
    monkeypatch.chdir(tmp_path)
    assert from_pretrained("hip-toy", backbone=ToyBackbone()).elements == [1, 8]
    assert refused("hip-tou").endswith("shipped are hip-toy; did you mean 'hip-toy'?")
    assert "did you mean" not in refused("something else entirely")
    shutil.rmtree(shelf / "hip-toy")
    assert "none is shipped" in refused("hip-toy")


# The wrong backbone


def test_another_model_or_changed_weights_are_refused(folder):
    other = ToyBackbone(ToyModel(seed=1))
    message = refused(folder, backbone=other)
    assert other.source.fingerprint[:12] in message and ToyBackbone().source.fingerprint[:12] in message
    changed = ToyModel()
    with torch.no_grad():
        changed.weights[0, 0] += 1e-4
    assert "was made for toy 'in-memory'" in refused(folder, backbone=ToyBackbone(changed))
    assert from_pretrained(folder, backbone=ToyBackbone(copy.deepcopy(ToyModel()))).elements == [1, 8]


def test_another_kind_is_refused_even_with_the_right_fingerprint(folder):
    edit(folder, lambda values: values["backbone"].update(kind="tou"))
    assert "was made for tou" in refused(folder)


def test_without_a_backbone_one_that_was_in_memory_is_asked_for(folder):
    for options in ({}, {"trust_source": True}):
        message = refused(folder, backbone=None, **options)
        assert "pass backbone=load_backbone('toy', ...)" in message and "trust_source" not in message


class Hostile:
    """A pickle that creates a file when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("kind", ["mace", "so3lr"])
@pytest.mark.parametrize("spelling", ["absolute", "relative", "plain", "parent", "family"])
def test_files_that_a_checkpoint_names_are_not_read(folder, tmp_path, monkeypatch, kind, spelling):
    pytest.importorskip("mace" if kind == "mace" else "so3krates_torch", reason="needs the framework")
    monkeypatch.chdir(tmp_path)
    mark = tmp_path / "was-here"
    torch.save(Hostile(mark), tmp_path / "evil.model")
    names = {
        "absolute": str(tmp_path / "evil.model"),
        "relative": "./evil.model",
        "plain": "evil.model",
        "parent": f"../{tmp_path.name}/evil.model",
        "family": f"mace_mp:file://{tmp_path}/evil.model",
    }
    edit(folder, lambda values: values["backbone"].update(kind=kind, name=names[spelling]))
    message = refused(folder, backbone=None)
    assert "trust_source=True" in message and names[spelling] in message
    assert not mark.exists()
    if spelling == "plain":
        # The file is as dangerous as it is meant to be: with trust it runs.
        refused(folder, BackboneError, backbone=None, trust_source=True)
        assert mark.is_dir()


def test_a_trusted_file_is_read_and_its_fingerprint_compared(tmp_path):
    module = random_mace()
    torch.save(module, tmp_path / "mine.model")
    model = attach_head("mace", SMALL, source=tmp_path / "mine.model")
    model.save_pretrained(tmp_path / "head")
    found = from_pretrained(tmp_path / "head", trust_source=True)
    atoms = molecule("CH3OH")
    torch.testing.assert_close(found.hessian(atoms).dense(), model.hessian(atoms).dense(), rtol=0, atol=1e-12)
    torch.save(random_mace(seed=1), tmp_path / "mine.model")
    assert "was made for mace" in refused(tmp_path / "head", backbone=None, trust_source=True)


# Damaged files


def test_every_truncation_of_the_weights_is_refused(folder):
    path = folder / "model.safetensors"
    data = path.read_bytes()
    for length in (0, 1, 7, 8, 9, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        assert "is damaged" in refused(folder)
    path.write_bytes(data + b"\0")
    assert "is damaged" in refused(folder)


def test_flipped_bits_of_the_header_never_load_as_something_else(folder):
    """A flip is refused, or it hits what does not matter (a space, a name of the metadata) and the head is the same."""
    path = folder / "model.safetensors"
    data, expected = path.read_bytes(), load_file(path)
    edit(folder, lambda values: values["sha256"].clear())  # which finds every one of them
    (header,) = struct.unpack("<Q", data[:8])
    messages, backbone = [], ToyBackbone()
    for position in range(0, 8 + header, 61):
        for bit in (0, 3, 6):
            spoilt = bytearray(data)
            spoilt[position] ^= 1 << bit
            path.write_bytes(bytes(spoilt))
            try:
                found = from_pretrained(folder, backbone=backbone)
            except CheckpointError as error:
                messages.append(str(error))
            else:
                assert all(torch.equal(found.head.state_dict()[name], value) for name, value in expected.items())
    assert len(messages) > 20
    assert not any("\n" in message for message in messages)


def test_a_header_that_promises_too_much_is_refused(folder):
    path = folder / "model.safetensors"
    header = json.dumps({"a": {"dtype": "F64", "shape": [1 << 40], "data_offsets": [0, 1 << 43]}}).encode()
    for length in (1 << 22, 1 << 40, (1 << 63) - 1):
        path.write_bytes(struct.pack("<Q", length) + header)
        assert f"is damaged (a header of {length} bytes in a file of" in refused(folder)
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    assert "does not belong to its config.json" in refused(folder)


def test_tensors_must_be_exactly_those_of_the_head(folder):
    path = folder / "model.safetensors"
    data, name = path.read_bytes(), "mix_scalars.0.weight"
    inf = float("inf")

    def set_to(value: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict[str, torch.Tensor]], None]:
        return lambda tensors: tensors.update({name: value(tensors[name]).contiguous()})

    cases: list[tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = [
        (lambda tensors: tensors.pop(name), f"lacks tensor '{name}'"),
        (lambda tensors: tensors.clear(), "does not belong to its config.json"),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), "has the unknown tensor 'extra'"),
        (lambda tensors: tensors.update({"two\nlines": torch.zeros(1)}), "unknown tensor 'two\\nlines'"),
        (set_to(lambda x: x.T), "is torch.float64 (12, 8), expected torch.float64 (8, 12)"),
        (set_to(lambda x: x[:, :-1]), "is torch.float64 (8, 11)"),
        (set_to(lambda x: x.flatten()), "is torch.float64 (96,)"),
        (set_to(lambda x: x.float()), "is torch.float32 (8, 12), expected torch.float64"),
        (set_to(lambda x: x.to(torch.int64)), "is torch.int64"),
        (set_to(lambda x: x.index_fill(0, torch.tensor([0]), float("nan"))), "not finite"),
        (set_to(lambda x: x.index_fill(0, torch.tensor([0]), inf)), "not finite"),
    ]
    for change, message in cases:
        path.write_bytes(data)
        respell(folder, change)
        assert message in refused(folder)


def test_files_that_are_missing_or_something_else(folder, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "cannot read" in refused(empty)
    assert "not a folder" in refused(folder / "config.json")
    assert "not a folder" in refused(tmp_path / "nowhere")
    for name in ("model.safetensors", "config.json"):
        (folder / name).unlink()
        assert f"cannot read {folder / name}: No such file" in refused(folder)
        (folder / name).mkdir()
        assert f"{folder / name} is not a regular file" in refused(folder)
    (folder / "config.json").rmdir()
    with (folder / "config.json").open("wb") as file:
        file.truncate(1 << 33)
    assert "is 8589934592 bytes long: at most 1048576 are read" in refused(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_links_pipes_and_sockets_are_refused_and_block_nobody(folder, tmp_path, monkeypatch, name):
    path = folder / name
    moved = path.rename(tmp_path / "elsewhere")
    path.symlink_to(moved)
    assert f"{path} is a symbolic link" in refused(folder)
    path.unlink()
    path.symlink_to("/dev/zero")
    assert f"{path} is a symbolic link" in refused(folder)
    path.unlink()
    path.symlink_to(path)
    assert str(path) in refused(folder)
    path.unlink()
    os.mkfifo(path)
    assert f"{path} is not a regular file" in refused(folder)
    path.unlink()
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(folder)  # the name of a socket may not be long
        server.bind(name)
        assert f"cannot read {path}" in refused(folder)


def test_links_of_the_hub_cache_lead_to_its_own_blobs_only(saved, tmp_path):
    repository = tmp_path / "models--me--head"
    snapshot, blobs = repository / "snapshots" / "0123", repository / "blobs"
    for target in (blobs, tmp_path / "others"):
        target.mkdir(parents=True)
        for name in FILES:
            shutil.copy(saved / name, target / name)
    snapshot.mkdir(parents=True)
    for name in FILES:
        (snapshot / name).symlink_to(Path("../../blobs") / name)
    assert from_pretrained(snapshot, backbone=ToyBackbone()).elements == [1, 8]
    (snapshot / "config.json").unlink()
    for target in ("../../../others/config.json", tmp_path / "others" / "config.json"):
        (snapshot / "config.json").symlink_to(target)
        assert "is a symbolic link" in refused(snapshot)
        (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to("../../blobs/config.json")
    blobs.rename(repository / "moved")
    blobs.symlink_to(tmp_path / "others")
    assert "is a symbolic link" in refused(snapshot)


@pytest.mark.parametrize("name", ["a\0b", "../nowhere", "/nowhere/at/all", "n" * 5000, "\ud800", "owner/name/more"])
def test_names_that_are_no_folders(name):
    assert "not a folder" in refused(name)


def test_a_file_of_weights_beyond_all_heads_is_not_read(folder):
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(1 << 40)
    assert "is damaged (1099511627776 bytes long" in refused(folder)


def test_configs_that_are_not_json(folder):
    path = folder / "config.json"
    for data in (b"", b"{", b"\xff\xfe\0", b"{'a': 1}", b"[" * 100_000, b"9" * 5000, path.read_bytes()[:-20]):
        path.write_bytes(data)
        assert "is not valid JSON" in refused(folder)
    for text in ('{"a": 1, "a": 1}', "[NaN]", "[-Infinity]", "[1e999]", "[9223372036854775808]", '["\\ud800"]'):
        path.write_bytes(text.encode())
        assert "is not valid JSON" in refused(folder)
    for depth in (17, 900, 5000):
        path.write_bytes(b"[" * depth + b"]" * depth)
        assert "levels of nesting" in refused(folder)
    for data in (b"[]", b"null", b'"text"', b"1", b"{}"):
        path.write_bytes(data)
        assert str(path) in refused(folder)


def test_config_keys_and_values(folder):
    original = (folder / "config.json").read_text()
    cases: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
        (lambda v: v["head"].update(cutof=3.0), "did you mean 'cutoff'?"),
        (lambda v: v.update(elemets=[1]), "did you mean 'elements'?"),
        (lambda v: v["backbone"].update(fingerprnt="a"), "did you mean 'fingerprint'?"),
        (lambda v: v.update({"a\nb": 1}), "Extra inputs are not permitted"),
        (lambda v: v.pop("dtype"), "'dtype': Field required"),
        (lambda v: v.pop("head"), "'head': Field required"),
        (lambda v: v.update(schema_version=0), "'schema_version' is 0, expected a number from 1 to 2"),
        (lambda v: v.update(schema_version="new"), "'schema_version' is 'new'"),
        (lambda v: v.update(schema_version=True), "'schema_version' is True"),
        (lambda v: v.update(format="another program"), "'format'"),
        (lambda v: v.update(dtype="float16"), "'dtype'"),
        (lambda v: v["head"].update(layers=-1), "'head.layers'"),
        (lambda v: v["head"].update(cutoff=float("nan")), "NaN is not a number of JSON"),
        (lambda v: v["head"].update(cutoff=-1.0), "'head.cutoff'"),
        (lambda v: v["head"].update(scalars="many"), "'head.scalars'"),
        (lambda v: v["backbone"].update(fingerprint="0" * 63), "'backbone.fingerprint'"),
        (lambda v: v["backbone"].update(kind="toy\n"), "'backbone.kind'"),
        (lambda v: v["backbone"]["features"].update(widths=[12, 6]), "'backbone.features.widths"),
        (lambda v: v["backbone"]["features"].update(widths=[12, 6, -6]), "'backbone.features.widths"),
        (lambda v: v["backbone"].update(source="thin air"), "'backbone.source'"),
        (lambda v: v.update(license="MIT\n"), "'license'"),
        (lambda v: v.update(sha256={"../model.safetensors": "0" * 64}), "'sha256.../model.safetensors"),
        (lambda v: v.update(sha256={"model.safetensors": "0" * 63}), "'sha256.model.safetensors'"),
        (lambda v: v.update(elements=[0]), "'elements.0'"),
        (lambda v: v.update(elements=[119]), "'elements.0'"),
    ]
    for change, message in cases:
        (folder / "config.json").write_text(original)
        edit(folder, change)
        assert message in refused(folder)


def test_sizes_beyond_the_file_are_refused_without_being_allocated(folder):
    original = (folder / "config.json").read_text()
    changes: list[dict[str, Any]] = [
        {name: size}
        for name in ("scalars", "channels", "layers", "hidden", "pair_channels", "coordinates")
        for size in (10**5, 10**9, 10**15, 2**63 - 1)
    ]
    changes += [{"spacing": 1e-300}, {"scalars": 9, "hidden": 900}]
    edit(folder, lambda values: values["head"].update(cutoff=1e15))
    assert "less than or equal to 50" in refused(folder)
    tracemalloc.start()
    for change in changes:
        (folder / "config.json").write_text(original)
        edit(folder, lambda values, change=change: values["head"].update(change))
        assert "model.safetensors" in refused(folder)
    for widths in ([10**12, 6, 6], [12, 2**63 - 1, 6], [12, 6, 13]):
        (folder / "config.json").write_text(original)
        edit(folder, lambda values, widths=widths: values["backbone"]["features"].update(widths=widths))
        assert "model.safetensors" in refused(folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6


# Writing


def test_a_newer_head_replaces_an_older_one_and_nothing_else(folder, tmp_path):
    (folder / "notes.txt").write_text("mine")
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("ref")
    newer = toy_model(seed=5)
    newer.save_pretrained(folder)
    assert {path.name for path in folder.iterdir()} == FILES | {"notes.txt", ".git"}
    assert (folder / "notes.txt").read_text() == "mine" and (folder / ".git" / "HEAD").read_text() == "ref"
    found = from_pretrained(folder, backbone=newer.backbone)
    atoms = molecule("H2O")
    assert torch.equal(found.hessian(atoms).dense(), newer.hessian(atoms).dense())
    assert {path.name for path in tmp_path.iterdir()} == {"head"}


def test_folders_of_others_are_left_alone(tmp_path):
    model = toy_model()
    (tmp_path / "empty").mkdir()
    model.save_pretrained(tmp_path / "empty")
    assert {path.name for path in (tmp_path / "empty").iterdir()} == FILES
    others = {
        "documents": {"thesis.tex": "years of work"},
        "language-model": {"config.json": '{"model_type": "bert"}', "model.safetensors": "large"},
        "broken": {"config.json": "{"},
        "list": {"config.json": "[]"},
    }
    for name, files in others.items():
        (tmp_path / name).mkdir()
        for file, text in files.items():
            (tmp_path / name / file).write_text(text)
        before = contents(tmp_path / name)
        with pytest.raises(CheckpointError, match="not a checkpoint of hip-ext: choose another folder") as error:
            model.save_pretrained(tmp_path / name)
        one_line(error)
        assert contents(tmp_path / name) == before
    (tmp_path / "file").write_text("text")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        model.save_pretrained(tmp_path / "file")
    with pytest.raises(CheckpointError, match="cannot write") as error:
        model.save_pretrained(tmp_path / "file" / "below")
    one_line(error)
    assert (tmp_path / "file").read_text() == "text"


@pytest.fixture(params=["exchange", "two renames"])
def how(request, monkeypatch) -> str:
    """Both ways of replacing a folder; the first where this system has it."""
    if request.param == "two renames":
        monkeypatch.setattr(hip_ext.checkpoint.replacement, "_exchanging_call", lambda: None)
    elif hip_ext.checkpoint.replacement._exchanging_call() is None:
        pytest.skip("this system cannot exchange two folders in one step")
    return request.param


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OSError(28, "No space left on device"), RuntimeError("?")])
@pytest.mark.parametrize("when", ["weights", "half of the weights", "replacement"])
@pytest.mark.parametrize("existing", [True, False])
def test_an_interrupted_write_leaves_what_was_there(folder, tmp_path, monkeypatch, how, failure, when, existing):
    if not existing:
        shutil.rmtree(folder)
    else:
        (folder / "notes.txt").write_text("mine")
    before = contents(folder) if existing else None
    newer = toy_model(seed=5)

    def interrupted_write(path: Path, tensors: dict[str, torch.Tensor]) -> str:
        if when == "half of the weights":
            path.write_bytes(b"0" * 1000)
        raise failure

    rename = Path.rename

    def interrupted_rename(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise failure
        return rename(self, target)

    def interrupted_exchange(new: Path, old: Path) -> bool:
        raise failure

    with monkeypatch.context() as patch:
        if when == "replacement":
            patch.setattr(Path, "rename", interrupted_rename)
            if how == "exchange":
                patch.setattr(hip_ext.checkpoint.replacement, "_exchange", interrupted_exchange)
        else:
            patch.setattr(hip_ext.checkpoint.writing, "write_tensors", interrupted_write)
        with pytest.raises(CheckpointError if isinstance(failure, OSError) else type(failure)) as error:
            newer.save_pretrained(folder)
    if isinstance(failure, OSError):
        assert one_line(error) == f"cannot write {folder}: No space left on device"
    assert {path.name for path in tmp_path.iterdir()} == ({"head"} if existing else set())
    if existing:
        assert contents(folder) == before
        from_pretrained(folder, backbone=ToyBackbone())
    newer.save_pretrained(folder)
    assert torch.equal(
        from_pretrained(folder, backbone=ToyBackbone()).head.curvature.weight, newer.head.curvature.weight
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o555)
    with pytest.raises(CheckpointError, match=r"cannot write .*Permission denied") as error:
        toy_model().save_pretrained(tmp_path / "locked" / "head")
    one_line(error)
