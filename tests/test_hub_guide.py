"""docs/hub.md as it is printed: its code runs against a Hub, its commands run, its catalogue is one."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_client import client_environment
from local_hub import TOKEN, LocalHub

from hip_ext.catalogue import VARIABLE

GUIDE = (Path(__file__).parents[1] / "docs" / "hub.md").read_text(encoding="utf-8")
CODE = re.findall(r"```python\n(.*?)```", GUIDE, flags=re.DOTALL)
COMMANDS = re.findall(r"^\$ hip-ext (.+)$", GUIDE, flags=re.MULTILINE)
ENTRIES = re.findall(r"```yaml\n(.*?)```", GUIDE, flags=re.DOTALL)

pytest.importorskip("so3krates_torch", reason="needs so3krates-torch")


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Iterator[dict[str, str]]:
    home = tmp_path_factory.mktemp("home")
    for text in ENTRIES:
        (home / f"{text.partition(':')[0]}.yaml").write_text(text, encoding="utf-8")
    with LocalHub() as hub:
        yield client_environment(hub.endpoint, home, HF_TOKEN=TOKEN, **{VARIABLE: str(home)})


def run(environment: dict[str, str], folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_guide_runs_as_it_is_printed(environment, tmp_path):
    said = run(environment, tmp_path, "-c", "\n".join(CODE))
    assert "there is no repository" in said and said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    assert len(COMMANDS) == 6
    found = {command: run(environment, tmp_path, "-m", "hip_ext.cli", *command.split()) for command in COMMANDS}
    assert "water" in found["models"] and "our-mace" in found["models"]
    assert "none: untrained" in found["checkpoint inspect me/my-head"]
    assert "Hessian of" in found["checkpoint verify me/my-head@main"]
    code = "from hip_ext import from_pretrained\nprint(from_pretrained('water').backbone.kind)"
    assert run(environment, tmp_path, "-c", code).strip() == "so3lr"
