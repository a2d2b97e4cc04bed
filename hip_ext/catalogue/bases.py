"""Base models: those that frameworks release (backbones.yaml), and those of a user's own list (models.yaml)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from hip_ext.catalogue.heads import Element, Entry, Text

ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,199}$")]
Cutoff = Annotated[float, Field(gt=0, le=100)]
Web = Annotated[str, Field(pattern=r"^https?://[!-~]{1,1000}$")]


def _numbers(value: Any) -> Any:
    """Reads "1, 6-9" as [1, 6, 7, 8, 9]; anything else is left to the validation of a list."""
    if isinstance(value, int) and not isinstance(value, bool):
        return [value]
    if not isinstance(value, str):
        return value
    if len(value) > 500 or not re.fullmatch(r"\d{1,3}(-\d{1,3})?(, ?\d{1,3}(-\d{1,3})?)*", value, re.ASCII):
        raise ValueError(f"{value[:40]!r} are no atomic numbers: write them as in 1, 6-9")
    ranges = [part.strip().partition("-") for part in value.split(",")]
    return [z for first, _, last in ranges for z in range(int(first), int(last or first) + 1)]


Elements = Annotated[list[Element], Field(min_length=1), BeforeValidator(_numbers)]


class Licence(Entry):
    """A licence that restricts use: what is said about it once."""

    title: Text
    url: Web
    notice: Text


class ReleasedModel(Entry):
    """A model that a framework's own loader knows by name."""

    name: ModelName
    release: Text
    training: Text
    cutoff: Cutoff | None = None
    licence: Text


class Family(Entry):
    """Released models of one source."""

    source: Text
    domain: Text
    elements: Elements | None = None
    paper: Web | None = None
    homepage: Web | None = None
    models: list[ReleasedModel]


class Weights(Entry):
    """How weights get onto a machine."""

    how: str = Field(max_length=2000)
    families: list[Family]


class BackboneEntry(Entry):
    """A kind of backbone."""

    title: Text
    adapter: Literal["available", "planned"]
    extra: Text
    package: Text
    conflicts: list[Text]
    parity: Literal["o3", "so3"]
    features: str = Field(max_length=2000)
    periodic: bool
    units: dict[Text, Text]
    licence: Text
    homepage: Web
    paper: Web | None = None
    weights: Weights


class Backbones(Entry):
    """backbones.yaml."""

    schema_: Literal[1] = Field(alias="schema")
    licences: dict[Text, Licence]
    backbones: dict[Text, BackboneEntry]


class OwnModel(Entry):
    """A model of a user's own list; with a URL it is fetched, and kept as long as its sha256 is this one."""

    backbone: Text = Field(description="kind, such as mace")
    title: Text
    elements: Elements
    training: Text
    cutoff: Cutoff | None = None
    licence: Text
    url: Web | None = None
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    bytes: int | None = Field(None, ge=1, le=1 << 36)

    @model_validator(mode="after")
    def _all_or_nothing(self) -> Self:
        if len({value is None for value in (self.url, self.sha256, self.bytes)}) > 1:
            raise ValueError("url, sha256 and bytes belong together: give all three, or none")
        return self


class OwnModels(Entry):
    """models.yaml."""

    models: dict[ModelName, OwnModel]


_RECORDS = (Licence, ReleasedModel, Family, Weights, BackboneEntry, Backbones, OwnModel, OwnModels)
KEYS = {key for record in _RECORDS for key in record.model_fields}


@dataclass(frozen=True)
class Base:
    """A base model of the catalogue.

    Attributes:
        name: what `load_backbone` takes as the source.
        backbone: registry name of its adapter.
        title: what it is for.
        elements: atomic numbers that it was trained on; empty where that is not listed.
        level: data and level of theory of its training.
        licence: of its weights.
        cutoff: range of one message, Å, where it is known.
        url: where its file is, if this package fetches it; otherwise its framework does.
        sha256: of that file.
        bytes: of that file.
        own: whether it is from the user's own list.
    """

    name: str
    backbone: str
    title: str
    elements: list[int]
    level: str
    licence: str
    cutoff: float | None = None
    url: str | None = None
    sha256: str | None = None
    bytes: int | None = None
    own: bool = False


def released(backbones: Backbones) -> list[Base]:
    """Every model that frameworks release."""
    return [
        Base(model.name, kind, family.domain, family.elements or [], model.training, model.licence, model.cutoff)
        for kind, backbone in backbones.backbones.items()
        for family in backbone.weights.families
        for model in family.models
    ]


def owned(models: OwnModels) -> list[Base]:
    """Every model of a user's own list."""
    return [
        Base(
            name, one.backbone, one.title, one.elements, one.training, one.licence, one.cutoff, one.url, one.sha256,
            one.bytes, own=True,
        )
        for name, one in models.models.items()
    ]  # fmt: skip
