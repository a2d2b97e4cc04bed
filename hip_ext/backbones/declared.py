"""Which adapters are declared, by whom, and which of them has a name that several want.

The first declaration of a name has it, in this order: hip-ext's own adapters; those registered in this process by
`register_backbone`; entry points of the group "hip_ext.backbones", by the name of the distribution. The others are
kept, so that they can be shown, and take nothing from anybody. Nothing is imported here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

from packaging.utils import canonicalize_name

from hip_ext.backbones.base import Backbone
from hip_ext.backbones.borrowed import reason_of

GROUP = "hip_ext.backbones"
OURS = "hip-ext"
THIS_PROCESS = "this process"
BUILT_IN = {
    "fairchem": "hip_ext.backbones.fairchem:FairchemBackbone",
    "mace": "hip_ext.backbones.mace:MACEBackbone",
    "sevennet": "hip_ext.backbones.sevennet:SevenNetBackbone",
    "so3lr": "hip_ext.backbones.so3lr:SO3LRBackbone",
}
"""Known without installed metadata."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
"""What a backbone can be called: names are printed, written into checkpoints and typed on command lines."""

registered: dict[str, type[Backbone]] = {}
"""The adapters of `register_backbone`, by kind."""


@dataclass(frozen=True)
class Declaration:
    """One adapter, as it was declared.

    Attributes:
        kind: the name that it wants.
        origin: who declares it: "hip-ext", "this process", or a distribution with its version.
        target: where it is, "module:class".
        trouble: why it cannot have the name; empty where it has it.
    """

    kind: str
    origin: str
    target: str
    trouble: str = ""


def declarations() -> list[Declaration]:
    """All of them, sorted by name; for each name the one that has it comes first, and it alone has no `trouble`."""
    found: dict[str, list[Declaration]] = {}
    for one in (*_built_in(), *_of_this_process(), *_of_distributions()):
        found.setdefault(one.kind, []).append(one)
    return [one for kind in sorted(found) for one in _ranked(found[kind])]


def _ranked(wanted: list[Declaration]) -> Iterator[Declaration]:
    """The declarations of one name, the same class counted once."""
    holder: Declaration | None = None
    for one in wanted:
        if one.trouble or holder is None:
            yield one
        elif one.target != holder.target:
            taken = f"the name {one.kind!r} is taken by {holder.origin} ({holder.target}): {one.target} needs another"
            yield Declaration(one.kind, one.origin, one.target, taken)
        holder = holder or (None if one.trouble else one)


def _built_in() -> Iterator[Declaration]:
    return (Declaration(kind, OURS, target) for kind, target in BUILT_IN.items())


def _of_this_process() -> Iterator[Declaration]:
    return (Declaration(kind, THIS_PROCESS, target_of(adapter)) for kind, adapter in registered.items())


def _of_distributions() -> Iterator[Declaration]:
    """The entry points, of each distribution the copy that comes first on the path, as Python imports it."""
    found: dict[str, metadata.Distribution] = {}
    for distribution in metadata.distributions():
        # `importlib.metadata.entry_points` would read all of them at once and fail for one broken file.
        if _mentions_us(distribution):
            found.setdefault(canonicalize_name(str(distribution.metadata["Name"])), distribution)
    for name, distribution in sorted(found.items()):
        origin = OURS if name == OURS else _printable(f"{name} {distribution.version}")
        try:
            points = [(point.name, point.value) for point in distribution.entry_points.select(group=GROUP)]
        except Exception as error:  # whatever a parser makes of a file that somebody wrote
            yield Declaration(name, origin, "", f"the entry points of {origin} cannot be read: {reason_of(error)}")
            continue
        for kind, target in points:
            bad = "" if NAME.fullmatch(kind) else f"{kind!r} cannot be the name of a backbone: use letters, digits, _.-"
            yield Declaration(_printable(kind), origin, _printable(target), bad)


def _mentions_us(distribution: metadata.Distribution) -> bool:
    """Whether there is such a group in what a distribution declares, if that is text and has a name at all."""
    try:
        return GROUP in (distribution.read_text("entry_points.txt") or "") and bool(distribution.metadata["Name"])
    except (OSError, UnicodeError, TypeError):
        return False


def _printable(text: str) -> str:
    """Without the control characters that could write elsewhere on a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def target_of(adapter: type) -> str:
    """Where a class is, as an entry point writes it."""
    return f"{adapter.__module__}:{adapter.__qualname__}"
