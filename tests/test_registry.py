"""Backbones by name: real entry points of throw-away distributions beside the built-in adapters."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toy_backbone import ToyBackbone
from typer.testing import CliRunner

import hip_ext
from hip_ext.backbones import (
    Backbone,
    availability,
    backbone_class,
    backbone_kinds,
    load_backbone,
    register_backbone,
)
from hip_ext.backbones.declared import registered
from hip_ext.backbones.frameworks import installed_version, require
from hip_ext.cli import app
from hip_ext.errors import BackboneError, MissingDependencyError
from hip_ext.model import attach_head


def install(folder: Path, name: str, version: str = "1.0", points: str = "") -> None:
    """Writes the metadata of a distribution, as an installer does."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[hip_ext.backbones]\n{points}\n" if points else "")


@pytest.fixture
def site(tmp_path, monkeypatch) -> Path:
    """A folder that comes first on the path of modules and of distributions."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def status(kind: str):
    """Of the adapter that has the name, which comes before others that want it."""
    return next(one for one in availability() if one.kind == kind)


def test_built_in_adapters_are_known():
    assert {"mace", "so3lr"} <= set(backbone_kinds())
    assert backbone_kinds() == sorted(backbone_kinds())
    for kind in ("mace", "so3lr"):
        adapter = backbone_class(kind)
        assert issubclass(adapter, Backbone)
        assert adapter.kind == adapter.extra == kind
        assert status(kind).package == adapter.requirement.split(">")[0]
        assert status(kind).version == installed_version(adapter.requirement)


def test_the_extras_install_what_the_adapters_need():
    tomllib = pytest.importorskip("tomllib")
    project = Path(hip_ext.__file__).parents[1] / "pyproject.toml"
    if not project.is_file():
        pytest.skip("needs the source tree")
    extras = tomllib.loads(project.read_text())["project"]["optional-dependencies"]
    for kind in ("mace", "so3lr"):
        assert backbone_class(kind).requirement in extras[backbone_class(kind).extra]


def test_nothing_of_a_framework_is_imported_before_it_is_loaded():
    code = (
        "import sys\n"
        "from hip_ext.backbones import availability, backbone_class, backbone_kinds\n"
        "[backbone_class(kind) for kind in backbone_kinds()], availability()\n"
        "loaded = {'mace', 'e3nn', 'so3krates_torch', 'fairchem', 'sevenn'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(hip_ext.__file__).parents[1])


@pytest.mark.parametrize(
    ("wrong", "meant"), [("mce", "mace"), ("MACE", None), ("so3l", "so3lr"), ("so3krates", None), ("", None)]
)
def test_wrong_name(wrong, meant):
    with pytest.raises(BackboneError, match=rf"no backbone '{wrong}'.*known are .*mace.*so3lr") as error:
        load_backbone(wrong)
    if meant:
        assert f"did you mean '{meant}'?" in str(error.value)


@pytest.mark.parametrize(
    ("kind", "wrong", "message"),
    [
        ("mace", "hed", "the mace backbone has no option 'hed'; did you mean 'head'"),
        ("so3lr", "head", "the so3lr backbone has no option 'head'; it has dispersion_damping, long_"),
    ],
)
def test_wrong_option(kind, wrong, message):
    requirement = backbone_class(kind).requirement
    if installed_version(requirement) is None:
        pytest.skip(f"needs {requirement}")
    with pytest.raises(BackboneError, match=message):
        load_backbone(kind, "my.model", **{wrong: "dft"})


def test_missing_framework():
    with pytest.raises(MissingDependencyError, match=r"^MACE is not installed: pip install 'hip-ext\[mace\]'$"):
        require("MACE", "mace-torch-of-another-world>=0.3.16,<0.4", "mace")
    with pytest.raises(MissingDependencyError, match=r"^It is not installed: pip install 'surely-not-there>=1'$"):
        require("It", "surely-not-there>=1")


@pytest.mark.parametrize("version", ["0.2.0", "0.3.0", "1.0"])
def test_unsupported_version(site, version):
    install(site, "so3krates-torch", version)
    expected = rf"so3krates-torch {version} is installed, but the adapter of SO3LR needs .*hip-ext\[so3lr\]"
    with pytest.raises(BackboneError, match=expected):
        load_backbone("so3lr")
    with pytest.raises(BackboneError, match=expected):
        backbone_class("so3lr").load()
    assert not status("so3lr").usable
    assert status("so3lr").version == version
    assert "0.2.1" in status("so3lr").hint


def test_third_party_adapter(site):
    install(site, "toys", points="toy = toy_backbone:ToyBackbone")
    assert "toy" in backbone_kinds()
    assert status("toy").usable
    assert status("toy").package == ""
    backbone = load_backbone("toy", dtype=torch.float64, channels=3)
    assert isinstance(backbone, ToyBackbone)
    assert backbone.widths == (6, 3, 3)


def test_broken_third_party_adapters_do_not_break_the_others(site):
    (site / "raises_on_import.py").write_text("raise RuntimeError('no such GPU\\nand more lines')\n")
    (site / "needs_a_framework.py").write_text(
        "from toy_backbone import ToyBackbone\n"
        "class Needy(ToyBackbone):\n"
        "    kind, framework, requirement = 'needy', 'Needy', 'needy-framework>=2'\n"
        "class Malformed(ToyBackbone):\n"
        "    kind, requirement = 'malformed', 'needy framework >= two'\n"
    )
    (site / "leaves.py").write_text("raise SystemExit('no licence')\n")
    points = {
        "raises": "raises_on_import:Adapter",
        "absent": "a_module_that_is_not_there:Adapter",
        "nameless": "toy_backbone:NotThere",
        "wrong": "toy_backbone:ToyModel",
        "needy": "needs_a_framework:Needy",
        "malformed": "needs_a_framework:Malformed",
        "leaves": "leaves:Adapter",
        "abstract": "hip_ext.backbones:Backbone",
        "renamed": "toy_backbone:ToyBackbone",
        "mace": "toy_backbone:ToyBackbone",
    }
    install(site, "broken", points="\n".join(f"{name} = {value}" for name, value in points.items()))
    hints = {
        "raises": "cannot be imported: no such GPU",
        "absent": "cannot be imported: No module named 'a_module_that_is_not_there'",
        "nameless": "cannot be imported: module 'toy_backbone' has no attribute 'NotThere'",
        "wrong": "is not a subclass of hip_ext.backbones.Backbone",
        "needy": "Needy is not installed: pip install 'needy-framework>=2'",
        "malformed": "has the requirement 'needy framework >= two'",
        "leaves": "cannot be imported: no licence",
        "abstract": "has no calculator, energy, evaluate, features, prepare",
        "renamed": "calls itself 'toy': give the class and its entry point the same name",
    }
    for kind, hint in hints.items():
        found = status(kind)
        assert not found.usable
        assert hint in found.hint
        assert "\n" not in found.hint
        with pytest.raises((BackboneError, MissingDependencyError), match=hint.split(":")[0]):
            load_backbone(kind)
    assert backbone_class("mace").__name__ == "MACEBackbone"
    assert status("so3lr").usable == (status("so3lr").version is not None)


def test_a_name_that_several_want_belongs_to_the_first_and_the_others_are_shown(site):
    (site / "two_adapters.py").write_text(
        "from toy_backbone import ToyBackbone\nclass One(ToyBackbone): pass\nclass Two(ToyBackbone): pass\n"
    )
    install(site, "zeta", points="toy = two_adapters:One")
    install(site, "alpha", "2.1", points="toy = two_adapters:Two\nso3lr = two_adapters:One")
    assert backbone_class("toy").__name__ == "Two"
    first, second = (one for one in availability() if one.kind == "toy")
    assert (first.origin, first.usable, first.hint) == ("alpha 2.1", True, "")
    assert (second.origin, second.usable) == ("zeta 1.0", False)
    assert second.hint == ("the name 'toy' is taken by alpha 2.1 (two_adapters:Two): two_adapters:One needs another")
    ours, other = (one for one in availability() if one.kind == "so3lr")
    assert (ours.origin, other.origin) == ("hip-ext", "alpha 2.1")
    assert "taken by hip-ext" in other.hint


def test_an_older_copy_further_down_the_path_does_not_count(site, monkeypatch):
    hidden = site / "hidden"
    hidden.mkdir()
    install(hidden, "toys", "0.9", points="old = toy_backbone:ToyBackbone\ntoy = toy_backbone:Gone")
    monkeypatch.syspath_prepend(hidden)
    monkeypatch.syspath_prepend(site)
    install(site, "Toys", points="toy = toy_backbone:ToyBackbone")
    assert [(one.kind, one.origin) for one in availability() if one.kind in ("toy", "old")] == [("toy", "toys 1.0")]


def test_entry_points_that_cannot_be_read_stop_nobody(site):
    install(site, "sound", points="toy = toy_backbone:ToyBackbone")
    install(site, "sloppy", points="no equals sign here")
    install(site, "hostile", points="[red]a name\x1b[2J = toy_backbone:ToyBackbone\n../up = toy_backbone:ToyBackbone")
    (site / "binary-1.0.dist-info").mkdir()
    (site / "binary-1.0.dist-info/entry_points.txt").write_bytes(b"\xff\xfe[hip_ext.backbones]\n")
    assert isinstance(load_backbone("toy"), ToyBackbone)
    assert "the entry points of sloppy 1.0 cannot be read" in status("sloppy").hint
    found = [one for one in availability() if one.origin == "hostile 1.0"]
    assert found
    assert not any(one.usable or one.kind in backbone_kinds() for one in found)
    shown = CliRunner().invoke(app, ["backbones"])
    assert shown.exit_code == 0
    assert "cannot be the name of a backbone" in shown.stdout
    assert "\x1b" not in shown.stdout
    assert {"sloppy", "toy"} <= {
        one["kind"] for one in json.loads(CliRunner().invoke(app, ["backbones", "--json"]).stdout)
    }


@pytest.fixture
def clean_registry(monkeypatch):
    """What a test registers is forgotten after it."""
    for kind in list(registered):
        monkeypatch.delitem(registered, kind)
    yield
    registered.clear()


def adapter(name: str, kind: str = "mine") -> type[ToyBackbone]:
    return type(name, (ToyBackbone,), {"kind": kind, "__module__": __name__, "__qualname__": name})


@pytest.mark.usefixtures("clean_registry")
def test_an_adapter_registered_by_the_decorator(site):
    install(site, "toys", points="mine = toy_backbone:ToyBackbone")
    mine = adapter("Mine")
    assert register_backbone(mine) is mine
    assert backbone_class("mine") is mine
    assert isinstance(load_backbone("mine", channels=3), mine)
    first, second = (one for one in availability() if one.kind == "mine")
    assert (first.origin, first.usable, second.origin, second.usable) == ("this process", True, "toys 1.0", False)
    again = adapter("Mine")  # a notebook's cell, run once more
    register_backbone(again)
    assert backbone_class("mine") is again
    assert attach_head("mine").backbone.source.kind == "mine"


@pytest.mark.usefixtures("clean_registry")
def test_an_entry_point_to_a_registered_class_is_the_same_declaration(site):
    install(site, "toys", points="toy = toy_backbone:ToyBackbone")
    register_backbone(ToyBackbone)
    (only,) = (one for one in availability() if one.kind == "toy")
    assert (only.origin, only.usable) == ("this process", True)


@pytest.mark.usefixtures("clean_registry")
def test_what_cannot_be_registered():
    register_backbone(adapter("Mine"))
    for wrong, message in [
        (adapter("Other"), r"^the mine backbone is test_registry:Mine already: give test_registry:Other another kind$"),
        (adapter("Other", "mace"), r"^the mace backbone is hip_ext\.backbones\.mace:MACEBackbone already"),
        (adapter("Other", "a b"), r"cannot be registered: its kind is 'a b', expected a name such as"),
        (type("Model", (), {"kind": "model"}), "is not a subclass of hip_ext.backbones.Backbone"),
        (type("Half", (Backbone,), {"kind": "half"}), r"has no calculator, energy, evaluate, features, prepare"),
        (type("Nameless", (ToyBackbone,), {"kind": None}), "its kind is None"),
        (ToyBackbone(), r"^expected an adapter's class to register, found a ToyBackbone$"),
        (None, r"found a NoneType"),
    ]:
        with pytest.raises(BackboneError, match=message) as error:
            register_backbone(wrong)
        assert "\n" not in str(error.value)
    assert set(registered) == {"mine"}


def test_adapter_without_a_loader():
    class Closed(ToyBackbone):
        kind = "closed"
        load = classmethod(Backbone.load.__func__)

    with pytest.raises(
        BackboneError, match="the closed backbone has no loader: construct Closed around a loaded model"
    ):
        Closed.load()
