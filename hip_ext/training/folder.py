"""Whose a run's folder is: a run goes on in the folder that it has begun, and in no other."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from hip_ext.atomic import write_text
from hip_ext.errors import ConfigError
from hip_ext.training.finish import CHECKPOINT
from hip_ext.training.settings import TrainingConfig, first_difference
from hip_ext.training.state import STATE
from hip_ext.version import version

CONFIG, VERSIONS = "config.yaml", "versions.json"


def claim(folder: Path, config: TrainingConfig) -> None:
    """Writes the config into an empty folder, or checks that the one there is the same in all that matters.

    A run that stored neither a state nor a checkpoint has nothing to lose: its folder is taken anew.

    Raises:
        ConfigError: the folder was begun with another config, holds something else, or cannot be written.
    """
    with folder_of_a_run(folder):
        _claim(folder, config)


@contextmanager
def folder_of_a_run(folder: Path) -> Iterator[None]:
    """What is done in here with the folder of a run fails with one line where it can be no such folder.

    Raises:
        ConfigError: it is a file, or the system does not let it be made, read or written.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file: a run needs a folder of its own")
    try:
        yield
    except OSError as error:
        raise ConfigError(f"cannot keep a run in {folder}: {error.strerror or error}") from None


def _claim(folder: Path, config: TrainingConfig) -> None:
    path = folder / CONFIG
    wanted = config.model_dump(mode="json")
    begun = any((folder / name).exists() for name in (STATE, CHECKPOINT))
    if path.exists():
        try:
            found = TrainingConfig.from_yaml(path).model_dump(mode="json")
        except ConfigError as error:
            raise ConfigError(f"{path} is not the config of a run ({error}): use another folder") from None
        difference = first_difference(wanted, found)
        if difference is None:
            return
        if begun:
            raise ConfigError(f"{folder} was begun with another config: {difference}; use another folder")
    elif folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty and not a training run: use another folder")
    write_text(folder / VERSIONS, json.dumps(versions(), indent=2) + "\n")
    write_text(path, config.to_yaml())


def check_origin(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """A run goes on with the backbone and the records that it began with, or its numbers would mean nothing.

    Raises:
        ConfigError: it would go on with others.
    """
    if before["backbone"] != now["backbone"]:
        raise ConfigError(
            f"{folder} was begun with a backbone of other weights (fingerprint {before['backbone'][:12]}, now "
            f"{now['backbone'][:12]}): give the old one back, or use another folder"
        )
    if before["records"] != now["records"]:
        raise ConfigError(
            f"{folder} was begun with {before['records'][0]} training and {before['records'][1]} validation records, "
            f"now there are {now['records'][0]} and {now['records'][1]}: use another folder"
        )


def versions() -> dict[str, str]:
    """Versions of Python, hip_ext and what it computes with, as far as they are installed."""
    found = {"python": platform.python_version(), "hip-ext": version()}
    for name in ("torch", "lightning", "numpy", "ase", "e3nn", "mace-torch", "so3krates-torch", "fairchem-core"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
