"""Where a checkpoint is: a folder, one that ships, one that the catalogue names, or a repository on the Hub."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from hip_ext import shipped
from hip_ext.catalogue import Head, heads
from hip_ext.checkpoint.replacement import present
from hip_ext.errors import CheckpointError
from hip_ext.hub.names import HubOptions, is_repository, repository_and_revision
from hip_ext.suggest import did_you_mean


def find_checkpoint(name: str | Path, hub: HubOptions | None = None) -> Path:
    """The folder of a checkpoint, fetched from the Hub where it is there.

    Args:
        name: a folder, also one that a killed writer has left half exchanged; the name of a checkpoint that ships or
            of one in the catalogue; or a repository, "owner/name" or "owner/name@revision".
        hub: how to fetch it.

    Raises:
        CheckpointError: there is no such folder and none of that name is known.
        HubError: the repository cannot be fetched, or its revision cannot be one.
        ConfigError: the user's own catalogue cannot be read.
    """
    hub = hub or HubOptions()
    if not str(name).strip():
        raise CheckpointError(
            "the name of a checkpoint is empty: give a folder, a name of 'hip-ext models', or owner/name"
        )
    folder = _on_disk(name)
    if folder is not None:
        if hub.revision is not None:
            raise CheckpointError(f"{str(name)[:300]!r} is a folder, which has no revisions: leave the revision out")
        return folder
    if is_repository(name):
        from hip_ext.hub.download import fetch_checkpoint

        return fetch_checkpoint(str(name), hub)
    if is_repository(str(name).partition("@")[0]):
        repository_and_revision(str(name))  # raises: of the two, only the revision can be wrong
    listed = heads()
    if isinstance(name, str) and name in listed:
        return _listed(listed[name], hub)
    ships = shipped.shipped_checkpoints()
    known = f"shipped are {', '.join(ships)}" if ships else "none is shipped"
    raise CheckpointError(
        f"no checkpoint {str(name)!r}: not a folder, not a repository on the Hub (owner/name), and {known}"
        f"{did_you_mean(str(name), [*ships, *listed])}"
    )


def _listed(head: Head, hub: HubOptions) -> Path:
    """A head of the catalogue, at the revision that it names."""
    if head.entry.repo is not None:
        from hip_ext.hub.download import fetch_checkpoint

        revision = hub.revision or head.entry.revision
        return fetch_checkpoint(head.entry.repo, replace(hub, revision=revision))
    if head.folder is None or not head.folder.is_dir():
        raise CheckpointError(f"{head.name!r} is in {head.folder} by the catalogue, which is no folder: correct it")
    if hub.revision is not None:
        raise CheckpointError(f"{head.name!r} is a folder, which has no revisions: leave the revision out")
    return head.folder


def _on_disk(name: str | Path) -> Path | None:
    with suppress(OSError):  # a name can be too long for a folder
        folder = present(Path(name))
        if folder.is_dir():
            return folder
    if str(name) in shipped.shipped_checkpoints():
        # Installers may link every file of a package to their cache; ours are trusted there too.
        return (shipped.checkpoints_folder() / str(name) / shipped.CHECKPOINT_FILES[0]).resolve().parent
    return None
