"""The contents of config.json, schema 2. A change of these records is a new schema: see `upgrades`."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from hip_ext.features import Parity
from hip_ext.head import HeadConfig

SCHEMA: Final = 2
CONFIG: Final = "config.json"
WEIGHTS: Final = "model.safetensors"
BACKBONE: Final = "backbone.safetensors"
CARD: Final = "README.md"
FORMAT: Final = "hip-ext head"

Width = Annotated[int, Field(ge=0)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Element = Annotated[int, Field(ge=1, le=118)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FeatureRecord(_Record):
    """What the adapter took from the backbone."""

    widths: tuple[Width, Width, Width] = Field(description="channels of degree 0, 1 and 2, of all layers together")
    parity: Parity


class TunedRecord(_Record):
    """What is in backbone.safetensors: the tensors in which the backbone differs from the one that is named."""

    fingerprint: Digest = Field(description="of the backbone with these tensors")
    tensors: int = Field(ge=1, description="how many there are")
    whole: bool = Field(False, description="whether all are there, so that any model of the architecture will do")


class BackboneRecord(_Record):
    """The backbone that a head was made for."""

    kind: str = Field(pattern=r"^[\w.-]{1,100}$", description="registry name of the adapter")
    name: str = Field(max_length=1000, description="the model's name, or the file that it came from")
    source: Literal["release", "file", "memory"] = Field(description="what the name stands for")
    revision: str | None = Field(
        None, max_length=200, description="of a release: the distribution that gave it, and its version"
    )
    fingerprint: Digest = Field(description="sha256 of the weights that the name stands for")
    options: dict[str, Any] = Field(default_factory=dict, description="what else decides about its numbers")
    features: FeatureRecord
    tuned: TunedRecord | None = None


class CheckpointConfig(_Record):
    """Everything about a checkpoint but its numbers."""

    format: Literal["hip-ext head"] = FORMAT
    schema_version: Literal[2] = SCHEMA
    hip_ext_version: str = Field(max_length=100)
    dtype: Literal["float32", "float64"]
    units: dict[str, str] = Field(default_factory=lambda: {"hessian": "eV/Å^2", "length": "Å"})
    license: str = Field("mit", pattern="^[a-z0-9][a-z0-9.-]*$", description="the Hub's identifier, e.g. apache-2.0")
    head: HeadConfig
    backbone: BackboneRecord
    elements: list[Element] = Field(default_factory=list, description="atomic numbers seen in training; empty: none")
    training: dict[str, Any] = Field(default_factory=dict, description="data, cost and recipe")
    metrics: dict[str, Any] = Field(default_factory=dict, description="measured errors")
    sha256: dict[Literal["model.safetensors", "backbone.safetensors"], Digest] = Field(
        default_factory=dict, description="of the files of weights; empty where an older schema had none"
    )
