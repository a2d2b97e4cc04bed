"""The catalogue as one list, for people: heads and base models side by side, and what to choose by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ase.data import atomic_numbers

from hip_ext.catalogue.reading import base_models, heads
from hip_ext.errors import ConfigError
from hip_ext.suggest import did_you_mean

KINDS = ("shipped", "hub", "own", "base")


@dataclass(frozen=True)
class Model:
    """A line of the list.

    Attributes:
        name: what `from_pretrained` takes, or `load_backbone` for a base model.
        kind: one of `KINDS`.
        title: what it is for.
        backbone: kind of the backbone that it is or belongs to.
        base: name of that model.
        elements: atomic numbers that it was taught; empty where that is not listed.
        level: level of theory.
        licence: of the weights.
        place: where it comes from: a folder, a repository, a URL; empty for what a framework fetches itself.
        bytes: of the weights; None where it is not known.
        metrics: measured errors by group.
        milliseconds: of one direct Hessian, by size.
        cutoff: of a base model, Å.
        obtain: how to get the base model of a head; empty where its framework knows it by name.
    """

    name: str
    kind: str
    title: str
    backbone: str
    base: str
    elements: list[int]
    level: str
    licence: str
    place: str = ""
    bytes: int | None = None
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    milliseconds: dict[str, float] = field(default_factory=dict)
    cutoff: float | None = None
    obtain: str = ""


def models(backbone: str | None = None, elements: Sequence[str] = (), kind: str | None = None) -> list[Model]:
    """The models of the catalogue, heads first.

    Args:
        backbone: only those of this kind of backbone.
        elements: only those that know all of these, as symbols.
        kind: only these, one of `KINDS`.

    Raises:
        ConfigError: nothing can be of that backbone, element or kind, or a catalogue cannot be read.
    """
    found = _models()
    _check("backbone", backbone, sorted({one.backbone for one in found}))
    _check("kind", kind, KINDS)
    for symbol in elements:
        _check("element", symbol, [known for known, z in atomic_numbers.items() if 0 < z <= 118])
    wanted = {atomic_numbers[symbol] for symbol in elements}
    return [
        one
        for one in found
        if backbone in (None, one.backbone) and kind in (None, one.kind) and wanted <= set(one.elements)
    ]


def model_named(name: str) -> Model:
    """One model of the catalogue.

    Raises:
        ConfigError: there is none of that name, or a catalogue cannot be read.
    """
    found = _models()
    for one in found:
        if one.name == name:
            return one
    hint = did_you_mean(name, [one.name for one in found])
    raise ConfigError(f"the catalogue has no model {name[:100]!r}{hint}; hip-ext models lists all of them")


def _models() -> list[Model]:
    listed = [
        Model(
            head.name, head.kind, entry.title, entry.backbone.kind, entry.backbone.name, entry.elements, entry.level,
            entry.licence, str(head.folder or "@".join(filter(None, (entry.repo, entry.revision)))), entry.bytes,
            entry.metrics, entry.milliseconds, obtain=entry.obtain or "",
        )
        for head in heads().values()
        for entry in (head.entry,)
    ]  # fmt: skip
    return listed + [
        Model(
            base.name, "base", base.title, base.backbone, base.name, base.elements, base.level, base.licence,
            base.url or "", base.bytes, cutoff=base.cutoff,
        )
        for base in base_models().values()
    ]  # fmt: skip


def _check(what: str, value: str | None, known: Sequence[str]) -> None:
    if value is not None and value not in known:
        among = f"; known are {', '.join(known)}" if len(known) < 20 else ""
        raise ConfigError(f"no model is of {what} {value[:40]!r}{did_you_mean(value, known)}{among}")
