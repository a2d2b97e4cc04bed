"""What the catalogue adds to a model that is loaded by name: its file, where it has a URL, and a word on licences."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

from hip_ext.backbones.weights import cache_folder, fetch_weights
from hip_ext.catalogue import Base, base_models, licences

_told: set[str] = set()


def listed(kind: str, name: str) -> Base | None:
    """The catalogue's entry of a model; None for files and whatever else it does not have.

    Raises:
        ConfigError: a catalogue cannot be read.
    """
    shipped = base_models(own=False).get((kind, name))
    if shipped is not None or Path(name).exists():
        return shipped
    return base_models().get((kind, name))


def file_of(base: Base) -> Path | None:
    """The model's file, fetched where it has to be; None where its framework knows it by name.

    Raises:
        BackboneError: it cannot be fetched.
    """
    if base.url is None or base.sha256 is None or base.bytes is None:
        return None
    return fetch_weights(base.name, base.url, base.sha256, base.bytes)


def tell_licence(base: Base) -> None:
    """Says once, on stderr, that a licence restricts use: once a user, or once a process where nothing can be kept."""
    licence = licences().get(base.licence)
    if licence is None or base.licence in _told:
        return
    _told.add(base.licence)
    mark = cache_folder() / "licences" / base.licence
    with suppress(OSError):
        if mark.exists():
            return
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    sys.stderr.write(
        f"hip-ext: {base.name} is under the {licence.title}, which {licence.notice}: {licence.url} (said once)\n"
    )
