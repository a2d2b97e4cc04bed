"""An entry of checkpoints.yaml: a head, where it is, what it was taught, and how well it was found to know it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hip_ext.hub.names import is_repository, repository_and_revision

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,99}$")]
Element = Annotated[int, Field(ge=1, le=118)]
Text = Annotated[str, Field(min_length=1, max_length=300)]
Figure = Annotated[float, Field(ge=0)]


class Entry(BaseModel):
    """Strict and unchangeable."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class CatalogueBackbone(Entry):
    """Which backbone a checkpoint belongs to."""

    kind: Text
    name: Text


class CatalogueEntry(Entry):
    """One checkpoint."""

    folder: Name | None = Field(None, description="beside the others: those that ship, or the user's own catalogue")
    repo: str | None = Field(None, max_length=200, description="owner/name on the Hub, where it is not in a folder")
    revision: str | None = Field(None, max_length=200, description="of the repository; a commit never changes")
    title: str = Field(max_length=120, description="what it is for")
    backbone: CatalogueBackbone
    obtain: Text | None = Field(None, description="how to get the base model, where no framework knows it by name")
    level: Text = Field(description="level of theory of the Hessians that it was taught")
    elements: list[Element] = Field(min_length=1)
    licence: Text
    bytes: int = Field(ge=1, description="size of its files of weights")
    metrics: dict[Text, dict[Text, Figure]] = Field(
        min_length=1, description="by group of held-out structures; names as in config.json"
    )
    milliseconds: dict[Text, Figure] = Field(
        default_factory=dict, description="of one direct Hessian, by size; on one thread, in single precision"
    )

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.folder is None) == (self.repo is None):
            raise ValueError("give a folder or a repo, and not both")
        if self.repo is not None:
            if not is_repository(self.repo) or "@" in self.repo:
                raise ValueError(f"{self.repo[:100]!r} cannot be a repository: give owner/name")
            repository_and_revision(self.repo, self.revision)
        elif self.revision is not None:
            raise ValueError("a folder has no revision: leave it out")
        return self


class Catalogue(Entry):
    """Checkpoints by name."""

    checkpoints: dict[Name, CatalogueEntry]


KEYS = {*CatalogueEntry.model_fields, *CatalogueBackbone.model_fields, *Catalogue.model_fields}


@dataclass(frozen=True)
class Head:
    """A head of the catalogue.

    Attributes:
        name: what `from_pretrained` takes.
        kind: "shipped", on the "hub", or in the user's "own" folder.
        entry: what the catalogue says.
        folder: where it is, unless on the Hub.
    """

    name: str
    kind: Literal["shipped", "hub", "own"]
    entry: CatalogueEntry
    folder: Path | None
