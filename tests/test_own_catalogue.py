"""A user's own catalogue, `hip-ext models`, and what happens to whoever writes a catalogue that is not one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError
from test_checkpoint import one_line, toy_model
from toy_backbone import ToyBackbone
from typer.testing import CliRunner

from hip_ext import from_pretrained
from hip_ext.backbones import load_backbone
from hip_ext.catalogue import VARIABLE, base_models, heads, licences
from hip_ext.catalogue.bases import Backbones
from hip_ext.cli import app
from hip_ext.errors import CheckpointError, ConfigError
from hip_ext.shipped import registry_folder, shipped_checkpoints

HEAD = {
    "folder": "my-head",
    "title": "water",
    "backbone": {"kind": "toy", "name": "toy"},
    "level": "none at all",
    "elements": [1, 8],
    "licence": "mit",
    "bytes": 1000,
    "metrics": {"water": {"hessian_mae": 0.5}},
}
MODEL = {"backbone": "mace", "title": "[bold]mine", "elements": "1, 6-8", "training": "PBE", "licence": "ASL"}


@pytest.fixture
def own(tmp_path, monkeypatch) -> Path:
    """A catalogue with a head in a folder, one on the Hub, and a base model."""
    folder = tmp_path / "own"
    toy_model().save_pretrained(folder / "my-head")
    on_hub = {key: value for key, value in HEAD.items() if key != "folder"} | {"repo": "me/head", "revision": "v1"}
    write(folder / "checkpoints.yaml", {"checkpoints": {"my-head": HEAD, "hub-head": on_hub}})
    write(folder / "models.yaml", {"models": {"my-mace": MODEL}})
    monkeypatch.setenv(VARIABLE, str(folder))
    return folder


def write(path: Path, document: object) -> None:
    path.write_text(json.dumps(document), encoding="utf-8")  # which is YAML, without anchors for what is there twice


def run(*arguments: object, code: int = 0) -> str:
    found = CliRunner().invoke(app, ["models", *map(str, arguments)])
    assert found.exit_code == code, found.output
    return found.output


def test_heads_of_ones_own_load_by_name(own):
    assert {head.name: head.kind for head in heads().values() if head.kind != "shipped"} == {
        "my-head": "own",
        "hub-head": "hub",
    }
    assert from_pretrained("my-head", backbone=ToyBackbone()).elements == [1, 8]
    with pytest.raises(CheckpointError, match="which has no revisions"):
        from_pretrained("my-head", backbone=ToyBackbone(), revision="main")
    with pytest.raises(CheckpointError, match="did you mean 'my-head'"):
        from_pretrained("my-haed", backbone=ToyBackbone())
    with pytest.raises(CheckpointError, match="of me/head at 'v1' is not in the Hub's cache"):
        from_pretrained("hub-head", backbone=ToyBackbone(), local_files_only=True, cache_dir=own)


def test_what_ships_works_whatever_a_users_catalogue_is(monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    for arguments in ([], ["show", "so3lr"]):
        assert "has neither checkpoints.yaml nor models.yaml" in run(*arguments, code=2)
    pytest.importorskip("so3krates_torch", reason="needs so3krates-torch")
    assert from_pretrained("hip-so3lr-organic", backbone=load_backbone("so3lr", "so3lr")).elements


def test_the_list(own):
    everything = run()
    for name in ("hip-so3lr-organic", "mace_off:small", "uma-s-1p2", "7net-0", "my-head", "hub-head", "my-mace"):
        assert name in everything
    assert "0.033 to 0.34" in everything and "32 (80 atoms)" in everything and "89 elements" in everything
    found = json.loads(run("--json"))
    assert {one["kind"] for one in found} == {"shipped", "hub", "own", "base"}
    names = {one["name"] for one in json.loads(run("--json", "--backbone", "mace", "--element", "Si"))}
    assert "mace_mp:small" in names and not names & {"mace_off:small", "7net-0", "my-mace", "hip-so3lr-organic"}
    assert "my-mace" in run("--element", "H", "--element", "O", "--kind", "base")
    assert {one["name"] for one in json.loads(run("--kind", "shipped", "--json"))} == set(shipped_checkpoints())
    assert run("--kind", "shipped", "--backbone", "fairchem").strip().startswith("model")
    for arguments, message in (
        (["--backbone", "mac"], "did you mean 'mace'?"),
        (["--element", "Xx"], "no model is of element 'Xx'"),
        (["--kind", "shiped"], "did you mean 'shipped'?"),
    ):
        assert message in run(*arguments, code=2)


def test_one_model(own):
    text = run("show", "hip-so3lr-organic")
    for part in ("H C N O F S Cl", "PBE0+MBD", "mit", "1.30 MB", "hessian mae 0.03286", "ms: 20 atoms"):
        assert part in text
    assert "does not permit commercial use" in run("show", "mace_off:small")
    assert "me/head@v1" in run("show", "hub-head") and "[bold]mine" in run("show", "my-mace")
    assert "configs/mace-spice/build.py" in run("show", "hip-mace-spice")
    assert json.loads(run("show", "my-mace", "--json"))["elements"] == [1, 6, 7, 8]
    assert "did you mean" in run("show", "hip-so3lr-organik", code=2)


def test_a_head_on_a_file_says_where_the_file_comes_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"not a released model.*trust_source=True.*mace-spice/build.py"):
        from_pretrained("hip-mace-spice")


def test_text_of_others_is_one_line(own):
    write(own / "models.yaml", {"models": {"mine": MODEL | {"title": "a\nlicence  mit\u202e"}}})
    assert "for       a licence mit?" in run("show", "mine")


def test_a_narrow_terminal_has_whole_names(own, monkeypatch):
    monkeypatch.setattr("hip_ext.cli.models._narrow", lambda: True)
    text = run("--kind", "shipped")
    assert "hip-so3lr-organic-large" in text and max(map(len, text.splitlines())) < 80 and "licence" not in text


def test_every_entry_that_ships_is_valid():
    Backbones.model_validate(yaml.safe_load((registry_folder() / "backbones.yaml").read_text(encoding="utf-8")))
    assert len(base_models(own=False)) > 30 and set(licences()) == {"ASL", "FAIR-Chemistry"}
    for base in base_models(own=False).values():
        assert base.licence in {"MIT", *licences()}
        assert base.elements or base.backbone == "fairchem"


HEADS = [
    ("checkpoints: [", "is not YAML"),
    ("[]", "Input should be"),
    ("", "Input should be"),
    ("\x00", "is not YAML"),
    (b"\xff\xfe\x00", "is not YAML"),
    ("!!python/object/apply:os.system [true]", "is not YAML"),
    ("a: &a [x]\nb: *a", "an anchor or an alias in line 1"),
    ("checkpoints: {}\ncheckpoints: {}", "the key 'checkpoints' in line 2 is not new"),
    ("checkpoints: {? [a] : 1}", "is not new"),
    ("[" * 5000, "is not YAML"),
    ("checkpoints: " + "{a: " * 30 + "1" + "}" * 30, "levels of nesting"),
    ("x: " + "9" * 9000, "is not YAML of a catalogue"),
    ('"\\e[2J": 1', "cannot be printed"),
    ("checkpoints: 2026-99-99", "is not YAML of a catalogue"),
    ("#" * (1 << 20) + "\n", "is longer than"),
    ({"licence": None}, "'checkpoints.a.licence': Input should be"),
    ({"licnce": "mit"}, "did you mean 'licence'?"),
    ({"folder": "../my-head"}, "should match pattern"),
    ({"folder": "/etc"}, "should match pattern"),
    ({"folder": "a/b"}, "should match pattern"),
    ({"repo": "me/head"}, "and not both"),
    ({"folder": None}, "give a folder or a repo"),
    ({"folder": None, "repo": "../head"}, "cannot be a repository"),
    ({"folder": None, "repo": "me/head@main"}, "cannot be a repository"),
    ({"folder": None, "repo": "me/head", "revision": "../../x"}, "cannot be a revision"),
    ({"revision": "main"}, "a folder has no revision"),
    ({"bytes": -1}, "bytes"),
    ({"bytes": True}, None),
    ({"elements": [0]}, "elements"),
    ({"elements": []}, "elements"),
    ({"metrics": {"a": {"b": float("nan")}}}, "finite number"),
    ({"metrics": {"a": {"b": -1.0}}}, "greater than or equal to 0"),
    ({"title": "x" * 500}, "title"),
]
MODELS = [
    ({"elements": "1-999"}, "elements"),
    ({"elements": "H, C"}, "write them as in 1, 6-9"),
    ({"elements": "9-1"}, "elements"),
    ({"url": "https://example.org/x"}, "belong together"),
    ({"url": "file:///etc/passwd", "sha256": "0" * 64, "bytes": 1}, "should match pattern"),
    ({"url": "https://example.org/x", "sha256": "0", "bytes": 1}, "sha256"),
    ({"url": "https://example.org/x y", "sha256": "0" * 64, "bytes": 1}, "should match pattern"),
    ({"cutoff": -1}, "cutoff"),
    ({"backbone": "macee"}, "did you mean 'mace'?"),
]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [("checkpoints.yaml", *case) for case in HEADS] + [("models.yaml", *case) for case in MODELS],
)
def test_catalogues_that_are_none(tmp_path, monkeypatch, file, content, message):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    if isinstance(content, dict):
        whole = (
            {"checkpoints": {"a": HEAD | content}} if file == "checkpoints.yaml" else {"models": {"a": MODEL | content}}
        )
        content = yaml.safe_dump(whole)
    (tmp_path / file).write_bytes(content.encode() if isinstance(content, str) else content)
    if message is None:
        heads()
        return
    with pytest.raises(ConfigError) as error:
        heads() if file == "checkpoints.yaml" else base_models()
    text = one_line(error)
    assert message in text and str(tmp_path / file) in text and len(text) < 800
    assert text.isprintable()


def test_places_that_are_no_catalogue(tmp_path, monkeypatch):
    (tmp_path / "checkpoints.yaml").mkdir()
    for place in (tmp_path, tmp_path / "nowhere", "\x01"):
        monkeypatch.setenv(VARIABLE, str(place))
        with pytest.raises(ConfigError) as error:
            heads()
        one_line(error)
    monkeypatch.setenv(VARIABLE, "")
    assert set(heads()) == set(heads(own=False))


def test_names_of_what_ships_cannot_be_taken(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    write(tmp_path / "checkpoints.yaml", {"checkpoints": {"hip-so3lr-organic": HEAD}})
    write(tmp_path / "models.yaml", {"models": {"so3lr": MODEL}})
    for read in (heads, base_models):
        with pytest.raises(ConfigError, match="is taken by an entry that ships"):
            read()


def test_a_folder_that_is_not_there(own):
    write(own / "checkpoints.yaml", {"checkpoints": {"gone": HEAD | {"folder": "gone"}}})
    with pytest.raises(CheckpointError, match="which is no folder: correct it"):
        from_pretrained("gone", backbone=ToyBackbone())


def test_licences_and_backbones_are_checked_too():
    good = yaml.safe_load((registry_folder() / "backbones.yaml").read_text(encoding="utf-8"))
    good["licences"]["ASL"]["url"] = "javascript:alert(1)"
    with pytest.raises(ValidationError):
        Backbones.model_validate(good)
