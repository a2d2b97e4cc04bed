"""MACE's checkpoints for resuming, with two of their habits changed.

MACE removes the last checkpoint before it writes the next, and goes on from the beginning when one cannot be read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hip_ext.backbones.borrowed import reason_of
from hip_ext.backbones.mace_models import import_mace
from hip_ext.errors import CheckpointError


def checkpoint_handler(*args: Any, **kwargs: Any) -> Any:
    """MACE's CheckpointHandler with the changes of this module; its arguments."""

    class Handler(import_mace("mace.tools").CheckpointHandler):  # type: ignore[misc]
        failure: Exception | None = None

        def save(self, state: Any, epochs: int, keep_last: bool = False) -> None:
            old, keep = self.io.old_path, self.io.keep or keep_last
            super().save(state, epochs, keep_last=True)
            if old and not keep and old != self.io.old_path:
                Path(old).unlink(missing_ok=True)

        def load_latest(self, state: Any, swa: bool = False, device: Any = None, strict: bool = True) -> Any:
            if swa and not list(Path(self.io.directory).glob(f"{self.io.tag}_epoch-*_swa.pt")):
                raise CheckpointError(f"there is no checkpoint of stage two in {self.io.directory}")
            try:
                return super().load_latest(state, swa=swa, device=device, strict=strict)
            except Exception as error:  # of the file, or because it is of another model: MACE would start anew
                self.failure = error
                raise

        def check(self) -> None:
            """Raises CheckpointError if a checkpoint was there and could not be used."""
            if self.failure is not None:
                reason = reason_of(self.failure).rstrip(":")
                raise CheckpointError(
                    f"the latest checkpoint in {self.io.directory} cannot be used ({reason}): repeat the options that "
                    "it was made with, or remove it"
                )

    return Handler(*args, **kwargs)
