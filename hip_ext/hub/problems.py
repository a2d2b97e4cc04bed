"""What the Hub's client reports, in one line: what was wanted, what was found, what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants, errors

from hip_ext.errors import HipExtError, HubError

LOGIN = "run 'hf auth login' or give token="
BUSY = frozenset({408, 429, 500, 502, 503, 504})
"""What a server says for the moment: asked again, it may answer."""


@contextmanager
def explained(repository: str, revision: str, doing: str) -> Iterator[None]:
    """Turns whatever the client raises in the block into a `HubError`.

    Args:
        repository: owner/name.
        revision: of it.
        doing: for errors of no known kind, as in "could not be {doing}".

    Raises:
        HubError: the client has failed.
    """
    try:
        yield
    except HipExtError:
        raise
    except Exception as error:  # of the client, of whichever HTTP library is below it, or of the disk
        raise HubError(_explanation(error, repository, revision, doing)) from None


def status_of(error: BaseException | None) -> int | None:
    """The HTTP status that an error tells of, or None."""
    return getattr(getattr(error, "response", None), "status_code", None)


def not_cached(repository: str, revision: str, name: str) -> HubError:
    """The error for a file that is not in the cache while the network may not be used."""
    how = "unset HF_HUB_OFFLINE" if constants.HF_HUB_OFFLINE else "leave out local_files_only"
    return HubError(f"{name} of {repository} at {revision!r} is not in the Hub's cache: {how} to fetch it")


def _explanation(error: Exception, repository: str, revision: str, doing: str) -> str:
    # An upload that has failed is told of by an error without a status, whose cause has one.
    place, status = f"{constants.ENDPOINT}/{repository}", status_of(error) or status_of(error.__cause__)
    if isinstance(error, errors.GatedRepoError):
        return f"{repository} is gated: ask for access at {place}, then {LOGIN}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"there is no repository {place}, or it is private: check the name; if it is private, {LOGIN}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repository} has no revision {revision!r}: see {place}/commits, or leave the revision out"
    if isinstance(error, errors.LocalEntryNotFoundError):
        return _unreachable(repository, error.__cause__ or error)
    if isinstance(error, errors.EntryNotFoundError):
        missing = str(getattr(getattr(error, "response", None), "url", "")).rpartition("/")[2]
        return f"{place} at {revision!r} is not a checkpoint: it has no {missing or 'such file'}"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"{repository} could not be {doing}: offline mode is on, unset HF_HUB_OFFLINE"
    if status in (401, 403):
        return f"no permission for {place} (HTTP {status}): {LOGIN}, of a user who may do this"
    if status in BUSY:
        return f"the Hub could not serve {repository} (HTTP {status}): try again later"
    if status is None and (_of_http(error) or not isinstance(error, (OSError, ValueError, RuntimeError))):
        return _unreachable(repository, error)
    return f"{repository} could not be {doing} ({_reason(error.__cause__ or error)})"


def _of_http(error: Exception) -> bool:
    """Whether an error is of the library below the client, which is another in each of its major versions."""
    return type(error).__module__.startswith(("httpx", "requests", "urllib3"))


def _unreachable(repository: str, error: BaseException) -> str:
    if (status := status_of(error)) is not None:
        return f"the Hub could not serve {repository} (HTTP {status}): try again later"
    return (
        f"{constants.ENDPOINT} cannot be reached for {repository} ({_reason(error)}): check the network and "
        "HF_ENDPOINT, or, where it has been fetched before, set HF_HUB_OFFLINE=1 or local_files_only=True"
    )


def _reason(error: BaseException) -> str:
    """What the server has said, or else the first line of the client's message, or the name of the error."""
    said = str(getattr(error, "server_message", None) or error)
    return (" ".join(said.strip().partition("\n")[0].split())[:300] or type(error).__name__).rstrip(".")
