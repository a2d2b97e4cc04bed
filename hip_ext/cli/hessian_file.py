"""Hessians that were made before, one for each frame of a structure file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hip_ext.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMATS = (".npz", ".json", ".npy", ".txt")


def read_hessians(path: Path, frames: int) -> list[NDArray[np.float64]]:
    """The matrices of a file, eV/Å²: what `hip-ext hessian --out` wrote (.npz, .json), or one as .npy or .txt.

    Their sizes are not looked at: that takes the structures.

    Raises:
        DataError: the file cannot be read, or does not hold one Hessian a frame.
    """
    import numpy as np

    if path.suffix not in FORMATS:
        raise DataError(f"cannot read {path}: a Hessian is read from {', '.join(FORMATS)}, found {path.suffix!r}")
    try:
        found = [np.asarray(matrix, dtype=np.float64) for matrix in _read(path)]
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"cannot read {path}: there is no Hessian in it ({str(error).splitlines()[0][:80]})") from None
    if len(found) != frames:
        raise DataError(f"{path} holds {len(found)} Hessians for {frames} structures: one for each is needed, in order")
    return found


def _read(path: Path) -> list[Any]:
    import numpy as np

    if path.suffix == ".json":
        return [one["hessian"] for one in json.loads(path.read_text(encoding="utf-8"))]
    if path.suffix == ".txt":
        text = path.read_text(encoding="utf-8")
        if not text.strip():
            raise ValueError("it is empty")
        return [np.loadtxt(text.splitlines())]
    loaded = np.load(path, allow_pickle=False)
    if path.suffix == ".npy":
        return [loaded]
    with loaded:
        return [loaded[f"hessian_{k}"] for k in range(sum(name.startswith("hessian_") for name in loaded.files))]
