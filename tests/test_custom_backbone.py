"""The example of a backbone in a package of its own: installed beside hip-ext, tested by its own tests, documented."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples/custom_backbone"
PAGE = ROOT / "docs/new_backbone.md"


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder that has the installed package, and its tests in `tests/`; the checkout's sources are out of reach."""
    pytest.importorskip("hatchling", reason="needs the extra dev: pip install -e '.[dev]'")
    folder = tmp_path_factory.mktemp("custom")
    shutil.copytree(EXAMPLE, folder / "source", ignore=shutil.ignore_patterns("__pycache__", ".*"))
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*install, "--target", folder / "site", folder / "source"], check=True, capture_output=True)
    shutil.move(folder / "source/tests", folder / "tests")
    shutil.rmtree(folder / "source")
    return folder


def run(folder: Path, *command: str) -> str:
    environment = os.environ | {"PYTHONPATH": f"{folder / 'site'}{os.pathsep}{ROOT}", "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_package_passes_its_own_tests(installed):
    """The conformance suite, a head, a distillation, a checkpoint in another process."""
    found = run(installed, "pytest", "-q", "-rs", "-p", "no:cacheprovider", "tests").splitlines()
    passed, skipped = re.match(r"(\d+) passed(?:, (\d+) skipped)?", found[-1]).groups()
    assert int(passed) > 60
    reasons = [line for line in found if line.startswith("SKIPPED")]
    assert len(reasons) == int(skipped or 0)
    assert all("CUDA" in line for line in reasons)


def test_the_command_line_knows_the_package(installed):
    assert re.search(r"cartnet +cartnet 0\.1\.0 .* yes", run(installed, "hip_ext.cli", "backbones"))


def test_the_documentation_prints_the_files_of_the_package():
    """Every block of the page under the name of a file is that file, or the named part of it, to the letter."""
    page = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"^`([\w/.]+)`[^\n]*:\n\n```(?:python|toml)\n(.*?)```", page, flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) == len(re.findall(r"^```(?:python|toml)", page, flags=re.MULTILINE))
    assert {name for name, _ in blocks} == {
        "pyproject.toml",
        "src/cartnet/hessian.py",
        "tests/test_conformance.py",
    }
    for name, block in blocks:
        text = (EXAMPLE / name).read_text(encoding="utf-8")
        assert block == text if name.endswith(".py") else block in text, name  # of pyproject.toml, a part
    assert sum(block.count("\n") for _, block in blocks) < 130
