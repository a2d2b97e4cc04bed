"""Everything that decides about a training run; the same object in code, in YAML and in a run's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hip_ext.errors import ConfigError
from hip_ext.head import HeadConfig
from hip_ext.suggest import all_problems
from hip_ext.training.yaml_files import read_yaml


class Section(BaseModel):
    """A part of a configuration: unchangeable, without unknown keys, without infinities."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class BackboneSettings(Section):
    """Which potential, and how much of it is trained."""

    name: str = Field("so3lr", description="registry name")
    source: str | None = Field(None, description="which model of that kind; none: the adapter's default")
    options: dict[str, Any] = Field(default_factory=dict, description="further arguments of the adapter's loader")
    trainable: Literal["none", "all"] | list[str] = Field(
        "none", description="none, all, or patterns of parameter names such as 'interactions.1.*'"
    )


class CacheSettings(Section):
    """Where the features of a frozen backbone are kept; what does not fit is computed whenever it is needed."""

    memory: int = Field(2048, ge=0, description="MB, for each process; training data first, then validation data")
    disk: int = Field(0, ge=0, description="MB; kept from run to run")
    folder: str | None = Field(None, description="of the file on disk; none: the run's folder")


class DataSettings(Section):
    """What is learned from."""

    train: list[str] = Field(min_length=1, description="label stores (hip_ext.data.store)")
    validation: list[str] = Field(default_factory=list, description="label stores that are never trained on")
    split: float = Field(0.05, gt=0, lt=1, description="share of sum formulas that is held out if none are given")
    batch: int = Field(8, ge=1, description="structures per optimiser step, over all devices")
    limit: int | None = Field(None, ge=1, description="use the first so many records only")
    trust_units: bool = Field(False, description="train even if labels look as if they were in other units")
    bucket: int = Field(1, ge=1, description="so many batches are drawn together and sorted by size; 1: no sorting")
    largest: int | None = Field(None, ge=1, description="most Σ n² of a pass; a larger batch goes in several passes")
    workers: int = Field(0, ge=0, description="processes that read records ahead of the training")
    cache: CacheSettings = CacheSettings()


class HessianLoss(Section):
    """Weights of the losses on the Hessian; zero leaves a loss out."""

    mae: float = Field(1.0, ge=0, description="of the mean |ΔH| of a structure, eV/Å²")
    mse: float = Field(0.0, ge=0, description="of the mean ΔH² of a structure")
    diagonal: float = Field(1.0, ge=0, description="of entries in diagonal blocks within the two above")
    off_diagonal: float = Field(1.0, ge=0, description="of the other entries")
    products: float = Field(0.0, ge=0, description="of the mean |ΔH·v| along the labelled probes, eV/Å")
    twists: float = Field(0.1, ge=0, description="of the mean |ΔH·u| along random twists, in the labelled rows")
    twist_count: int = Field(4, ge=1, description="twists per structure and step")
    subspace: float = Field(0.0, ge=0, description="of the error in the lowest modes of the labelled Hessian")
    subspace_modes: int = Field(8, ge=1, description="how many modes that are, rigid motions not counted")

    @property
    def any(self) -> bool:
        """Whether the Hessian is trained at all."""
        return any((self.mae, self.mse, self.products, self.twists, self.subspace))


class LossSettings(Section):
    """What is made small."""

    energy: float = Field(0.0, ge=0, description="of |ΔE| per atom, eV; needs a trained backbone")
    forces: float = Field(0.0, ge=0, description="of the mean |ΔF| of a structure, eV/Å; needs a trained backbone")
    hessian: HessianLoss = HessianLoss()
    fit_references: bool = Field(
        False, description="take constants per element, fitted by least squares, off the labelled energies"
    )


class OptimiserSettings(Section):
    """How the weights are stepped."""

    name: Literal["muon", "adamw"] = Field("muon", description="muon: for the matrices of the head, AdamW for the rest")
    learning_rate: float = Field(3e-3, gt=0, description="largest step of a weight, for matrices root mean square")
    backbone_rate: float = Field(0.1, gt=0, description="learning rate of backbone parameters as a share of that")
    warmup: int = Field(300, ge=0, description="steps over which the learning rate rises")
    decay: float = Field(1.0, gt=0, le=1, description="last share of the steps, over which a cosine takes it to zero")
    weight_decay: float = Field(1e-4, ge=0, description="share of a weight that a step at rate 1 takes away")
    clip: float = Field(10.0, gt=0, description="largest norm of the gradient")
    average: float = Field(0.999, ge=0, lt=1, description="decay of the running average of the weights, which is kept")


class RunSettings(Section):
    """How long, where, and what is written."""

    steps: int = Field(16000, ge=1, description="optimiser steps")
    evaluate_every: int = Field(1000, ge=1, description="steps between evaluations on the validation data")
    save_every: int | None = Field(None, ge=1, description="steps between saved states; none: at every evaluation")
    devices: int = Field(1, ge=1, description="processes on each node, one a device")
    nodes: int = Field(1, ge=1, description="machines")
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="kind of device")
    accumulate: int = Field(1, ge=1, description="passes over which a batch is spread on every device")
    precision: Literal["float32", "float64"] = Field("float32", description="of backbone and head")
    seed: int = Field(0, description="of new weights, the order of the records, the split, and the twists")
    logger: Literal["none", "tensorboard", "wandb"] = Field("none", description="keeps curves of every step")
    log_every: int = Field(50, ge=1, description="steps between points in the log")


class TrainingConfig(Section):
    """A training run."""

    backbone: BackboneSettings = BackboneSettings()
    head: HeadConfig | None = Field(None, description="none: the defaults, or those of `start`")
    start: str | None = Field(None, description="checkpoint to begin from: a folder, or one that ships")
    data: DataSettings
    loss: LossSettings = LossSettings()
    optimiser: OptimiserSettings = OptimiserSettings()
    run: RunSettings = RunSettings()

    @model_validator(mode="after")
    def _fits_together(self) -> TrainingConfig:
        frozen = self.backbone.trainable == "none"
        potential, hessian = bool(self.loss.energy or self.loss.forces), self.loss.hessian.any
        passes = self.run.devices * self.run.nodes * self.run.accumulate
        rules = {
            "loss.energy and loss.forces need backbone.trainable: a frozen backbone does not move": not (
                frozen and potential
            ),
            "backbone.trainable needs loss.energy or loss.forces: without them the potential would be lost": (
                frozen or potential
            ),
            "every loss has weight zero: nothing would be trained": potential or hessian,
            "head and start exclude each other: a checkpoint brings its own hyper-parameters": (
                self.start is None or self.head is None
            ),
            f"data.batch is {self.data.batch}, fewer than run.devices × run.nodes × run.accumulate = {passes}": (
                self.data.batch >= passes
            ),
        }
        broken = [rule for rule, holds in rules.items() if not holds]
        if broken:
            raise ValueError("; ".join(broken))
        return self

    @classmethod
    def from_dict(cls, values: Any, name: str = "config") -> TrainingConfig:
        """Validates a mapping; an unknown key or a value out of range is a one-line ConfigError."""
        if not isinstance(values, dict):
            raise ConfigError(f"{name} is not a training config: expected keys such as 'backbone' and 'data'")
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(f"{name}: {all_problems(error, cls)}") from None

    @classmethod
    def from_yaml(cls, path: str | Path) -> TrainingConfig:
        """Reads a config; paths in it are relative to the working directory.

        Raises:
            ConfigError: the file cannot be read, has an unknown key, or a value out of range.
        """
        return cls.from_dict(read_yaml(path, "config"), str(path))

    def changed(self, sections: dict[str, dict[str, Any]]) -> TrainingConfig:
        """The same config with other values in some sections, validated again."""
        values = self.model_dump(mode="json")
        for name, changes in sections.items():
            values[name] |= changes
        return self.from_dict(values)

    def to_yaml(self) -> str:
        """The complete config, defaults included."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


INDIFFERENT = (
    "data.workers",
    "data.cache",
    "data.trust_units",
    "run.devices",
    "run.nodes",
    "run.accelerator",
    "run.save_every",
    "run.logger",
    "run.log_every",
)
"""What may change when a run goes on: where it runs and what it writes, but nothing that it learns."""


def first_difference(one: dict[str, Any], other: dict[str, Any], prefix: str = "") -> str | None:
    """`"key is a, was b"` for the first value in which two dumped configs differ, but for `INDIFFERENT` ones."""
    for key in [*one, *(key for key in other if key not in one)]:
        name = f"{prefix}{key}"
        a, b = one.get(key), other.get(key)
        if a == b or name in INDIFFERENT:
            continue
        if isinstance(a, dict) and isinstance(b, dict):
            found = first_difference(a, b, f"{name}.")
            if found:
                return found
        else:
            return f"{name} is {a!r}, was {b!r}"
    return None
