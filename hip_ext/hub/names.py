"""What may name a repository on the Hub and a revision of it: nothing else reaches a URL or a folder of the cache."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from hip_ext.errors import HubError

DEFAULT_REVISION = "main"
COMMIT = re.compile("[0-9a-f]{40}")

_WORD = r"[A-Za-z0-9](?:[\w.-]{0,94}\w)?"
_REPOSITORY = re.compile(rf"(?!.*(?:--|\.\.|\.git(?:@|$))){_WORD}/{_WORD}(?:@(?P<revision>.*))?", re.ASCII)
_REVISION = re.compile(r"(?!.*(?:\.\.|//|\.lock$))[A-Za-z0-9_][\w.+/-]{0,200}", re.ASCII)


@dataclass(frozen=True)
class HubOptions:
    """How a checkpoint is fetched.

    Attributes:
        revision: branch, tag or commit; by default the newest commit of the main branch.
        token: for repositories that are private or gated; by default the one that `hf auth login` has stored, or
            HF_TOKEN; False to send none.
        cache_dir: by default the Hub's own cache (HF_HUB_CACHE, HF_HOME).
        local_files_only: use what is in the cache, and no network.
    """

    revision: str | None = None
    token: str | bool | None = field(default=None, repr=False)
    cache_dir: str | Path | None = None
    local_files_only: bool = False


def is_repository(name: object) -> bool:
    """Whether a name is that of a repository, "owner/name" or "owner/name@revision", and can be nothing else."""
    return isinstance(name, str) and _REPOSITORY.fullmatch(name) is not None


def repository_and_revision(name: str, revision: str | None = None) -> tuple[str, str]:
    """Takes "owner/name" or "owner/name@revision" apart.

    Args:
        name: of the repository.
        revision: as in `HubOptions`.

    Raises:
        HubError: this cannot be a repository or a revision, or two revisions are given.
    """
    found = _REPOSITORY.fullmatch(name) if isinstance(name, str) else None
    if found is None and is_repository(str(name).partition("@")[0]):
        raise HubError(
            f"{name[:200]!r} cannot be a revision of a repository: give a branch, a tag or a commit after the @"
        )
    if found is None:
        raise HubError(
            f"{str(name)[:200]!r} cannot be a repository on the Hub: give its owner and name, as in 'me/head'"
        )
    repository, within = name.partition("@")[0], found["revision"]
    if within is not None and revision not in (None, within):
        raise HubError(f"two revisions of {repository}: {within[:100]!r} in its name and {str(revision)[:100]!r}")
    wanted = within if revision is None else revision
    if wanted is None:
        return repository, DEFAULT_REVISION
    if not isinstance(wanted, str) or not _REVISION.fullmatch(wanted):
        raise HubError(f"{str(wanted)[:100]!r} cannot be a revision of {repository}: give a branch, a tag or a commit")
    return repository, wanted
