"""Where a checkpoint is: a folder, one that ships, one that the catalogue names, or a repository on the Hub."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from hip_ext.checkpoint.replacement import present
from hip_ext.errors import CheckpointError
from hip_ext.hub.names import HubOptions, is_repository
from hip_ext.shipped import CHECKPOINT_FILES, checkpoints_folder, shipped_checkpoints
from hip_ext.suggest import did_you_mean


def find_checkpoint(name: str | Path, hub: HubOptions | None = None) -> Path:
    """The folder of a checkpoint, fetched from the Hub where it is there.

    Args:
        name: a folder, also one that a killed writer has left half exchanged; the name of a checkpoint that ships or
            of one in the catalogue; or a repository, "owner/name" or "owner/name@revision".
        hub: how to fetch it.

    Raises:
        CheckpointError: there is no such folder and none of that name is known.
        HubError: the repository cannot be fetched, or a revision is asked of what has none.
        ConfigError: the user's own catalogue cannot be read.
    """
    hub = hub or HubOptions()
    folder = _on_disk(name)
    if folder is not None:
        if hub.revision is not None:
            raise CheckpointError(f"{str(name)[:300]!r} is a folder, which has no revisions: leave the revision out")
        return folder
    if is_repository(name):
        from hip_ext.hub.download import fetch_checkpoint

        return fetch_checkpoint(str(name), hub)
    shipped = shipped_checkpoints()
    known = f"shipped are {', '.join(shipped)}" if shipped else "none is shipped"
    raise CheckpointError(
        f"no checkpoint {str(name)!r}: not a folder, not a repository on the Hub (owner/name), and {known}"
        f"{did_you_mean(str(name), shipped)}"
    )


def _on_disk(name: str | Path) -> Path | None:
    with suppress(OSError):  # a name can be too long for a folder
        folder = present(Path(name))
        if folder.is_dir():
            return folder
    if str(name) in shipped_checkpoints():
        # Installers may link every file of a package to their cache; ours are trusted there too.
        return (checkpoints_folder() / str(name) / CHECKPOINT_FILES[0]).resolve().parent
    return None
