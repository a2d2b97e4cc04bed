"""Which file for millions of labels of different sizes? Writes, sizes, random reads, and a kill while appending.

    OMP_NUM_THREADS=1 python benchmarks/label_store.py [--records 20000] [--out benchmarks/results/label_store.json]

Each candidate holds the same synthetic records of 5 to 30 atoms: numbers, positions, forces, energy, and a symmetric
Hessian in float32. `lmdb` is `HessianStore`; `lmdb-full` is the same with the matrix in full; `hdf5` has a group a
record; `hdf5-flat` one growing data set of bytes with offsets; `safetensors` shards of 1000 records; `aselmdb` is
ASE's database with fairchem's backend, where that is installed (with `--aselmdb-records`, since it is slow).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path

import h5py
import lmdb
import numpy as np
from ase import Atoms
from safetensors import safe_open
from safetensors.numpy import save_file

from hip_ext.atomic import write_text
from hip_ext.data import encoding
from hip_ext.data.encoding import decode, encode
from hip_ext.data.record import HessianRecord
from hip_ext.data.store import HessianStore

BATCH, SHARD, KILLS = 256, 1000, 40


def make_records(count: int, seed: int = 0) -> Iterator[HessianRecord]:
    rng = np.random.default_rng(seed)
    for index in range(count):
        n = int(rng.integers(5, 31))
        square = rng.normal(size=(3 * n, 3 * n)).astype(np.float32)
        positions, forces = rng.normal(size=(2, n, 3)).astype(np.float32)
        plain = HessianRecord(rng.integers(1, 9, n), positions, energy=float(index), forces=forces)
        rows = (0.5 * (square + square.T)).reshape(n, 3, n, 3)
        yield HessianRecord(
            plain.numbers, positions, energy=float(index), forces=forces, labelled=np.arange(n), rows=rows
        )


class Lmdb:
    name = "lmdb"

    def __init__(self, folder: Path) -> None:
        self.path = folder / "labels.lmdb"

    def append(self, records: list[HessianRecord]) -> None:
        with HessianStore(self.path, "a") as store:
            store.append(records)

    def reader(self) -> Callable[[int], float]:
        store = HessianStore(self.path)
        return lambda index: float(store[index].rows.sum())

    def count(self) -> int:
        return len(HessianStore(self.path))


class LmdbFull(Lmdb):
    name = "lmdb-full"

    def append(self, records: list[HessianRecord]) -> None:
        kept, encoding._triangle = encoding._triangle, lambda record: None
        try:
            super().append(records)
        finally:
            encoding._triangle = kept


class Hdf5:
    name = "hdf5"

    def __init__(self, folder: Path) -> None:
        self.path = folder / "labels.h5"

    def append(self, records: list[HessianRecord]) -> None:
        with h5py.File(self.path, "a") as file:
            place = len(file)
            for offset, record in enumerate(records):
                group = file.create_group(str(place + offset))
                size = 3 * len(record.numbers)
                group["numbers"], group["positions"], group["forces"] = record.numbers, record.positions, record.forces
                group["triangle"] = record.rows.reshape(size, size)[np.triu_indices(size)]
                group.attrs["energy"] = record.energy

    def reader(self) -> Callable[[int], float]:
        file = h5py.File(self.path)

        def read(index: int) -> float:
            group = file[str(index)]
            size = 3 * len(group["numbers"][()])
            square = np.zeros((size, size), dtype=np.float32)
            upper = np.triu_indices(size)
            square[upper] = group["triangle"][()]
            square.T[upper] = square[upper]
            group["positions"][()], group["forces"][()], group.attrs["energy"]
            return float(square.sum())

        return read

    def count(self) -> int:
        with h5py.File(self.path) as file:
            return len(file)


class Hdf5Flat:
    name = "hdf5-flat"

    def __init__(self, folder: Path) -> None:
        self.path = folder / "labels.h5"

    def append(self, records: list[HessianRecord]) -> None:
        encoded = [encode(record) for record in records]
        with h5py.File(self.path, "a") as file:
            if "data" not in file:
                file.create_dataset("data", (0,), maxshape=(None,), dtype="u1", chunks=(1 << 16,))
                file.create_dataset("end", (0,), maxshape=(None,), dtype="i8", chunks=(1 << 12,))
            data, end = file["data"], file["end"]
            start, count = len(data), len(end)
            joined = np.frombuffer(b"".join(encoded), dtype=np.uint8)
            data.resize((start + len(joined),))
            data[start:] = joined
            end.resize((count + len(encoded),))
            end[count:] = start + np.cumsum([len(one) for one in encoded])

    def reader(self) -> Callable[[int], float]:
        file = h5py.File(self.path)
        ends = np.concatenate(([0], file["end"][()]))
        data = file["data"]
        return lambda index: float(decode(data[ends[index] : ends[index + 1]].tobytes()).rows.sum())

    def count(self) -> int:
        with h5py.File(self.path) as file:
            last = len(file["end"]) - 1
            read = self.reader()
            read(last)
            return last + 1


class Safetensors:
    name = "safetensors"

    def __init__(self, folder: Path) -> None:
        self.path = folder / "shards"
        self.path.mkdir()
        self.pending: list[HessianRecord] = []

    def append(self, records: list[HessianRecord]) -> None:
        self.pending += records
        while len(self.pending) >= SHARD:
            self.finish()

    def finish(self) -> None:
        arrays = {}
        for place, record in enumerate(self.pending[:SHARD]):
            size = 3 * len(record.numbers)
            arrays |= {
                f"{place}.numbers": record.numbers,
                f"{place}.positions": record.positions,
                f"{place}.forces": record.forces,
                f"{place}.energy": np.array([record.energy]),
                f"{place}.triangle": record.rows.reshape(size, size)[np.triu_indices(size)],
            }
        if arrays:
            target = self.path / f"{len(list(self.path.iterdir())):06d}.safetensors"
            save_file(arrays, target.with_suffix(".part"))
            target.with_suffix(".part").replace(target)
        del self.pending[:SHARD]

    def reader(self) -> Callable[[int], float]:
        shards = [safe_open(str(path), framework="numpy") for path in sorted(self.path.iterdir())]

        def read(index: int) -> float:
            file, place = shards[index // SHARD], index % SHARD
            numbers, triangle, *_ = (
                file.get_tensor(f"{place}.{name}") for name in ("numbers", "triangle", "positions", "forces", "energy")
            )
            size = 3 * len(numbers)
            square = np.zeros((size, size), dtype=np.float32)
            upper = np.triu_indices(size)
            square[upper] = triangle
            square.T[upper] = triangle
            return float(square.sum())

        return read


class AseLmdb:
    name = "aselmdb"

    def __init__(self, folder: Path) -> None:
        self.path = folder / "labels.aselmdb"

    def append(self, records: list[HessianRecord]) -> None:
        from ase.db import connect

        with connect(str(self.path), type="aselmdb") as database:
            for record in records:
                atoms = Atoms(record.numbers, positions=record.positions)
                database.write(atoms, data={"forces": record.forces, "hessian": record.rows, "energy": record.energy})

    def reader(self) -> Callable[[int], float]:
        from ase.db import connect

        database = connect(str(self.path), type="aselmdb", readonly=True)
        return lambda index: float(np.asarray(database._get_row(index + 1).data["hessian"]).sum())


def time_reads(make: Callable[[], Callable[[int], float]], indices: np.ndarray) -> float:
    """Reads a second, the file being in the cache of the system."""
    read = make()
    start = time.perf_counter()
    for index in indices:
        read(int(index))
    return len(indices) / (time.perf_counter() - start)


def bytes_of(path: Path) -> int:
    return sum(part.stat().st_size for part in path.iterdir()) if path.is_dir() else path.stat().st_size


def measure(kind: type, count: int, reads: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as name:
        candidate = kind(Path(name))
        seconds, batch = 0.0, []
        for index, record in enumerate(make_records(count)):
            batch.append(record)
            if len(batch) == BATCH or index == count - 1:
                start = time.perf_counter()
                candidate.append(batch)
                seconds += time.perf_counter() - start
                batch = []
        if hasattr(candidate, "finish"):
            start = time.perf_counter()
            while candidate.pending:
                candidate.finish()
            seconds += time.perf_counter() - start
        indices = np.random.default_rng(1).integers(0, count, reads)
        start = time.perf_counter()
        workers = [get_context("fork").Process(target=time_reads, args=(candidate.reader, half)) for half in
                   np.array_split(indices, 2)]  # fmt: skip
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        two = reads / (time.perf_counter() - start)
        return {
            "records": count,
            "write_per_s": count / seconds,
            "bytes_per_record": bytes_of(candidate.path) / count,
            "random_reads_per_s": time_reads(candidate.reader, indices),
            "random_reads_per_s_two_workers": two,
        }


def append_for_ever(kind: type, folder: Path) -> None:
    candidate, records = kind(folder), list(make_records(64))
    while True:
        candidate.append(records)


def measure_kills(kind: type) -> dict[str, int]:
    """Kills a process that appends 64 records at a time; how often the file could be read afterwards, up to its end."""
    rng, readable, whole = np.random.default_rng(0), 0, 0
    for _ in range(KILLS):
        with tempfile.TemporaryDirectory() as name:
            kind(Path(name)).append(list(make_records(64)))
            writer = get_context("fork").Process(target=append_for_ever, args=(kind, Path(name)))
            writer.start()
            time.sleep(rng.uniform(0.1, 0.3))
            os.kill(writer.pid, signal.SIGKILL)
            writer.join()
            try:
                count = kind(Path(name)).count()
                kind(Path(name)).reader()(count - 1)
            except Exception as error:  # each library has its own
                print(f"{kind.name}: {error!r:.100}", file=sys.stderr)
                continue
            readable += 1
            whole += count % 64 == 0
    return {"kills": KILLS, "readable": readable, "whole_batches": whole}


def has_aselmdb() -> bool:
    try:
        import ase_db_backends  # noqa: F401
    except ImportError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--reads", type=int, default=5_000)
    parser.add_argument("--aselmdb-records", type=int, default=1_000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "label_store.json")
    options = parser.parse_args()
    kinds = [Lmdb, LmdbFull, Hdf5, Hdf5Flat, Safetensors]
    results = {"machine": platform.machine(), "python": platform.python_version(), "lmdb": lmdb.__version__,
               "h5py": h5py.__version__, "candidates": {}, "kills": {}}  # fmt: skip
    if options.out.exists():
        known = json.loads(options.out.read_text())
        results["candidates"] |= {k: v for k, v in known["candidates"].items() if k == "aselmdb"}
    if has_aselmdb():
        kinds = [AseLmdb] if options.out.exists() else [*kinds, AseLmdb]
        results = json.loads(options.out.read_text()) if options.out.exists() else results
    for kind in kinds:
        slow = kind is AseLmdb
        results["candidates"][kind.name] = measure(
            kind, options.aselmdb_records if slow else options.records, 500 if slow else options.reads
        )
        print(kind.name, {key: round(value, 1) for key, value in results["candidates"][kind.name].items()}, flush=True)
    for kind in [Lmdb, Hdf5, Hdf5Flat] if Lmdb in kinds else []:
        results["kills"][kind.name] = measure_kills(kind)
        print(kind.name, results["kills"][kind.name], flush=True)
    write_text(options.out, json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
