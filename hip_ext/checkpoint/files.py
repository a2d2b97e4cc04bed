"""Files of a checkpoint that came from anywhere: only regular ones inside the folder are opened, and none blocks."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from hip_ext.errors import CheckpointError

# A pipe that nobody writes to blocks whoever opens it without O_NONBLOCK; not every system has all of these.
_FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))

_DIGEST = re.compile("[0-9a-f]{64}")


@contextmanager
def opened(folder: Path, name: str) -> Iterator[tuple[BinaryIO, int]]:
    """Opens a file of a checkpoint; yields it and its size in bytes.

    A symbolic link is followed only in the Hub's cache, from a snapshot to the blobs of its repository.

    Raises:
        CheckpointError: there is no such file, it cannot be read, or it is a link, a pipe, a device or a folder.
    """
    path = folder / name
    try:
        descriptor = os.open(_blob(folder, path) if path.is_symlink() else path, _FLAGS)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise CheckpointError(f"{path} is not a regular file: the checkpoint is damaged, get it again")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                yield file, status.st_size
        finally:
            os.close(descriptor)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from None


def read_all(folder: Path, name: str, limit: int) -> bytes:
    """The bytes of a file that may not be longer than `limit`.

    Raises:
        CheckpointError: as `opened`, or it is longer.
    """
    with opened(folder, name) as (file, size):
        if size > limit:
            raise CheckpointError(f"{folder / name} is {size} bytes long: at most {limit} are read")
        return file.read(limit)


def _blob(folder: Path, link: Path) -> Path:
    """What a link of a snapshot in the Hub's cache points to.

    models--owner--name/snapshots/revision/file → models--owner--name/blobs/digest, which itself may be a link to what
    several repositories share: → blobs/di/digest beside the folder of the repository.
    """
    here, target = folder.resolve(), Path(os.path.realpath(link))  # which ends also where links go round
    repository = here.parent.parent
    blobs, shared = repository / "blobs", repository.parent / "blobs"
    if here.parent.name == "snapshots" and not blobs.is_symlink():
        if target.parent == blobs:
            return target
        in_store = target.parent == shared / target.name[:2] and _DIGEST.fullmatch(target.name)
        if in_store and Path(os.path.realpath(blobs / link.readlink().name)) == target:
            return target
    raise CheckpointError(f"{link} is a symbolic link, which is not followed: copy the file itself into the folder")
