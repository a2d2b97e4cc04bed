"""What a run needs to go on exactly where it was, in one file that is either the old one or the new one."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from hip_ext.atomic import atomic_path
from hip_ext.errors import DataError

STATE = "state.pt"


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """Replaces the state of a run.

    Args:
        folder: of the run.
        state: tensors, numbers, strings, and lists and dictionaries of them.

    Raises:
        DataError: it cannot be written; the old one is as it was.
    """
    try:
        with atomic_path(folder / STATE) as path:
            torch.save(state, path)
    except (OSError, RuntimeError) as error:  # torch's own writer raises the latter when the disk is full
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        kept = "the state before it is kept" if (folder / STATE).exists() else "nothing was stored before it"
        raise DataError(
            f"cannot write the state of step {state['step']} to {folder / STATE}: {reason}; {kept}, "
            "make room and run the same command"
        ) from None


def read_state(folder: Path) -> dict[str, Any] | None:
    """The state of a run, or None for one that has not come so far; only tensors and plain values are read.

    Raises:
        DataError: the file is damaged.
    """
    path = folder / STATE
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        state["step"]
    except (OSError, RuntimeError, TypeError, KeyError, EOFError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path} is damaged ({reason:.80}): delete it to begin the run again") from None
    return state
