"""A record as bytes and back: arrays as safetensors, the rest as JSON; nothing is pickled.

A complete Hessian that equals its transpose is kept as its upper triangle. Floating-point arrays keep their dtype.
"""

from __future__ import annotations

import json

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from hip_ext.data.record import HessianRecord
from hip_ext.errors import DataError

ARRAYS = ("numbers", "positions", "cell", "pbc", "forces", "labelled", "rows", "probes", "products")
VALUES = ("charge", "unpaired", "energy", "method", "origin", "info")


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
    values = {name: getattr(record, name) for name in VALUES}
    try:
        text = json.dumps({**values, "info": dict(record.info)})
    except (TypeError, ValueError) as error:
        raise DataError(f"the info of a record must be what JSON can hold: {error}") from None
    return save({**arrays, "json": np.frombuffer(text.encode(), dtype=np.uint8)})


def decode(data: bytes) -> HessianRecord:
    """The record of these bytes.

    Raises:
        DataError: they are not a record, or a damaged one.
    """
    try:
        arrays = load(data)
        values = json.loads(arrays.pop("json").tobytes())
        if "triangle" in arrays:
            arrays |= _rows(arrays.pop("triangle"), len(arrays["numbers"]))
        return HessianRecord(**arrays, **values)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"damaged record: {reason}") from None


def _triangle(record: HessianRecord) -> NDArray[np.floating] | None:
    """The upper triangle of a complete, exactly symmetric Hessian, row by row, [3N(3N + 1)/2]; None for others."""
    if (
        not record.is_complete
        or record.rows is None
        or not np.array_equal(record.labelled, np.arange(len(record.rows)))
    ):
        return None
    square = record.rows.reshape(3 * len(record.rows), -1)
    return square[np.triu_indices(len(square))] if np.array_equal(square, square.T) else None


def _rows(triangle: NDArray[np.floating], atoms: int) -> dict[str, NDArray[np.generic]]:
    square = np.zeros((3 * atoms, 3 * atoms), dtype=triangle.dtype)
    upper = np.triu_indices(3 * atoms)
    square[upper] = triangle
    square.T[upper] = triangle
    return {"labelled": np.arange(atoms), "rows": square.reshape(atoms, 3, atoms, 3)}
