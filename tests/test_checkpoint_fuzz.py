"""Hostile checkpoints: whatever is in the folder, it loads as a whole or is refused, in one line and soon."""

from __future__ import annotations

import json
import shutil
import string
import struct
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy_backbone import ToyBackbone, ToyModel

from hip_ext import from_pretrained, strict_json
from hip_ext.checkpoint import read_config, read_head
from hip_ext.errors import CheckpointError

DATA = Path(__file__).parent / "data" / "checkpoints"
FILES = ("config.json", "model.safetensors", "backbone.safetensors")
SLOW = 2.0
"""Seconds of the processor that no refusal may take."""

BACKBONE = ToyBackbone(ToyModel(channels=2))
EXPECTED = from_pretrained(DATA / "schema-2-tuned", backbone=BACKBONE)
STATE = {name: value.clone() for name, value in BACKBONE.model.state_dict().items()}

quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@contextmanager
def copied(name: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as place:
        yield Path(shutil.copytree(DATA / name, Path(place) / "head"))


def outcome(folder: Path) -> str | None:
    """Loads; returns the message where that was refused, or None where the model is complete and as it was."""
    before = {path: path.read_bytes() for path in folder.parent.rglob("*") if path.is_file()}
    message, start = None, time.process_time()
    try:
        found = from_pretrained(folder, backbone=BACKBONE)
    except CheckpointError as error:
        message = str(error)
        assert 0 < len(message) < 1000 + len(str(folder)) and "\n" not in message and message.encode("utf-8")
    else:
        heads = found.head.state_dict(), EXPECTED.head.state_dict()
        assert heads[0].keys() == heads[1].keys()
        assert all(torch.isfinite(value).all() for value in heads[0].values())
        if found.tuning:
            assert found.backbone.source.fingerprint == EXPECTED.backbone.source.fingerprint
    assert time.process_time() - start < SLOW
    assert {path: path.read_bytes() for path in folder.parent.rglob("*") if path.is_file()} == before
    assert all(torch.equal(value, STATE[name]) for name, value in BACKBONE.model.state_dict().items())
    return message


edits = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "insert", "delete", "double"]), st.integers(0, 1 << 20), st.binary(max_size=9)
    ),
    min_size=1,
    max_size=4,
)


def mutated(data: bytes, changes: list[tuple[str, int, bytes]]) -> bytes:
    for kind, position, extra in changes:
        position %= len(data) + 1
        match kind:
            case "flip":
                data = (
                    data[:position]
                    + bytes(b ^ (1 + position % 255) for b in data[position : position + 1])
                    + data[position + 1 :]
                )
            case "cut":
                data = data[:position]
            case "insert":
                data = data[:position] + extra + data[position:]
            case "delete":
                data = data[:position] + data[position + len(extra) :]
            case _:
                data = data[:position] + data[position : position + 40] + data[position:]
    return data


@quick
@given(file=st.sampled_from(FILES), changes=edits)
def test_mutated_files(file, changes):
    with copied("schema-2-tuned") as folder:
        original = (folder / file).read_bytes()
        (folder / file).write_bytes(mutated(original, changes))
        message = outcome(folder)
        if file != "config.json" and (folder / file).read_bytes() != original:
            assert message and str(folder / file) in message


@quick
@given(changes=edits)
def test_mutated_weights_without_a_digest(changes):
    with copied("schema-1") as folder:
        path = folder / "model.safetensors"
        path.write_bytes(mutated(path.read_bytes(), changes))
        outcome(folder)


hostile_numbers = st.sampled_from([-1, 0, 1, 2**31, 2**63 - 1, -(2**63), 1e308, -1e308, 5e-324, 1e-300, 0.5])
hostile_text = st.sampled_from(
    ["", "..", "../../etc/passwd", "/etc/passwd", "a\0b", "\ud800", "\x1b[2J", "‮", "💥" * 99, "[bold]", "%s{0}", "NaN"]
) | st.text(max_size=9)
hostile = st.recursive(
    st.none() | st.booleans() | st.integers() | hostile_numbers | st.floats() | hostile_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(hostile_text, inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*path, key))


PLACES = {
    name: [path for path in places(json.loads((DATA / name / "config.json").read_text())) if path]
    for name in ("schema-1", "schema-2-tuned")
}


@quick
@given(name=st.sampled_from(sorted(PLACES)), data=st.data())
def test_hostile_values_in_the_config(name, data):
    path = data.draw(st.sampled_from(PLACES[name]))
    action = data.draw(st.sampled_from(["replace", "remove", "add"]))
    with copied(name) as folder:
        config = json.loads((folder / "config.json").read_text())
        place = config
        for key in path[:-1]:
            place = place[key]
        if action == "remove":
            del place[path[-1]]
        elif action == "add" and isinstance(place, dict):
            place[data.draw(hostile_text)] = data.draw(hostile)
        else:
            place[path[-1]] = data.draw(hostile)
        (folder / "config.json").write_text(json.dumps(config))
        outcome(folder)


@quick
@given(document=hostile)
def test_any_json_as_a_config(document):
    with copied("schema-2") as folder:
        (folder / "config.json").write_text(json.dumps(document))
        assert outcome(folder)


entry = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F64", "F32", "F4", "F8_E4M3", "BOOL", "", None, 64]),
        "shape": st.lists(st.integers(-1, 3) | hostile_numbers, max_size=3) | hostile,
        "data_offsets": st.lists(st.integers(0, 2**63), max_size=3) | hostile,
        "more": hostile,
    },
)


@quick
@given(
    header=st.dictionaries(st.sampled_from(["__metadata__", "curvature.weight", "x"]), entry | hostile, max_size=3)
    | hostile,
    length=st.none() | st.integers(0, 2**64 - 1),
    tail=st.binary(max_size=64),
)
def test_hostile_headers(header, length, tail):
    text = json.dumps(header).encode()
    with copied("schema-1") as folder:
        (folder / "model.safetensors").write_bytes(
            struct.pack("<Q", len(text) if length is None else length) + text + tail
        )
        assert outcome(folder)


def test_headers_that_would_fill_the_memory():
    """Many names, many levels, long shapes: bombs as large as a header may be, and one that is larger."""
    layers = {
        f"messages.{n}.norm.weight": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 0]} for n in range(20_000)
    }
    bombs = [
        json.dumps(layers).encode(),
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"a":' + b"[" * 1_900_000 + b"}",
        json.dumps({"a": {"dtype": "F32", "shape": [1] * 600_000, "data_offsets": [0, 4]}}).encode(),
        b" " * (5 << 20),
        b'{"a":' + b"9" * 1_900_000 + b"}",
    ]
    with copied("schema-1") as folder:
        config = json.loads((folder / "config.json").read_text())
        config["head"] |= {"layers": 30_000, "scalars": 1 << 40}
        (folder / "config.json").write_text(json.dumps(config))
        for bomb in bombs:
            (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(bomb)) + bomb)
            assert outcome(folder)
            tracemalloc.start()
            with pytest.raises(CheckpointError):
                read_head(folder, read_config(folder))
            assert tracemalloc.get_traced_memory()[1] < 100e6
            tracemalloc.stop()


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(string.printable.replace("\x0b", "").replace("\x0c", "").replace("\r", "") + "Åé語"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(string.ascii_letters), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@quick
@given(value=plain)
def test_ordinary_json_is_what_json_says(value):
    assert strict_json.parse(json.dumps(value).encode()) == value


def test_long_names_are_not_repeated_in_full():
    with copied("schema-1") as folder:
        header = json.dumps({"n" * 1_000_000: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
        assert "does not belong to its config.json" in str(outcome(folder))
        config, long = json.loads((folder / "config.json").read_text()), "7" * 900_000
        newer = {"schema_version": 3, "hip_ext_version": long}
        backbones = [{long: 1}, {"name": long}, {"kind": long}, {"options": {long: 1}}, {"fingerprint": long}]
        for change in ({long: 1}, {"schema_version": long}, newer, *({"backbone": one} for one in backbones)):
            change = {"backbone": config["backbone"] | change["backbone"]} if "backbone" in change else change
            (folder / "config.json").write_text(json.dumps(config | change))
            assert outcome(folder)


@pytest.mark.parametrize(
    "text", ["{}", "[]", "1", "", "{", '{"format": "hip-ext head"}', '{"format": ["hip-ext head"]}']
)
def test_small_configs(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError):
        read_config(tmp_path)
