"""A writer that is killed: whoever reads or writes next finds one whole checkpoint, and every other file."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_checkpoint import FILES, toy_model
from toy_backbone import ToyBackbone

from hip_ext import HessianModel, from_pretrained
from hip_ext.checkpoint import replacement

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that can be forked and killed")

STEPS = [(os, name) for name in ("rename", "mkdir", "unlink", "rmdir")]
STEPS += [(replacement, "_exchange"), (Path, "write_bytes")]


@pytest.fixture(params=["exchange", "two renames"])
def how(request, monkeypatch) -> str:
    if request.param == "two renames":
        monkeypatch.setattr(replacement, "_exchanging_call", lambda: None)
    elif replacement._exchanging_call() is None:
        pytest.skip("this system cannot exchange two folders in one step")
    return request.param


@pytest.fixture(scope="module")
def models() -> list[HessianModel]:
    return [toy_model(seed=seed) for seed in (0, 1)]


@pytest.fixture
def folder(models, tmp_path) -> Path:
    models[0].save_pretrained(tmp_path / "head")
    (tmp_path / "head" / "notes").mkdir()
    (tmp_path / "head" / "notes" / "a.txt").write_text("mine")
    return tmp_path / "head"


def in_a_child(work: Callable[[], None], delay: float | None = None) -> int:
    """Runs something in a forked process, killed after a delay in seconds; returns the signal that ended it, or 0."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    if delay is not None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


def check(folder: Path, models: list[HessianModel]) -> None:
    """One of the two heads is there; a further writer succeeds, brings back what is not ours, and leaves no rest."""
    found = from_pretrained(folder, backbone=ToyBackbone()).head.state_dict()
    assert any(
        all(torch.equal(found[name], value) for name, value in model.head.state_dict().items()) for model in models
    )
    models[0].save_pretrained(folder)
    assert (folder / "notes" / "a.txt").read_text() == "mine"
    assert {path.name for path in folder.iterdir()} == FILES | {"notes"}
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def die_at(step: int) -> None:
    """Has the next changes of the file system counted, and this process killed just before the one of that number."""
    count = [0]
    for place, name in STEPS:
        original = getattr(place, name)

        def counted(*args: object, original: Callable = original, **options: object) -> object:
            if count[0] == step:
                os.kill(os.getpid(), signal.SIGKILL)
            count[0] += 1
            return original(*args, **options)

        setattr(place, name, counted)


def test_killed_before_every_single_step(folder, models, how):
    for step in range(100):
        if not in_a_child(lambda step=step: (die_at(step), models[1].save_pretrained(folder))):
            break
        check(folder, models)
    assert 8 < step < 99
    found = from_pretrained(folder, backbone=ToyBackbone()).head.state_dict()
    assert all(torch.equal(found[name], value) for name, value in models[1].head.state_dict().items())


def test_killed_at_random_moments(folder, models, how):
    def work() -> None:
        while True:
            for model in models[::-1]:
                model.save_pretrained(folder)

    moments = random.Random(0)
    for _ in range(25):
        assert in_a_child(work, delay=moments.uniform(0.0, 0.06)) == signal.SIGKILL
        check(folder, models)


def test_a_first_checkpoint_that_was_killed_is_not_there(tmp_path, models):
    for step in (2, 3, 4):
        assert in_a_child(lambda step=step: (die_at(step), models[1].save_pretrained(tmp_path / "head")))
        assert not (tmp_path / "head").exists()
    models[1].save_pretrained(tmp_path / "head")
    assert {path.name for path in tmp_path.iterdir()} == {"head"}


def test_what_another_process_is_writing_is_left_alone(folder, models, tmp_path):
    with replacement.replacing(folder, FILES) as new:
        shutil.copytree(folder, new, dirs_exist_ok=True, ignore=shutil.ignore_patterns("notes"))
        assert in_a_child(lambda: models[1].save_pretrained(folder)) == 0
        assert new.is_dir()
        found = from_pretrained(folder, backbone=ToyBackbone()).head.state_dict()
        assert torch.equal(found["curvature.weight"], models[1].head.curvature.weight)
    check(folder, models)
