"""Backbones by name: real entry points of throw-away distributions beside the built-in adapters."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toy_backbone import ToyBackbone

import hip_ext
from hip_ext.backbones import Backbone, availability, backbone_class, backbone_kinds, load_backbone
from hip_ext.backbones.frameworks import installed_version, require
from hip_ext.errors import BackboneError, MissingDependencyError


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
    return {one.kind: one for one in availability()}[kind]


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
        "    framework, requirement = 'Needy', 'needy-framework>=2'\n"
    )
    points = {
        "raises": "raises_on_import:Adapter",
        "absent": "a_module_that_is_not_there:Adapter",
        "nameless": "toy_backbone:NotThere",
        "wrong": "toy_backbone:ToyModel",
        "needy": "needs_a_framework:Needy",
        "mace": "toy_backbone:ToyBackbone",
    }
    install(site, "broken", points="\n".join(f"{name} = {value}" for name, value in points.items()))
    hints = {
        "raises": "cannot be imported: no such GPU",
        "absent": "cannot be imported: No module named 'a_module_that_is_not_there'",
        "nameless": "cannot be imported: module 'toy_backbone' has no attribute 'NotThere'",
        "wrong": "is not a subclass of hip_ext.backbones.Backbone",
        "needy": "Needy is not installed: pip install 'needy-framework>=2'",
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


def test_adapter_without_a_loader():
    class Closed(ToyBackbone):
        kind = "closed"
        load = classmethod(Backbone.load.__func__)

    with pytest.raises(
        BackboneError, match="the closed backbone has no loader: construct Closed around a loaded model"
    ):
        Closed.load()
