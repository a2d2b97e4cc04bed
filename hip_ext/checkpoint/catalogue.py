"""registry/checkpoints.yaml: the checkpoints that ship, with their measured errors, for people who choose one."""

from __future__ import annotations

from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hip_ext.errors import ConfigError
from hip_ext.shipped import registry_folder
from hip_ext.suggest import first_problem

FILE = "checkpoints.yaml"


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class CatalogueBackbone(_Entry):
    """Which backbone a checkpoint belongs to."""

    kind: str
    name: str


class CatalogueEntry(_Entry):
    """One checkpoint."""

    folder: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$", description="in the folder of the checkpoints that ship")
    title: str = Field(max_length=120, description="what it is for")
    backbone: CatalogueBackbone
    level: str = Field(description="level of theory of the Hessians that it was taught")
    elements: list[Annotated[int, Field(ge=1, le=118)]] = Field(min_length=1)
    licence: str
    bytes: int = Field(ge=1, description="size of its files of weights")
    metrics: dict[str, dict[str, float]] = Field(
        min_length=1, description="by group of held-out structures; names as in config.json"
    )


class Catalogue(_Entry):
    """Checkpoints by name."""

    checkpoints: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")], CatalogueEntry]


def read_catalogue() -> dict[str, CatalogueEntry]:
    """The checkpoints that ship, by name.

    Raises:
        ConfigError: the catalogue cannot be read or has an entry that is not as it should be.
        HipExtError: the installation lacks it.
    """
    path = registry_folder() / FILE
    try:
        return Catalogue.model_validate(yaml.safe_load(path.read_text(encoding="utf-8"))).checkpoints
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())[:200]}") from None
    except ValidationError as error:
        raise ConfigError(f"{path}: {first_problem(error, CatalogueEntry.model_fields)[:500]}") from None
