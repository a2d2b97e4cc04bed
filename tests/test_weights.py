"""Files of base models by URL and sha256, from a server with faults, and what is said about their licences."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ase.build import molecule
from backbone_cases import random_mace
from local_hub import LocalHub
from test_checkpoint import SMALL, one_line

from hip_ext import attach_head, from_pretrained
from hip_ext.backbones import load_backbone, released, weights
from hip_ext.backbones.weights import fetch_weights
from hip_ext.catalogue import VARIABLE
from hip_ext.errors import BackboneError

DATA = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(DATA).hexdigest()
FETCH = "from hip_ext.backbones.weights import fetch_weights\nprint(fetch_weights('m', {!r}, {!r}, {}))"


@pytest.fixture(scope="module")
def hub() -> Iterator[LocalHub]:
    with LocalHub() as hub:
        hub.others["my.model"] = DATA
        yield hub


@pytest.fixture(autouse=True)
def cache(hub, tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(weights, "WAITS", (0.01,) * 3)
    monkeypatch.setattr(released, "_told", set())
    hub.requests.clear()
    return tmp_path / "hip-ext" / "weights"


def fetch(hub: LocalHub, name: str = "my.model", sha256: str = SHA256, size: int = len(DATA)) -> Path:
    return fetch_weights("my-model", f"{hub.files}/{name}", sha256, size)


def refused(hub: LocalHub, **options: Any) -> str:
    with pytest.raises(BackboneError) as error:
        fetch(hub, **options)
    return one_line(error)


def kept(cache: Path) -> set[str]:
    return {path.name for path in cache.iterdir() if path.suffix != ".lock"}


def test_a_file_is_fetched_once(hub, cache):
    assert fetch(hub).read_bytes() == DATA
    assert fetch(hub) == cache / f"{SHA256}.model"
    assert len(hub.requests) == 1 and kept(cache) == {f"{SHA256}.model"}


def test_a_dropped_connection_is_gone_on_with(hub, cache):
    with hub.fault("GET /my.model", "drop", times=2):
        assert fetch(hub).read_bytes() == DATA
    assert [headers.get("range", "").partition("=")[0] for _, _, headers in hub.requests] == ["", "bytes", "bytes"]


def test_a_busy_server_is_asked_again(hub):
    with hub.fault("GET /my.model", 503, times=2):
        assert fetch(hub).read_bytes() == DATA


def test_what_cannot_be_had(hub, cache):
    assert "HTTP 404" in refused(hub, name="not.model") and len(hub.requests) == 1
    with hub.fault("GET /my.model", 500, times=9) as fault:
        assert "HTTP 500" in refused(hub) and fault.seen == 4
    with pytest.raises(BackboneError, match=r"could not be fetched from http://127\.0\.0\.1:9/x"):
        fetch_weights("my-model", "http://127.0.0.1:9/x", SHA256, 10)
    assert kept(cache) == set()


def test_another_file_is_not_kept(hub, cache):
    with hub.fault("GET /my.model", "spoil"):
        assert "the catalogue says" in refused(hub)
    assert kept(cache) == set()
    assert "it is another file" in refused(hub, sha256="0" * 64)
    assert "it ended after" in refused(hub, size=len(DATA) + 1)
    assert fetch(hub).read_bytes() == DATA


def test_more_than_was_said_is_not_taken(hub, cache):
    assert "more than the 1000 bytes" in refused(hub, size=1000, sha256="1" * 64)
    assert sum(path.stat().st_size for path in cache.iterdir()) <= 1000


def start(hub: LocalHub) -> subprocess.Popen[str]:
    code = FETCH.format(f"{hub.files}/my.model", SHA256, len(DATA))
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def test_a_kill_in_the_middle_is_gone_on_with(hub, cache):
    with hub.fault("GET /my.model", "stall") as fault:
        victim = start(hub)
        assert fault.reached.wait(60)
        while not (cache / f"{SHA256}.part").exists() or not (cache / f"{SHA256}.part").stat().st_size:
            assert victim.poll() is None
        os.kill(victim.pid, signal.SIGKILL)
        victim.communicate()
    assert kept(cache) == {f"{SHA256}.part"}
    assert fetch(hub).read_bytes() == DATA
    assert int(hub.requests[-1][2]["range"].strip("bytes=-")) > 0
    assert kept(cache) == {f"{SHA256}.model"}


def test_two_processes_at_once_fetch_once(hub, cache):
    both = [start(hub), start(hub)]
    assert {one.communicate()[0].strip() for one in both} == {str(cache / f"{SHA256}.model")}
    assert len(hub.requests) == 1


def test_a_place_where_nothing_can_be_kept(hub, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "cannot be kept" in refused(hub)


def test_a_model_of_ones_own_catalogue(hub, cache, tmp_path, monkeypatch, capsys):
    """By its name it is fetched, put to use, saved with a head, and found again by whoever has the same catalogue."""
    torch.save(random_mace(), tmp_path / "random.model")
    data = (tmp_path / "random.model").read_bytes()
    hub.others["random.model"] = data
    entry = {
        "backbone": "mace", "title": "random weights", "elements": "1, 6-8", "training": "none", "licence": "ASL",
        "url": f"{hub.files}/random.model", "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data),
    }  # fmt: skip
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "models.yaml").write_text(json.dumps({"models": {"my-mace": entry}}))
    with pytest.raises(BackboneError, match="no MACE model file at 'my-mace'"):
        load_backbone("mace", "my-mace")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "own"))
    model = attach_head("mace", SMALL, source="my-mace")
    assert model.backbone.source.name == "my-mace"
    said = capsys.readouterr().err
    assert said.count("does not permit commercial use: https://github.com/gabor1/ASL (said once)") == 1
    model.save_pretrained(tmp_path / "head")
    config = json.loads((tmp_path / "head" / "config.json").read_text())
    assert (config["backbone"]["name"], config["backbone"]["source"]) == ("my-mace", "release")
    assert str(tmp_path) not in json.dumps(config)
    again = from_pretrained(tmp_path / "head")
    atoms = molecule("H2O")
    assert torch.equal(again.hessian(atoms).dense(), model.hessian(atoms).dense())
    assert len(hub.requests) == 1


def test_licences_are_told_once_a_user(tmp_path, monkeypatch, capsys):
    base = released.listed("mace", "mace_off:small")
    assert base is not None and base.licence == "ASL" and released.file_of(base) is None
    for process in range(3):
        monkeypatch.setattr(released, "_told", set())
        released.tell_licence(base)
        assert capsys.readouterr().err.count("\n") == (process == 0)
    free = released.listed("mace", "mace_mp:small")
    assert free is not None
    released.tell_licence(free)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(released, "_told", set())
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for times in (1, 0):
        released.tell_licence(base)
        assert capsys.readouterr().err.count("\n") == times


def test_files_are_not_looked_up(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "nowhere"))
    (tmp_path / "x.model").write_text("")
    assert released.listed("mace", str(tmp_path / "x.model")) is None
