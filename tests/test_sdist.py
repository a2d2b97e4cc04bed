"""What a stranger gets: the sdist, the wheel made of it, and the README's lines with nothing else near."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from hip_ext.shipped import shipped_checkpoints

ROOT = Path(__file__).resolve().parents[1]
MEGABYTE = 2**20
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
LITTER = (
    ".venv/lib/site.py",
    "runs/mine/last.ckpt",
    "dist/old.whl",
    "site/index.html",
    "hip_ext/__pycache__/head.cpython-311.pyc",
    ".pytest_cache/README.md",
    ".mypy_cache/x.json",
    ".hypothesis/x",
)


def run(*command: object, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def repository() -> set[str]:
    """The files of the repository, also those that are not committed yet."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs git and a checkout")
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    return {name for name in listed.split("\0") if name and (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def built(repository, tmp_path_factory) -> Path:
    """A folder with the sdist of a littered copy of the repository, and the wheel that was made of the sdist."""
    pytest.importorskip("build", reason="needs the extra dev: pip install -e '.[dev]'")
    pytest.importorskip("hatchling", reason="needs the extra dev: pip install -e '.[dev]'")
    folder = tmp_path_factory.mktemp("copy")
    for name in repository:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    for name in LITTER:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("litter")
    out = tmp_path_factory.mktemp("built")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, folder, cwd=out)
    return out


@pytest.fixture(scope="module")
def site(built, tmp_path_factory) -> Path:
    """A folder that has the installed wheel and nothing else; its dependencies come from this environment."""
    folder = tmp_path_factory.mktemp("site")
    (wheel,) = built.glob("*.whl")
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", folder, wheel, cwd=folder)
    return folder


def test_sdist_is_the_repository(built, repository):
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
    assert all(member.isfile() for member in members)
    names = {member.name.split("/", 1)[1] for member in members}
    assert names - {"PKG-INFO"} == repository
    assert not names & set(LITTER)


def test_both_are_small(built):
    files = list(built.iterdir())
    assert len(files) == 2
    for file in files:
        assert file.stat().st_size < 25 * MEGABYTE


def test_wheel_of_the_sdist_has_the_package_and_no_litter(built, repository):
    (wheel,) = built.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    code = {name for name in repository if name.startswith("hip_ext/")}
    assert code <= names
    shipped = {name for name in repository if name.startswith(("registry/", "checkpoints/", "examples/molecules/"))}
    assert len(names) == len(code) + len(shipped)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_lines_of_the_readme_run_from_the_wheel(block, site, tmp_path):
    """As they are printed, in a fresh process that finds the wheel's package, its checkpoint and its entry points."""
    pytest.importorskip("so3krates_torch", reason="SO3LR is not installed")
    if "from_pretrained(" in block and "hip-so3lr-organic" not in shipped_checkpoints():
        pytest.skip("the checkpoint hip-so3lr-organic is not in this checkout")
    (tmp_path / "lines.py").write_text(block, encoding="utf-8")
    check = f"import hip_ext, runpy; assert hip_ext.__file__.startswith({str(site)!r}); runpy.run_path('lines.py')"
    run(sys.executable, "-c", check, cwd=tmp_path, PYTHONPATH=str(site))


def test_every_import_is_of_a_declared_dependency():
    """Not of a package that happens to come with another one, but for plug-ins, which are parts of a framework."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = names_of(project["dependencies"]).union(*map(names_of, project["optional-dependencies"].values()))
    homes, missing = packages_distributions(), set()
    for path in sorted(set((ROOT / "hip_ext").rglob("*.py")) - set((ROOT / "hip_ext/plugins").rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for module in imported(node) & homes.keys():  # those of frameworks that are not here cannot be looked up
                if not {canonicalize_name(name) for name in homes[module]} & (declared | {"hip-ext"}):
                    missing.add(f"{path.relative_to(ROOT)} imports {module}")
    assert not missing


def names_of(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in requirements}


def imported(node: ast.AST) -> set[str]:
    """Top-level modules of an import statement."""
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        return {node.module.split(".")[0]}
    return set()
