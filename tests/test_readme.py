"""Every Python block of the README runs as it is printed there, and every command that it names exists.

`make test-wheel` names another interpreter for the blocks, that of an empty environment with the built wheel.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hip_ext.cli import app
from hip_ext.shipped import shipped_checkpoints

README = Path(__file__).resolve().parents[1] / "README.md"
PYTHON = os.environ.get("README_PYTHON", sys.executable)
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
COMMANDS = sorted(set(re.findall(r"^hip-ext ([\w-]+)", README.read_text(encoding="utf-8"), flags=re.MULTILINE)))


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_python_block_runs(block, tmp_path):
    pytest.importorskip("so3krates_torch", reason="SO3LR is not installed")
    if "from_pretrained(" in block and "hip-so3lr-organic" not in shipped_checkpoints():
        pytest.skip("the checkpoint hip-so3lr-organic is not in this checkout")
    done = subprocess.run([PYTHON, "-c", block], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_command_exists(command):
    assert CliRunner().invoke(app, [command, "--help"]).exit_code == 0
