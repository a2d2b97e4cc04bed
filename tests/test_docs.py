"""The pages of docs/: their Python runs (TEMPLATES apart), their commands exist, and they build without a warning.

Blocks of evaluation.md, hub.md, labels.md, scaling.md and training.md run in the tests of those parts, and
new_backbone.md prints files of a package that has tests of its own.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner

from hip_ext.cli import app
from hip_ext.shipped import shipped_checkpoints

ROOT = Path(__file__).resolve().parents[1]
PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
RUN_HERE = (
    "index.md",
    "checkpoints.md",
    "data.md",
    "integrations.md",
    "optimisation.md",
    "phonons.md",
    "refinement.md",
    "reports.md",
    "transition_states.md",
    "vibrations.md",
)
RUN_ELSEWHERE = ("evaluation.md", "hub.md", "labels.md", "new_backbone.md", "scaling.md", "training.md")
TEMPLATES = ("fairchem.md", "install.md", "mace_training.md")
"""Their blocks name files and structures of the reader's: they are parsed, and what they import of hip_ext is there."""


def blocks(name: str, *languages: str) -> list[str]:
    return re.findall(rf"```(?:{'|'.join(languages)})\n(.*?)```", PAGES[name], flags=re.DOTALL)


def test_every_page_with_python_is_run_somewhere():
    assert {name for name in PAGES if blocks(name, "python")} == {*RUN_HERE, *RUN_ELSEWHERE, *TEMPLATES}


@pytest.mark.parametrize("page", RUN_HERE)
def test_python_of_the_page_runs(page, tmp_path):
    """Block by block in one folder, each with names of its own, as somebody who copies them."""
    text = "".join(blocks(page, "python"))
    if "so3lr" in text:
        pytest.importorskip("so3krates_torch", reason="SO3LR is not installed")
    if "hip_ext.integrations.phonopy" in text:
        pytest.importorskip("phonopy", reason="phonopy is not installed: pip install 'hip-ext[phonons]'")
    if "hip-so3lr-organic" in text and "hip-so3lr-organic" not in shipped_checkpoints():
        pytest.skip("the checkpoint hip-so3lr-organic is not in this checkout")
    runner = "import json, sys\nfor block in json.load(sys.stdin): exec(compile(block, 'block', 'exec'), {})"
    done = subprocess.run(
        [sys.executable, "-c", runner],
        input=json.dumps(blocks(page, "python")),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", TEMPLATES)
def test_names_in_a_template_exist(page):
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "hip_ext":
                place = ROOT / str(node.module).replace(".", "/")
                source = (place / "__init__.py" if place.is_dir() else place.with_suffix(".py")).read_text("utf-8")
                for alias in node.names:
                    assert re.search(rf"\b{alias.name}\b", source), f"{node.module} has no {alias.name}"


@pytest.mark.parametrize("page", [name for name in PAGES if blocks(name, "bash", "console")])
def test_commands_of_the_page_exist(page):
    """With every option that is shown."""
    text = "\n".join(blocks(page, "bash", "console")).replace("\\\n", " ")
    for line in re.findall(r"^(?:\$ )?hip-ext ([^#\n]*)", text, flags=re.MULTILINE):
        words = line.split()
        command, names = typer.main.get_command(app), []
        while words and hasattr(command, "commands"):
            if command.invoke_without_command and words[0].startswith("-"):
                break  # the group is a command too, and this is an option of its own
            names.append(words.pop(0))
            assert names[-1] in command.commands, f"hip-ext {' '.join(names)}"
            command = command.commands[names[-1]]
        if command.context_settings.get("ignore_unknown_options"):
            continue  # hands them on to a framework
        assert CliRunner().invoke(app, [*names, "--help"]).exit_code == 0
        known = {option for parameter in command.params for option in parameter.opts + parameter.secondary_opts}
        for option in (word.split("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)):
            assert option in known, f"hip-ext {' '.join(names)} {option}"


def test_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert f"({project['version']})" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_site_builds_without_a_warning(tmp_path):
    """Links, navigation, and the docstrings of the reference against their signatures."""
    pytest.importorskip("mkdocs", reason="needs the extra docs: pip install -e '.[docs]'")
    pytest.importorskip("mkdocstrings", reason="needs the extra docs: pip install -e '.[docs]'")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site/index.html").is_file()
    reference = (tmp_path / "site/reference/models/index.html").read_text(encoding="utf-8")
    assert 'id="hip_ext.model.HessianModel.energy_forces_hessian"' in reference
