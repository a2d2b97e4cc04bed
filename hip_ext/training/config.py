"""Everything that decides how a head is distilled; the same object in code, in YAML and in a run's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hip_ext.errors import ConfigError
from hip_ext.head import HeadConfig
from hip_ext.suggest import all_problems
from hip_ext.training.yaml_files import read_yaml


class LabelConfig(BaseModel):
    """How structures are made from molecules and which rows of their Hessians are computed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int = Field(3, ge=1, description="atoms per structure whose Hessian rows are computed")
    relaxed: float = Field(0.3, ge=0, le=1, description="share of structures near a minimum of the backbone")
    relax_steps: int = Field(15, ge=0, description="FIRE steps towards that minimum")
    shard: int = Field(32, ge=1, description="structures that are labelled together")
    held_out: float = Field(0.04, gt=0, lt=1, description="share of molecules that is never trained on")
    held_out_most: int = Field(192, ge=1, description="at most so many held-out molecules get full Hessians")
    seed: int = 0


class TrainConfig(BaseModel):
    """The optimiser and its schedule."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(16000, ge=1, description="optimiser steps")
    batch: int = Field(16, ge=1, description="structures per step")
    learning_rate: float = Field(5e-3, gt=0, description="largest step of a weight, for matrices root mean square")
    warmup: int = Field(200, ge=0, description="steps over which the learning rate rises")
    decay: float = Field(0.6, gt=0, le=1, description="last share of the steps, over which it falls to zero")
    weight_decay: float = Field(1e-4, ge=0)
    clip: float = Field(10.0, gt=0, description="largest norm of the gradient")
    twists: int = Field(4, ge=1, description="random twists per structure and step")
    twist_weight: float = Field(0.1, ge=0, description="of the error of H·u against that of the entries")
    average: float = Field(0.999, ge=0, lt=1, description="decay of the running average of the weights, which is kept")
    evaluate_every: int = Field(1000, ge=1, description="steps between held-out evaluations and checkpoints")
    seed: int = 0


class DistillConfig(BaseModel):
    """A distillation run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: str = Field("so3lr", description="registry name")
    source: str | None = Field(None, description="which model of that kind; None: the adapter's default")
    options: dict[str, Any] = Field(default_factory=dict, description="further arguments of the adapter's loader")
    labels: LabelConfig = LabelConfig()
    head: HeadConfig = HeadConfig()
    train: TrainConfig = TrainConfig()

    @classmethod
    def from_yaml(cls, path: str | Path) -> DistillConfig:
        """Reads a recipe.

        Raises:
            ConfigError: the file cannot be read, has an unknown key, or a value out of range.
        """
        values = read_yaml(path, "recipe")
        if not isinstance(values, dict):
            raise ConfigError(f"{path} is not a recipe: expected keys such as 'backbone' and 'train'")
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(f"{path}: {all_problems(error, cls)}") from None
