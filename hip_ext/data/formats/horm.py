"""HORM's label files: an LMDB of pickled torch-geometric Data, read without unpickling and without torch-geometric.

Keys are "0", "1", … and "length". Of each Data the fields are `pos` (Å), `charges` (atomic numbers), `energy` (eV),
`ae` (energy without that of the atoms, eV), `forces` (eV/Å) and `hessian` (flat, eV/Å²). All are neutral singlets at
ωB97X/6-31G(d) (HORM, arXiv:2505.12447).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hip_ext.data.formats.pickles import Made, read_pickle
from hip_ext.data.formats.signatures import LMDB, starts_with
from hip_ext.data.formats.tensors import NAMES, as_array
from hip_ext.data.record import HessianRecord
from hip_ext.errors import DataError

if TYPE_CHECKING:
    from hip_ext.data.environment import SharedEnvironment

METHOD = "wB97X/6-31G(d)"
_DATA = ("torch_geometric.data.data.Data", "torch_geometric.data.data.DataEdgeAttr")
_MORE = ("torch_geometric.data.data.DataTensorAttr", "torch_geometric.data.storage.GlobalStorage")
_ALLOWED = frozenset(NAMES) | set(_DATA) | set(_MORE)


def matches(path: Path) -> bool:
    """Whether the file is an LMDB with numbered records."""
    if not starts_with(path, LMDB) or path.suffix == ".aselmdb":
        return False
    return _get(path, b"0") is not None and _get(path, b"length") is not None


def read(path: Path) -> Iterator[HessianRecord | DataError]:
    """Yields the records in the order of their numbers.

    Raises:
        DataError: the file is no label file of HORM, or damaged.
    """
    if not path.is_file():
        raise DataError(f"cannot read {path}: it is not a file")
    _held = _environment(path)  # so that it is not opened anew for every record
    stored = _get(path, b"length")
    count = read_pickle(stored, ()) if stored else None
    if type(count) is not int or count < 0:
        raise DataError(f"{path} is no label file of HORM: it does not say how many records it has")
    for place in range(count):
        stored = _get(path, str(place).encode())
        if stored is None:
            yield DataError(f"{path}, record {place}: it is missing")
            continue
        try:
            yield read_data(stored, f"{path.name}:{place}")
        except (ArithmeticError, TypeError, ValueError) as error:  # ours among them, and numbers that are none
            yield DataError(f"{path}, record {place}: {error}")


def read_data(data: bytes, origin: str = "") -> HessianRecord:
    """The record of one pickled Data.

    Raises:
        DataError: it is damaged, lacks a field, or holds anything but tensors and Data.
    """
    fields = _fields(read_pickle(data, _ALLOWED))
    missing = [name for name in ("pos", "charges", "hessian") if name not in fields]
    if missing:
        raise DataError(f"the Data has no {', '.join(missing)}")
    arrays = {name: as_array(fields[name], name) for name in fields if name in _WANTED}
    info = {name: float(arrays[name].reshape(-1)[0]) for name in ("ae",) if name in arrays and arrays[name].size}
    info |= {name: int(arrays[name].reshape(-1)[0]) for name in ("rxn",) if name in arrays and arrays[name].size}
    energy = arrays.get("energy")
    record = HessianRecord(
        numbers=arrays["charges"].astype(np.int64).reshape(-1),
        positions=arrays["pos"],
        energy=None if energy is None or energy.size != 1 else float(energy.reshape(-1)[0]),
        forces=arrays.get("forces"),
        method=METHOD,
        origin=origin,
        info=info,
    )
    return record.with_hessian(arrays["hessian"])


_WANTED = ("pos", "charges", "energy", "ae", "forces", "hessian", "rxn")


def _fields(value: Any) -> dict[str, Any]:
    """The fields of a Data: in its store in present releases of torch-geometric, in itself in old ones."""
    if not isinstance(value, Made) or value.name != _DATA[0] or not isinstance(value.state, dict):
        raise DataError("it is no torch-geometric Data")
    store = value.state.get("_store")
    if isinstance(store, Made) and isinstance(store.state, dict):
        mapping = store.state.get("_mapping")
        return mapping if isinstance(mapping, dict) else {}
    return value.state


def _get(path: Path, key: bytes) -> bytes | None:
    with _environment(path).transaction() as (transaction, _):
        found: bytes | None = transaction.get(key)
        return found


def _environment(path: Path) -> SharedEnvironment:
    from hip_ext.data.environment import shared_environment

    return shared_environment(path, (), foreign=True)
