"""MACE's own trainer with a Hessian head: from a command line to an energy model and the checkpoint of a head."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from hip_ext.backbones.borrowed import reason_of
from hip_ext.errors import ConfigError, HipExtError
from hip_ext.plugins.mace.options import head_folder, parse
from hip_ext.plugins.mace.release import check_folders
from hip_ext.plugins.mace.session import Session


def train(arguments: Sequence[str]) -> Path | None:
    """Runs MACE's trainer with a Hessian head, or resumes it (`--restart_latest`).

    Args:
        arguments: a command line as for `mace_run_train`, with the options of `hip_ext.plugins.mace.options`.

    Returns:
        The folder of the head's checkpoint, beside the energy model; None if the run has written none (`--dry_run`).

    Raises:
        MissingDependencyError: MACE is not installed.
        ConfigError: an option cannot be used, or MACE refuses its input.
        DataError: a label is wrong, or no structure has one.
        BackboneError: the foundation model cannot be used.
        CheckpointError: a run cannot be resumed, or its results could not be written.
    """
    args = parse(arguments)
    check_folders(args)
    session = Session(args)
    with _surroundings_restored():
        try:
            session.run()
        except HipExtError:
            raise
        except Exception as error:  # MACE meets bad input with assertions and errors of every kind
            if session.training:
                raise
            raise ConfigError(f"MACE stopped before training: {reason_of(error)} ({type(error).__name__})") from error
    return head_folder(args, stage_two=session.stages[-1]) if session.released else None


@contextmanager
def _surroundings_restored() -> Iterator[None]:
    """Puts back torch's default dtype and the handlers of the log, both of which MACE sets for the whole process."""
    dtype, log = torch.get_default_dtype(), logging.getLogger()
    handlers, level = list(log.handlers), log.level
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        for handler in set(log.handlers) - set(handlers):
            log.removeHandler(handler)
            handler.close()
        log.setLevel(level)
