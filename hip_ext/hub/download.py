"""The files of a checkpoint, and no others, from the Hub into its own cache.

What a file is said to be is looked at before it is fetched: its size, and that its names for the cache are digests.
What has come is compared with that digest before anybody reads it, and is removed where it differs, so that a
connection which spoils data leaves nothing in the cache that would fail for ever.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from huggingface_hub import constants, errors, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.file_download import HfFileMetadata

from hip_ext.checkpoint.config import LARGEST_CONFIG, read_config
from hip_ext.checkpoint.schema import BACKBONE, CONFIG, WEIGHTS
from hip_ext.errors import CheckpointError, HubError
from hip_ext.hub.names import COMMIT, HubOptions, repository_and_revision
from hip_ext.hub.problems import BUSY, explained, not_cached, status_of
from hip_ext.version import version

LARGEST_HEAD, LARGEST_BACKBONE = 1 << 30, 1 << 35
"""Bytes; heads have some 1e6, and the largest backbones that are known some 1e10."""

WAITS = (1.0, 2.0)
"""Seconds between attempts, where a server is busy or cannot be reached."""

Answer = TypeVar("Answer")

_ETAG = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")


def fetch_checkpoint(name: str, options: HubOptions) -> Path:
    """The folder of a checkpoint in the Hub's cache, fetched as far as it is not there yet.

    Args:
        name: "owner/name", or "owner/name@revision".
        options: how.

    Raises:
        HubError: there is no such repository or revision, it may not be read, or it cannot be reached.
        CheckpointError: it is not a checkpoint, or one that this version cannot read.
    """
    repository, revision = repository_and_revision(name, options.revision)
    with explained(repository, revision, "fetched"):
        folder = fetch_file(repository, CONFIG, revision, LARGEST_CONFIG, options).parent
        try:
            config = read_config(folder)
        except CheckpointError as error:
            raise CheckpointError(f"{repository} at {revision!r}: {error}") from None
        # All of one commit, whatever happens to the branch meanwhile.
        fetch_file(repository, WEIGHTS, folder.name, LARGEST_HEAD, options)
        if config.backbone.tuned:
            fetch_file(repository, BACKBONE, folder.name, LARGEST_BACKBONE, options)
    return folder


def fetch_file(repository: str, name: str, revision: str, limit: int, options: HubOptions) -> Path:
    """One file of a repository, in the snapshot folder of its commit; errors are the client's own.

    Args:
        repository: owner/name.
        name: of the file.
        revision: branch, tag or commit.
        limit: bytes that it may have.
        options: all but the revision.

    Raises:
        HubError: the file is too large, damaged, or not in the cache where the network may not be used.
    """
    found = try_to_load_from_cache(repository, name, cache_dir=options.cache_dir, revision=revision)
    cached = Path(found) if isinstance(found, str) else None
    if cached is not None and COMMIT.fullmatch(revision):
        return cached
    if options.local_files_only or constants.HF_HUB_OFFLINE:
        if cached is None:
            raise not_cached(repository, revision, name)
        return cached
    try:
        metadata = _metadata(repository, name, revision, options)
    except Exception as error:
        # The Hub is away: what it gave last will do. What it refuses is not read from the cache behind its back.
        if cached is not None and status_of(error) in (None, *BUSY):
            return cached
        raise
    _check(repository, name, metadata, limit)

    def fetched() -> Path:
        path = Path(
            hf_hub_download(
                repository,
                name,
                revision=revision,
                cache_dir=options.cache_dir,
                token=options.token,
                library_name="hip-ext",
                library_version=version(),
            )
        )
        if path != cached:
            _compare(repository, path, metadata)
        return path

    return _patiently(fetched)


class _DamagedError(HubError):
    """What came is not what was announced."""


def _metadata(repository: str, name: str, revision: str, options: HubOptions) -> HfFileMetadata:
    """What the server says about a file."""
    url = hf_hub_url(repository, name, revision=revision)
    return _patiently(
        lambda: get_hf_file_metadata(url, token=options.token, library_name="hip-ext", library_version=version())
    )


def _patiently(call: Callable[[], Answer]) -> Answer:
    """Calls, and calls again where a server is busy, a connection breaks or data is spoilt on the way."""
    for wait in WAITS:
        try:
            return call()
        except Exception as error:
            if not _may_pass(error):
                raise
        time.sleep(wait)
    return call()


def _may_pass(error: Exception) -> bool:
    """Whether it may go otherwise in a second; without a status it is the connection, in any library's own words."""
    if status_of(error) is not None:
        return status_of(error) in BUSY
    final = (ValueError, errors.EntryNotFoundError, errors.OfflineModeIsEnabled, errors.LocalTokenNotFoundError)
    return isinstance(error, _DamagedError) or not isinstance(error, final)


def _check(repository: str, name: str, found: HfFileMetadata, limit: int) -> None:
    """Refuses what would be too large, and names that could lead out of the cache."""
    if found.size is None or not 0 <= found.size <= limit:
        raise HubError(f"{name} of {repository} is {found.size} bytes long: at most {limit} are fetched")
    if not COMMIT.fullmatch(found.commit_hash or "") or not _ETAG.fullmatch(found.etag or ""):
        raise HubError(f"{constants.ENDPOINT} does not answer as a Hub does for {repository}: check HF_ENDPOINT")


def _compare(repository: str, path: Path, expected: HfFileMetadata) -> None:
    """Whether a file that has come is the one that was announced: by its sha256, or as git counts it."""
    etag, size = expected.etag or "", path.stat().st_size
    digest = hashlib.sha256() if len(etag) == 64 else hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    if digest.hexdigest() == etag or path.parent.name != expected.commit_hash:  # or the branch has moved on meanwhile
        return
    for copy in (path, path.parents[2] / "blobs" / etag):
        copy.unlink(missing_ok=True)
    raise _DamagedError(
        f"{path.name} of {repository} came damaged ({digest.hexdigest()[:12]}, expected {etag[:12]}) and is not kept: "
        "try again"
    )
