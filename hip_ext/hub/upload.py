"""A checkpoint to a repository on the Hub: one commit with all of its files, over nothing but an older checkpoint."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, errors

from hip_ext.checkpoint.config import LARGEST_CONFIG, read_config
from hip_ext.checkpoint.schema import BACKBONE, CONFIG
from hip_ext.checkpoint.writing import FILES, is_ours
from hip_ext.errors import HubError
from hip_ext.hub.download import fetch_file
from hip_ext.hub.names import DEFAULT_REVISION, HubOptions, repository_and_revision
from hip_ext.hub.problems import explained
from hip_ext.version import version


def push_folder(
    folder: Path,
    name: str,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    private: bool | None = None,
    message: str | None = None,
    create_pr: bool = False,
) -> str:
    """Writes the checkpoint in a folder to a repository, which is made if there is none; returns the new commit.

    Args:
        folder: of a checkpoint.
        name: owner/name.
        revision: branch to write to; by default the main one.
        token: of a user who may write there; by default as in `HubOptions`.
        private: of a repository that is made; by default what its owner has chosen.
        message: of the commit.
        create_pr: propose the commit instead, to a repository of somebody else.

    Raises:
        CheckpointError: the folder holds no checkpoint.
        HubError: the repository holds something else, may not be written, or cannot be reached.
    """
    repository, branch = repository_and_revision(name, revision)
    read_config(folder)
    api = HfApi(token=token, library_name="hip-ext", library_version=version())
    with explained(repository, branch, "written"):
        if not create_pr:
            api.create_repo(repository, private=private, exist_ok=True)
            if branch != DEFAULT_REVISION:
                api.create_branch(repository, branch=branch, exist_ok=True)
        _check_target(repository, branch, token)
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationAdd(file, folder / file) for file in FILES if (folder / file).is_file()
        ]
        if not (folder / BACKBONE).is_file() and api.file_exists(repository, BACKBONE, revision=branch):
            operations.append(CommitOperationDelete(BACKBONE))
        commit = api.create_commit(
            repository,
            operations,
            revision=branch,
            commit_message=message or f"Checkpoint of hip-ext {version()}",
            create_pr=create_pr,
        )
    return commit.oid


def _check_target(repository: str, branch: str, token: str | bool | None) -> None:
    """Raises HubError for a repository that holds the config of another program's model."""
    try:
        path = fetch_file(repository, CONFIG, branch, LARGEST_CONFIG, HubOptions(token=token))
    except errors.LocalEntryNotFoundError:  # of a connection that has failed
        raise
    except errors.EntryNotFoundError:
        return
    if not is_ours(path.parent):
        raise HubError(f"{repository} holds a model that is not of hip-ext: choose another repository")
