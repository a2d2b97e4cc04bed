"""A record as bytes and back: arrays as safetensors, the rest as JSON; nothing is pickled.

A complete Hessian that equals its transpose is kept as its upper triangle. Floating-point arrays keep their dtype. The
first four bytes are the CRC-32 of the others, so that damage is noticed and not learned from.
"""

from __future__ import annotations

import json
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from hip_ext.data.record import HessianRecord
from hip_ext.errors import DataError

ARRAYS = ("numbers", "positions", "cell", "pbc", "forces", "labelled", "rows", "probes", "products")


def encode(record: HessianRecord) -> bytes:
    """The record as bytes.

    Raises:
        DataError: its `info` holds something that JSON cannot.
    """
    arrays = {name: np.ascontiguousarray(getattr(record, name)) for name in ARRAYS if getattr(record, name) is not None}
    triangle = _triangle(record)
    if triangle is not None:
        del arrays["labelled"], arrays["rows"]
        arrays["triangle"] = triangle
    if not record.pbc.any() and not record.cell.any():
        del arrays["cell"], arrays["pbc"]
    values = {
        "charge": float(record.charge),
        "unpaired": float(record.unpaired),
        "energy": None if record.energy is None else float(record.energy),
        "method": record.method,
        "origin": record.origin,
    }
    try:
        text = json.dumps({**values, "info": dict(record.info)}, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"the info of a record must be what JSON can hold: {error}") from None
    data = save({**arrays, "json": np.frombuffer(text.encode(), dtype=np.uint8)})
    return zlib.crc32(data).to_bytes(4, "little") + data


def decode(data: bytes) -> HessianRecord:
    """The record of these bytes.

    Raises:
        DataError: they are not a record, or a damaged one.
    """
    checksum, data = data[:4], data[4:]
    if zlib.crc32(data).to_bytes(4, "little") != checksum:
        raise DataError(f"damaged record: the checksum of its {len(data)} bytes is wrong")
    try:
        arrays: dict[str, Any] = load(data)
        values = json.loads(arrays.pop("json").tobytes())
        if "triangle" in arrays:
            arrays |= _rows(arrays.pop("triangle"), len(arrays["numbers"]))
        return HessianRecord(**arrays, **values)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"damaged record: {reason}") from None


def _triangle(record: HessianRecord) -> NDArray[np.floating] | None:
    """The upper triangle of a complete, exactly symmetric Hessian, row by row, [3N(3N + 1)/2]; None for others."""
    if not record.is_complete or record.rows is None or record.labelled is None:
        return None
    if not np.array_equal(record.labelled, np.arange(len(record.rows))):
        return None
    square = record.rows.reshape(3 * len(record.rows), -1)
    return square[np.triu_indices(len(square))] if np.array_equal(square, square.T) else None


def _rows(triangle: NDArray[np.floating], atoms: int) -> dict[str, NDArray[np.generic]]:
    square = np.zeros((3 * atoms, 3 * atoms), dtype=triangle.dtype)
    upper = np.triu_indices(3 * atoms)
    square[upper] = triangle
    square.T[upper] = triangle
    return {"labelled": np.arange(atoms), "rows": square.reshape(atoms, 3, atoms, 3)}
