"""The wheel: what is in it, and that it works where no checkout is near."""

import ast
import json
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

import hip_ext
from hip_ext import shipped
from hip_ext.errors import HipExtError

ROOT = Path(__file__).resolve().parents[1]
FRAMEWORKS = {"mace", "fairchem", "so3krates_torch", "sevenn", "e3nn"}
MAY_IMPORT_FRAMEWORKS = {"backbones", "plugins", "integrations", "testing"}
CORE_MODULES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "hip_ext").rglob("*.py")
    if path.relative_to(ROOT / "hip_ext").parts[0] not in MAY_IMPORT_FRAMEWORKS
)
MEGABYTE = 2**20
LOADED = 'sorted({name.split(".")[0] for name in sys.modules})'


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this tree by the tools of the `dev` extra."""
    pytest.importorskip("build", reason="needs the extra dev: pip install -e '.[dev]'")
    pytest.importorskip("hatchling", reason="needs the extra dev: pip install -e '.[dev]'")
    out = tmp_path_factory.mktemp("wheel")
    run("-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def target(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that has the installed wheel and nothing else; its dependencies come from this environment."""
    folder = tmp_path_factory.mktemp("target")
    run("-m", "pip", "install", "--no-deps", "--no-index", "--target", folder, wheel, cwd=folder)
    return folder


@pytest.fixture(scope="session")
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def catalogue() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "registry/backbones.yaml").read_text(encoding="utf-8"))


def run(*command: object, cwd: Path, **environment: str) -> str:
    """Runs this interpreter with a command line and returns what it printed."""
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def ask(target: Path, cwd: Path, code: str) -> Any:
    """Runs code in a fresh interpreter that finds the installed wheel first; returns what it printed, as JSON."""
    timed = "import json, pathlib, sys, time\nstart = time.process_time()\nimport hip_ext\n"
    timed += "seconds = time.process_time() - start\n"
    check = f"assert pathlib.Path(hip_ext.__file__).is_relative_to({str(target)!r}), hip_ext.__file__\n"
    return json.loads(run("-c", timed + check + code, cwd=cwd, PYTHONPATH=str(target)).splitlines()[-1])


def test_wheel_has_one_top_level_package(wheel: Path):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"hip_ext", "hip_ext-0.1.0.dist-info"}
    assert len(names) == len(set(names))


def test_wheel_has_every_module_and_the_shipped_folders(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "hip_ext").rglob("*.py")}
    assert modules <= names
    for folder in ("registry", "checkpoints"):
        here = {path.relative_to(ROOT / folder).as_posix() for path in tracked(ROOT / folder)}
        assert here, f"{folder}/ is empty"
        assert here == {name.removeprefix(f"hip_ext/_{folder}/") for name in names if f"hip_ext/_{folder}/" in name}


def test_reports_are_written_from_the_wheel(wheel: Path, target: Path, tmp_path: Path):
    """With the script and the style that lie beside the modules, which are small."""
    assets = [item for item in zipfile.ZipFile(wheel).infolist() if item.filename.startswith("hip_ext/report/assets/")]
    assert {Path(item.filename).name for item in assets} == {"report.css", "report.js", "viewer.js"}
    assert sum(item.file_size for item in assets) < 64 * 1024
    code = "from hip_ext.report import Note, write_report\nwrite_report('r.html', 'Title', [Note('text')])\nprint(1)"
    assert ask(target, tmp_path, code) == 1
    assert "class Viewer" in (tmp_path / "r.html").read_text(encoding="utf-8")


def tracked(folder: Path) -> list[Path]:
    """The files below a folder that belong to it, which caches and hidden temporary files do not."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return [
        path for path in files if not any(p.startswith((".", "__pycache__")) for p in path.relative_to(folder).parts)
    ]


def test_wheel_has_no_tests_no_caches_and_no_pickles(wheel: Path):
    for name in zipfile.ZipFile(wheel).namelist():
        assert not any(part.startswith(".") or part.endswith(("cache__", "_cache")) for part in Path(name).parts)
        assert not Path(name).name.startswith(("test_", "conftest"))
        assert Path(name).suffix not in {".pyc", ".pt", ".pth", ".pkl", ".model"}


def test_wheel_is_small(wheel: Path):
    assert wheel.stat().st_size < 25 * MEGABYTE


def test_metadata_names_extras_licence_and_python(wheel: Path):
    lines = zipfile.ZipFile(wheel).read("hip_ext-0.1.0.dist-info/METADATA").decode().splitlines()
    extras = {line.removeprefix("Provides-Extra: ") for line in lines if line.startswith("Provides-Extra: ")}
    frameworks = {"mace", "so3lr", "fairchem", "sevennet"}
    uses = {"train", "label", "phonons", "thermo", "workflows", "cluster", "integrations"}
    assert extras == frameworks | uses | {"docs", "dev"}
    assert "License-Expression: MIT" in lines
    assert "Requires-Python: >=3.11" in lines


def test_import_is_fast_and_loads_no_framework(target: Path, tmp_path: Path):
    seconds, loaded = ask(target, tmp_path, f"print(json.dumps([seconds, {LOADED}]))")
    assert not set(loaded) & (FRAMEWORKS | {"torch", "numpy", "ase"})
    assert seconds < 1.0


def test_public_names_load_no_framework(target: Path, tmp_path: Path):
    code = f"found = [name for name in hip_ext.__all__ if hasattr(hip_ext, name)]\nprint(json.dumps([found, {LOADED}]))"
    found, loaded = ask(target, tmp_path, code)
    assert found == hip_ext.__all__
    assert not set(loaded) & FRAMEWORKS


def test_installed_wheel_finds_what_it_ships(target: Path, tmp_path: Path):
    code = """
from hip_ext import shipped
folders = [str(shipped.registry_folder()), str(shipped.checkpoints_folder())]
print(json.dumps([folders, shipped.shipped_checkpoints(), hip_ext.__version__]))
"""
    (registry, checkpoints), names, version = ask(target, tmp_path, code)
    assert Path(registry) == target / "hip_ext/_registry"
    assert Path(checkpoints) == target / "hip_ext/_checkpoints"
    assert (Path(registry) / "backbones.yaml").read_bytes() == (ROOT / "registry/backbones.yaml").read_bytes()
    assert names == shipped.shipped_checkpoints()
    assert version == "0.1.0"


def test_entry_points_of_the_installed_wheel_load(target: Path, tmp_path: Path):
    code = """
from importlib.metadata import distribution
points = distribution("hip-ext").entry_points
print(json.dumps({f"{point.group}:{point.name}": callable(point.load()) for point in points}))
"""
    assert ask(target, tmp_path, code) == {
        "console_scripts:hip-ext": True,
        "console_scripts:hip-ext-orca": True,
        "hip_ext.backbones:fairchem": True,
        "hip_ext.backbones:mace": True,
        "hip_ext.backbones:sevennet": True,
        "hip_ext.backbones:so3lr": True,
    }


def test_checkout_finds_its_own_folders():
    assert shipped.registry_folder() == ROOT / "registry"
    assert shipped.checkpoints_folder() == ROOT / "checkpoints"


def test_checkpoint_needs_both_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shipped, "PACKAGE", tmp_path)
    for name, files in {"b": shipped.CHECKPOINT_FILES, "a": shipped.CHECKPOINT_FILES, "c": ["config.json"]}.items():
        (tmp_path / "_checkpoints" / name).mkdir(parents=True)
        for file in files:
            (tmp_path / "_checkpoints" / name / file).touch()
    (tmp_path / "_checkpoints/README.md").touch()
    assert shipped.shipped_checkpoints() == ["a", "b"]


def test_missing_folder_is_one_line_and_not_somebody_elses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "registry").mkdir()
    monkeypatch.setattr(shipped, "PACKAGE", tmp_path / "hip_ext")
    with pytest.raises(HipExtError, match="no registry folder") as caught:
        shipped.registry_folder()
    assert "\n" not in str(caught.value)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Hessian'"):
        hip_ext.Hessian  # noqa: B018
    assert set(hip_ext.__all__) <= set(dir(hip_ext))


@pytest.mark.parametrize("module", CORE_MODULES)
def test_core_imports_no_framework(module: str):
    found = set()
    for node in ast.walk(ast.parse((ROOT / module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(str(node.module).split(".")[0])
    assert not found & FRAMEWORKS


def test_catalogue_agrees_with_the_extras(pyproject: dict[str, Any], catalogue: dict[str, Any]):
    extras = pyproject["project"]["optional-dependencies"]
    for kind, entry in catalogue["backbones"].items():
        assert extras[entry["extra"]] == [entry["package"]], kind
    declared = {frozenset(side["extra"] for side in pair) for pair in pyproject["tool"]["uv"]["conflicts"]}
    listed = {frozenset((kind, other)) for kind, e in catalogue["backbones"].items() for other in e["conflicts"]}
    assert listed == declared
    assert "all" not in extras


def test_catalogue_lists_an_adapter_exactly_where_there_is_one(pyproject: dict[str, Any], catalogue: dict[str, Any]):
    available = {kind for kind, entry in catalogue["backbones"].items() if entry["adapter"] == "available"}
    assert available == set(pyproject["project"]["entry-points"]["hip_ext.backbones"])
    assert {entry["adapter"] for entry in catalogue["backbones"].values()} <= {"available", "planned"}


def test_catalogue_states_what_a_user_must_know(catalogue: dict[str, Any]):
    for kind, entry in catalogue["backbones"].items():
        assert entry["parity"] in {"o3", "so3"}, kind
        assert isinstance(entry["periodic"], bool), kind
        assert entry["units"] == {"length": "Å", "energy": "eV"}, kind
        for family in entry["weights"]["families"]:
            assert atomic_numbers(family.get("elements", "1")) <= set(range(1, 119))
            for model in family["models"]:
                assert model["name"].split(":")[0] == family["source"] or kind == "fairchem"
                assert model["licence"] in {"MIT", *catalogue["licences"]}


@pytest.mark.parametrize(("source", "count"), [("mace_mp", 89), ("mace_off", 10), ("mace_omol", 83), ("so3lr", 8)])
def test_catalogue_counts_elements_as_published(catalogue: dict[str, Any], source: str, count: int):
    families = [family for entry in catalogue["backbones"].values() for family in entry["weights"]["families"]]
    (family,) = (family for family in families if family["source"] == source)
    assert len(atomic_numbers(family["elements"])) == count
    assert f"{count} elements" in family["domain"]


def atomic_numbers(ranges: str) -> set[int]:
    """Reads "1, 6-9" as {1, 6, 7, 8, 9}."""
    numbers: set[int] = set()
    for part in str(ranges).split(","):
        first, _, last = part.partition("-")
        numbers |= set(range(int(first), int(last or first) + 1))
    return numbers
