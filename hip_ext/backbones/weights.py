"""Files of base models, by URL and sha256, in this package's own cache.

A file is there in full, with the digest that its entry states, or it is not there: what has come so far lies beside it
and is gone on with, also after a kill. Processes that want the same file wait for each other.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import unquote, urlsplit

from filelock import FileLock

from hip_ext.errors import BackboneError

WAITS = (1.0, 2.0, 4.0)
"""Seconds between attempts."""

TIMEOUT = 20.0
"""Seconds without a byte."""


def cache_folder() -> Path:
    """Where files are kept: `hip-ext` in XDG_CACHE_HOME, by default in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hip-ext"


def fetch_weights(name: str, url: str, sha256: str, size: int) -> Path:
    """The file of a base model, fetched unless it is in the cache.

    Args:
        name: of the model, for errors.
        url: http or https.
        sha256: 64 hexadecimal digits.
        size: bytes.

    Raises:
        BackboneError: it cannot be fetched or kept, or is not the file that the catalogue means.
    """
    suffix = Path(unquote(urlsplit(url).path)).suffix
    target = cache_folder() / "weights" / f"{sha256}{suffix if suffix[1:].isalnum() else ''}"
    part = target.with_name(f"{sha256}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if target.is_file() and target.stat().st_size == size:
                return target
            _fill(part, name, url, size)
            with part.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != sha256:
                part.unlink()
                raise BackboneError(
                    f"{name}: {url} has sha256 {found[:12]}, the catalogue says {sha256[:12]}: it is another file, or "
                    "came damaged; nothing is kept"
                )
            part.replace(target)
    except OSError as error:
        raise BackboneError(f"{name} cannot be kept in {target.parent}: {error.strerror or error}") from None
    return target


def _fill(part: Path, name: str, url: str, size: int) -> None:
    """Brings a file to its full size, from where it ends."""
    for wait in (*WAITS, None):
        try:
            _go_on(part, url, size)
        except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
            status = getattr(error, "code", None)
            if wait is None or (status is not None and status < 500 and status not in (408, 429)):
                reason = f"HTTP {status}" if status else getattr(error, "reason", None) or error
                raise BackboneError(
                    f"{name} could not be fetched from {url} ({reason}): try again, or fetch it where there is "
                    "a network and give the file"
                ) from None
            time.sleep(wait)
        else:
            return


def _go_on(part: Path, url: str, size: int) -> None:
    there = part.stat().st_size if part.exists() else 0
    if there > size:
        part.unlink()
        there = 0
    if there == size:
        return
    from huggingface_hub.utils.tqdm import tqdm

    request = urllib.request.Request(url, headers={"Range": f"bytes={there}-"} if there else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        if answer.status != 206:  # the whole of it, whatever was asked for
            there = 0
        with part.open("ab") as file, tqdm(total=size, initial=there, unit="B", unit_scale=True, desc=part.stem) as bar:
            file.truncate(there)
            while chunk := answer.read(1 << 16):
                there += len(chunk)
                if there > size:
                    raise ValueError(f"more than the {size} bytes that the catalogue says")
                file.write(chunk)
                bar.update(len(chunk))
    if there < size:
        raise ValueError(f"it ended after {there} of {size} bytes")
