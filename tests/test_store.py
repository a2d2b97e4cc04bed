"""The store: random access, many readers beside a writer, kills, full disks, damage."""

from __future__ import annotations

import os
import pickle
import random
import resource
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("lmdb", reason="lmdb is not installed")
import lmdb

from hip_ext.data import environment
from hip_ext.data.record import HessianRecord
from hip_ext.data.store import HessianStore
from hip_ext.errors import DataError


def record(seed: int, atoms: int | None = None) -> HessianRecord:
    """A record that is known by its seed."""
    rng = np.random.default_rng(seed)
    n = atoms or int(rng.integers(2, 8))
    square = rng.normal(size=(3 * n, 3 * n))
    plain = HessianRecord(rng.integers(1, 9, n), rng.normal(size=(n, 3)), energy=float(seed))
    return plain.with_hessian((square + square.T).astype(np.float32))


def assert_is(found: HessianRecord, seed: int) -> None:
    expected = record(seed)
    assert found.energy == seed
    np.testing.assert_array_equal(found.hessian(), expected.hessian())
    np.testing.assert_array_equal(found.positions, expected.positions)


def start(work: Callable[..., object], *arguments: object) -> BaseProcess:
    """Runs a function in a process of its own, which is there at once since it imports nothing."""
    process = get_context("fork").Process(target=work, args=arguments)
    process.start()
    return process


def done(process: BaseProcess) -> bool:
    process.join(60)
    return process.exitcode == 0


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    with HessianStore(tmp_path / "labels.lmdb", "a") as store:
        store.append([record(k) for k in range(20)], keys=[f"r{k}" for k in range(20)], failures={"bad": "no SCF"})
    return tmp_path / "labels.lmdb"


def test_random_access_names_and_sizes(filled):
    store = HessianStore(filled)
    assert len(store) == 20
    for index in (7, 0, 19, -1, -20):
        assert_is(store[index], index % 20)
    assert [r.energy for r in store[3:9:2]] == [3.0, 5.0, 7.0]
    assert [r.energy for r in store] == list(range(20))
    assert store.sizes.tolist() == [len(record(k).numbers) for k in range(20)]
    assert (store.labelled_counts == store.sizes).all() and not store.probe_counts.any()
    assert store.index("r13") == 13 and "r13" in store and "r20" not in store and 3 not in store
    assert store.keys() == [f"r{k}" for k in range(20)] and store.failures() == {"bad": "no SCF"}
    for index in (20, -21):
        with pytest.raises(IndexError, match="holds 20 records"):
            store[index]
    with pytest.raises(DataError, match="no record named 'nobody'"):
        store.index("nobody")


def test_appending_is_all_or_nothing_and_describes_itself(filled):
    with HessianStore(filled, "a") as store:
        with pytest.raises(DataError, match="named 'r3' already"):
            store.append([record(20), record(21)], keys=["new", "r3"], failures={"other": "x"})
        assert len(store) == 20 and "new" not in store and "other" not in store.failures()
        with pytest.raises(DataError, match="2 records need as many names, found 1"):
            store.append([record(20), record(21)], keys=["new"])
        for name in ("", "x" * 501):
            with pytest.raises(DataError, match="1 to 500 bytes"):
                store.append([record(20)], keys=[name])
        store.append([record(20)], keys=["bad"])
        assert store.failures() == {}  # labelled at last
        store.describe({"command": "hip-ext label"})
        with pytest.raises(DataError, match="JSON"):
            store.describe({"x": object()})
    reader = HessianStore(filled)
    assert reader.metadata["command"] == "hip-ext label" and reader.metadata["units"]["hessian"] == "eV/Å²"
    for work in (lambda: reader.append([record(1)]), lambda: reader.describe({})):
        with pytest.raises(DataError, match="opened to read"):
            work()


def test_a_reader_and_a_writer_in_one_process_see_the_same(filled):
    reader, writer = HessianStore(filled), HessianStore(filled, "a")
    writer.append([record(20)])
    assert len(reader) == 21
    reader.close()
    writer.append([record(21)])
    assert_is(HessianStore(filled.parent / "." / filled.name)[21], 21)
    os.link(filled, filled.parent / "link.lmdb")
    assert len(HessianStore(filled.parent / "link.lmdb")) == 22


def test_threads_read_while_one_writes(filled):
    wrong: list[object] = []

    def read() -> None:
        store = HessianStore(filled)
        for turn in range(100):
            if store[turn % 20].energy != turn % 20:
                wrong.append(turn)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    with HessianStore(filled, "a") as store:
        for seed in range(20, 60):
            store.append([record(seed)])
    for thread in threads:
        thread.join()
    assert wrong == [] and len(HessianStore(filled)) == 60


def _energies(store: HessianStore) -> list[float | None]:
    return [store[k].energy for k in range(20)]


def test_worker_processes_read_a_store_that_is_open(filled):
    writer, reader = HessianStore(filled, "a"), HessianStore(filled)
    assert reader[0].energy == 0
    with get_context("fork").Pool(2) as pool:
        assert pool.map(_energies, [reader, writer]) == [list(range(20))] * 2
    writer.append([record(20)])
    assert len(reader) == 21 and len(pickle.loads(pickle.dumps(reader))) == 21


def test_a_child_of_a_fork_reads_what_the_parent_appends_later(filled):
    store = HessianStore(filled, "a")
    ask, answer = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.write(answer[1], bytes([len(store)]))
        os.read(ask[0], 1)
        os.write(answer[1], bytes([len(store), int(store[20].energy)]))
        os._exit(0)
    assert os.read(answer[0], 1) == bytes([20])
    store.append([record(20)])
    os.write(ask[1], b"x")
    assert os.read(answer[0], 2) == bytes([21, 20])
    assert os.waitpid(child, 0)[1] == 0


def _keep_reading(path: Path) -> None:
    store, seen = HessianStore(path), 0
    while seen < 150:
        count = len(store)
        assert count >= seen and count % 5 == 0, (count, seen)
        seen = count
        for k in {0, count // 2, count - 1}:
            assert store[k].energy == k


def test_readers_in_other_processes_while_one_appends(filled):
    readers = [start(_keep_reading, filled) for _ in range(2)]
    with HessianStore(filled, "a") as store:
        for first in range(20, 150, 5):
            store.append([record(k) for k in range(first, first + 5)])
            time.sleep(0.02)
    assert all(done(reader) for reader in readers)


def _keep_appending(path: Path, progress: int) -> None:
    with HessianStore(path, "a") as store:
        place = len(store)
        while True:
            batch = range(place, place + 7)
            store.append([record(k) for k in batch], keys=[str(k) for k in batch])
            place += 7
            os.write(progress, place.to_bytes(4, "big"))


def test_a_kill_at_any_moment_leaves_whole_transactions(tmp_path):
    path, promised = tmp_path / "labels.lmdb", 0
    rng = random.Random(0)
    for _ in range(25):
        reports, progress = os.pipe()
        writer = start(_keep_appending, path, progress)
        os.close(progress)
        time.sleep(rng.uniform(0.0, 0.06))
        writer.kill()
        writer.join()
        with os.fdopen(reports, "rb") as file:
            said = file.read()
        promised = int.from_bytes(said[-4:], "big") if said else promised
        if not path.exists() or path.stat().st_size == 0:
            assert promised == 0
            continue
        store = HessianStore(path, "a")
        assert len(store) % 7 == 0 and promised <= len(store) <= promised + 7
        assert store.keys() == [str(k) for k in range(len(store))]
        assert [one.energy for one in store] == list(range(len(store)))
        promised = len(store)
    assert promised > 0


def _fill_disk(path: Path, size: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    store, count = HessianStore(path, "a"), 0
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
    with pytest.raises(DataError, match=r"cannot write .*; nothing of it was stored$"):  # noqa: PT012
        while count < 10_000:
            store.append([record(count, 10), record(count + 1, 10)])
            count += 2
    assert 0 < count == len(store) and store[count - 1].energy == count - 1
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    store.append([record(count)])  # there is room again
    assert len(store) == count + 1


@pytest.mark.skipif(resource.getrlimit(resource.RLIMIT_FSIZE)[1] != resource.RLIM_INFINITY, reason="files are limited")
@pytest.mark.parametrize("size", [300_000, 301_000, 345_678])
def test_a_full_disk_loses_the_batch_and_nothing_else(tmp_path, size):
    assert done(start(_fill_disk, tmp_path / "labels.lmdb", size))
    store = HessianStore(tmp_path / "labels.lmdb")
    assert len(store) > 10 and store.damaged() == {}


def test_one_damaged_record_among_many(filled):
    data = filled.read_bytes()
    with lmdb.open(str(filled), subdir=False, max_dbs=8) as opened, opened.begin() as transaction:
        table = opened.open_db(b"records", txn=transaction, create=False)
        stored = transaction.get((11).to_bytes(8, "big"), db=table)
    middle = data.index(stored) + len(stored) // 2
    filled.write_bytes(data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :])
    store = HessianStore(filled)
    with pytest.raises(DataError, match=r"labels\.lmdb, record 11: damaged record: the checksum"):
        store[11]
    seen: list[int] = []
    assert list(store.damaged(seen.append)) == [11] and seen == list(range(1, 21))
    for index in (*range(11), *range(12, 20)):
        assert_is(store[index], index)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused_not_read(filled, share):
    with filled.open("r+b") as file:
        file.truncate(int(share * filled.stat().st_size))
    with pytest.raises(DataError, match=r"is truncated: \d+ bytes of \d+"):
        HessianStore(filled)
    with pytest.raises(DataError, match="is truncated"):
        HessianStore(filled, "a")


def test_what_is_no_store_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "text").write_text("not an LMDB file at all\n" * 1000)
    with lmdb.open(str(tmp_path / "foreign"), subdir=False) as opened, opened.begin(write=True) as transaction:
        transaction.put(b"meta", b"{}")
    (tmp_path / "folder").mkdir()
    for name in ("text", "foreign", "folder"):
        before = (tmp_path / name).read_bytes() if name != "folder" else b""
        for mode in ("r", "a"):
            with pytest.raises(DataError, match=name):
                HessianStore(tmp_path / name, mode)
        assert name == "folder" or (tmp_path / name).read_bytes() == before
    with pytest.raises(DataError, match="does not exist"):
        HessianStore(tmp_path / "nowhere")
    (tmp_path / "empty").touch()
    with pytest.raises(DataError, match="is empty"):
        HessianStore(tmp_path / "empty")
    assert (tmp_path / "empty").stat().st_size == 0
    with pytest.raises(DataError, match="mode 'r' or 'a'"):
        HessianStore(tmp_path / "empty", "w")  # type: ignore[arg-type]
    HessianStore(tmp_path / "empty", "a").append([record(0)])
    assert_is(HessianStore(tmp_path / "empty")[0], 0)


def _expect_length(path: Path, count: int) -> None:
    assert len(HessianStore(path)) == count and HessianStore(path)[count - 1].energy == count - 1


def test_grows_beyond_its_first_map(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "MAP_SIZES", (1 << 17,))
    path = tmp_path / "labels.lmdb"
    writer, reader = HessianStore(path, "a"), HessianStore(path)
    for first in range(0, 60, 10):
        writer.append([record(k, 12) for k in range(first, first + 10)])
    assert path.stat().st_size > 2 * (1 << 17)
    assert [r.energy for r in reader] == list(range(60))
    assert done(start(_expect_length, path, 60))


def test_an_old_lock_file_and_none(filled):
    lock = Path(f"{filled}-lock")
    assert lock.exists()
    lock.unlink()
    assert_is(HessianStore(filled)[3], 3)
    lock.write_bytes(b"rubbish" * 100)
    assert done(start(_expect_length, filled, 20))


def _read_as_nobody(path: Path) -> None:
    if os.getuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    store = HessianStore(path)
    assert len(store) == 20 and store[4].energy == 4 and store.damaged() == {}
    with pytest.raises(DataError, match=r"the file or its folder is read-only"):
        HessianStore(path, "a")


@pytest.mark.parametrize("with_lock", [True, False])
def test_readable_in_a_read_only_folder(filled, with_lock):
    if not with_lock:
        Path(f"{filled}-lock").unlink()
    filled.chmod(0o444)
    folder = filled.parent
    for parent in folder.parents:
        if not parent.stat().st_mode & 0o001:  # pytest's own folders are the user's alone
            parent.chmod(0o755)
    folder.chmod(0o555)
    try:
        assert done(start(_read_as_nobody, filled))
    finally:
        folder.chmod(0o755)
