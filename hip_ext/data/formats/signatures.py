"""What files begin with, whatever their names, and HDF5 files as an optional library opens them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from hip_ext.errors import MissingDependencyError

HDF5 = (0, b"\x89HDF\r\n\x1a\n")
LMDB = (16, (0xBEEFC0DE).to_bytes(4, "little"))


def starts_with(path: Path, signature: tuple[int, bytes]) -> bool:
    """Whether a file has these bytes at this place near its beginning."""
    offset, expected = signature
    if not path.is_file():
        return False
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(len(expected)) == expected


def open_hdf5(path: Path, mode: Literal["r", "w"] = "r") -> Any:
    """An open h5py.File.

    Raises:
        MissingDependencyError: h5py is not installed.
        OSError: the file is damaged.
    """
    try:
        import h5py
    except ImportError:
        raise MissingDependencyError("h5py is not installed: pip install 'hip-ext[train]'") from None
    return h5py.File(path, mode)


def hdf5_has(path: Path, name: str) -> bool:
    """Whether a file is HDF5 with this group or data set."""
    if not starts_with(path, HDF5):
        return False
    try:
        with open_hdf5(path) as file:
            return name in file
    except OSError:
        return False
