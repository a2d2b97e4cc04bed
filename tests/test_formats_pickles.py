"""Reading pickles without unpickling: nothing in them is ever called, nothing but tensors and Data comes through."""

from __future__ import annotations

import builtins
import io
import os
import pickle
import pickletools
import struct
import subprocess
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("lmdb", reason="lmdb is not installed")
import lmdb

from hip_ext.data.formats import find_format, read_each, read_records
from hip_ext.data.formats.horm import read_data
from hip_ext.data.formats.pickles import read_pickle
from hip_ext.data.formats.tensors import NAMES, as_array
from hip_ext.errors import DataError

DATA = b"\x8c\x19torch_geometric.data.data\x8c\x04Data\x93"


class Call:
    """Pickles as a call of anything."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def data_pickle(**fields: object) -> bytes:
    """A Data with these fields, as torch-geometric pickles it, without torch-geometric."""
    inner = pickle.dumps(fields, protocol=4)
    body = inner[2 + 9 : -1] if inner[2:3] == b"\x95" else inner[2:-1]  # without PROTO, FRAME and STOP
    store = b"\x8c\x1ctorch_geometric.data.storage\x8c\x0dGlobalStorage\x93)\x81}\x8c\x08_mapping" + body + b"sb"
    return b"\x80\x04" + DATA + b")\x81}\x8c\x06_store" + store + b"sb."


def record_fields(n: int = 3) -> dict[str, object]:
    rng = np.random.default_rng(n)
    square = rng.normal(size=(3 * n, 3 * n))
    return {
        "pos": torch.tensor(rng.normal(size=(n, 3)), dtype=torch.float32),
        "charges": torch.tensor([8, 1, 1][:n], dtype=torch.int32),
        "energy": torch.tensor(-2000.0),
        "ae": torch.tensor(-9.0),
        "forces": torch.tensor(rng.normal(size=(n, 3)), dtype=torch.float32),
        "hessian": torch.tensor((square + square.T).ravel(), dtype=torch.float32),
        "rxn": torch.tensor(4),
    }


def test_a_data_becomes_a_record():
    fields = record_fields()
    record = read_data(data_pickle(**fields), "here")
    np.testing.assert_array_equal(record.positions, fields["pos"].numpy())
    np.testing.assert_array_equal(record.hessian().ravel(), fields["hessian"].numpy())
    np.testing.assert_array_equal(record.forces, fields["forces"].numpy())
    assert record.numbers.tolist() == [8, 1, 1] and record.energy == -2000.0 and record.origin == "here"
    assert record.info == {"ae": -9.0, "rxn": 4} and record.method == "wB97X/6-31G(d)"


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(12.0, dtype=torch.float64).reshape(3, 4).T,
        torch.arange(12)[3:9:2],
        torch.arange(6, dtype=torch.int32).reshape(2, 3).expand(2, 2, 3)[:, 0],
        torch.tensor(True),
        torch.zeros(0, 3),
        torch.arange(5, dtype=torch.float16),
        torch.arange(5, dtype=torch.uint8),
        torch.ones(2, requires_grad=True),
    ],
    ids=lambda tensor: f"{tensor.dtype}-{tuple(tensor.shape)}",
)
def test_tensors_are_what_torch_makes_of_them(tensor, protocol):
    found = as_array(read_pickle(pickle.dumps(tensor, protocol=protocol), NAMES), "x")
    np.testing.assert_array_equal(found, tensor.detach().numpy())
    assert found.dtype == tensor.detach().numpy().dtype


@pytest.mark.parametrize(
    "bad",
    [
        Call(os.system, "touch pwned"),
        Call(builtins.eval, "open('pwned', 'w')"),
        Call(builtins.exec, "open('pwned', 'w')"),
        Call(builtins.getattr, Call(builtins.__import__, "os"), "system"),
        Call(subprocess.Popen, ["touch", "pwned"]),
        Call(bytearray, 1 << 40),
        Call(Path, "pwned"),
        Call(np.zeros, 1 << 40),
        Call(torch.load, "pwned"),
        Call(pickle.loads, b"."),
        Call(OrderedDict, [(1, Call(os.system, "touch pwned"))]),
        Call(torch.storage._load_from_bytes, Call(os.system, "touch pwned")),
    ],
    ids=lambda bad: bad.call[0].__name__,
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_hostile_calls_are_refused_and_not_made(bad, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fields = record_fields() | {"pos": bad}
    whole = pickle.dumps(bad, protocol=protocol)
    for data in (whole, data_pickle(**fields)):
        with pytest.raises(DataError, match="refused a pickle"):
            read_data(data)
    assert list(tmp_path.iterdir()) == []


class Recorder:
    """Something that a pickle might try to get called."""

    called = False

    def __setstate__(self, state: object) -> None:
        Recorder.called = True


def test_what_is_allowed_is_not_called_either():
    good, torch_called = data_pickle(**record_fields()), []
    original = torch._utils._rebuild_tensor_v2
    torch._utils._rebuild_tensor_v2 = lambda *arguments: torch_called.append(arguments)
    try:
        read_data(good)
    finally:
        torch._utils._rebuild_tensor_v2 = original
    assert torch_called == []
    with pytest.raises(DataError, match="refused"):
        read_data(pickle.dumps(Recorder().__class__, protocol=4))
    # A call of Data itself, a state for its class, and attributes set on both: values without any effect.
    for body in (
        DATA + b")R}\x8c\x01x\x8c\x01ysb.",
        DATA + b"}\x8c\x08__init__K\x01sb.",
        DATA + b")\x81N}\x8c\x09__class__K\x01s\x86b.",
        DATA + b"(K\x01\x8c\x01xtR.",
    ):
        with pytest.raises(DataError):
            read_data(b"\x80\x04" + body)
    assert read_data(data_pickle(**record_fields())).energy == -2000.0


@pytest.mark.parametrize("name", ["PERSID", "INST", "OBJ", "EXT1", "NEWOBJ_EX", "BYTEARRAY8", "NEXT_BUFFER", "DUP"])
def test_operations_that_tensors_do_not_need_are_refused(name):
    opcode = {op.name: op for op in pickletools.opcodes}[name].code.encode("latin1")
    argument = {"PERSID": b"x\n", "INST": b"os\nsystem\n", "EXT1": b"\x01", "BYTEARRAY8": bytes(8)}.get(name, b"")
    with pytest.raises(DataError, match=f"operation {name}"):
        read_pickle(b"\x80\x05(K\x01" + opcode + argument + b".", ())


def test_damage_size_claims_and_nesting():
    good = data_pickle(**record_fields())
    for end in range(0, len(good) - 1, 13):
        with pytest.raises(DataError):
            read_data(good[:end])
    for body in (
        b"\x8e" + struct.pack("<Q", 1 << 60) + b"x.",  # BINBYTES8 of an exabyte
        b"B" + struct.pack("<I", 1 << 31) + b"x.",
        b"\x8b" + struct.pack("<i", 1 << 30) + b"x.",  # LONG4
        b"\x95" + struct.pack("<Q", 1 << 60) + b"N.",  # FRAME
        b"r" + struct.pack("<I", 1 << 31) + b".",  # LONG_BINPUT with nothing there
        b"(" * 100_000 + b".",
        b"]" * 100_000 + b".",
        b"N" + b"\x85" * 100_000 + b".",
        b"h\x05.",
        b"t.",
        b"",
        b"K\x01K\x02.",
    ):
        with pytest.raises(DataError):
            read_data(b"\x80\x04" + body)
    loop = b"\x80\x04]\x94h\x00a."  # a list that holds itself
    with pytest.raises(DataError, match="no torch-geometric Data"):
        read_data(loop)


def storage(count: int, claimed: int | None = None, data: bytes | None = None) -> bytes:
    """A saved storage of `count` floats that says it has `claimed`."""
    saved = torch.zeros(count).__reduce_ex__(4)[1][0].__reduce__()[1][0]
    tail = 8 + 4 * count
    return (
        saved[:-tail]
        + struct.pack("<q", count if claimed is None else claimed)
        + (data or saved[len(saved) - 4 * count :])
    )


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [
        ((1 << 39,), (0,), 0),
        ((4,), (1,), 1),
        ((2, 3), (3, 1), 0),
        ((-1,), (1,), 0),
        ((2,), (-1,), 1),
        ((2,), (1, 1), 0),
    ],
)
def test_tensors_larger_than_their_storage_are_refused(size, stride, offset):
    call = Call(torch._utils._rebuild_tensor_v2, Call(torch.storage._load_from_bytes, storage(4)), offset, size, stride)
    with pytest.raises(DataError, match="x is a tensor of"):
        as_array(read_pickle(pickle.dumps(call), NAMES), "x")


@pytest.mark.parametrize("claimed", [-1, 3, 5, 1 << 50])
def test_storages_that_lie_about_their_size_are_refused(claimed):
    call = Call(
        torch._utils._rebuild_tensor_v2, Call(torch.storage._load_from_bytes, storage(4, claimed)), 0, (2,), (1,)
    )
    with pytest.raises(DataError, match="bytes of data"):
        as_array(read_pickle(pickle.dumps(call), NAMES), "x")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pos": None}, "pos is no tensor"),
        ({"hessian": torch.zeros(80)}, "81 entries, found 80"),
        ({"hessian": torch.full((81,), float("nan"))}, "not finite"),
        ({"charges": torch.tensor([8, 1, 200])}, "atomic numbers"),
        ({"pos": "x" * 10}, "pos is no tensor"),
        ({"pos": torch.zeros(4, 3)}, "shape"),
    ],
)
def test_unfit_fields_are_named(change, words):
    with pytest.raises(DataError, match=words):
        read_data(data_pickle(**(record_fields() | change)))


def test_a_file_with_one_bad_record_among_good_ones(tmp_path):
    path = tmp_path / "some.lmdb"
    values = [data_pickle(**record_fields()) for _ in range(5)]
    values[2] = pickle.dumps(Call(os.system, "true"))
    values[3] = data_pickle(**(record_fields() | {"rxn": torch.tensor([float("nan")])}))
    with lmdb.open(str(path), subdir=False) as opened, opened.begin(write=True) as transaction:
        transaction.put(b"length", pickle.dumps(6))
        for place, value in enumerate(values):
            transaction.put(str(place).encode(), value)
    Path(f"{path}-lock").unlink()
    assert find_format(path).name == "horm"
    found = list(read_each(path))
    assert [place for place, one in enumerate(found) if isinstance(one, DataError)] == [2, 3, 5]
    assert "record 2: refused a pickle" in str(found[2]) and "record 5: it is missing" in str(found[5])
    with pytest.raises(DataError, match="record 2"):
        list(read_records(path))
    assert [entry.name for entry in tmp_path.iterdir()] == ["some.lmdb"]  # no lock file beside somebody else's data


class Unpickler(pickle.Unpickler):
    """Python's own, with an empty class in place of those of torch-geometric."""

    def find_class(self, module: str, name: str) -> object:
        return type(name, (), {}) if module.startswith("torch_geometric") else super().find_class(module, name)


def test_horm_records_are_what_unpickling_gives(shared):
    path = shared / "data" / "horm_t1x_60.lmdb"
    records = list(read_records(path))
    assert len(records) == 60
    with lmdb.open(str(path), subdir=False, readonly=True, lock=False) as opened, opened.begin() as transaction:
        for place, record in enumerate(records):
            expected = Unpickler(io.BytesIO(transaction.get(str(place).encode()))).load()._store._mapping
            np.testing.assert_array_equal(record.positions, expected["pos"].numpy())
            np.testing.assert_array_equal(record.numbers, expected["charges"].numpy())
            np.testing.assert_array_equal(record.forces, expected["forces"].numpy())
            square = expected["hessian"].numpy().reshape(record.hessian().shape)
            np.testing.assert_array_equal(record.hessian(), (0.5 * (square + square.T)).astype(np.float32))
            assert record.energy == float(expected["energy"]) and record.info["ae"] == float(expected["ae"])
