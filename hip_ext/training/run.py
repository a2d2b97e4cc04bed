"""A training run from a config to a checkpoint, in a folder that says how far it is.

    config.yaml      everything that decides about the run
    versions.json    of the programs that ran it
    state.pt         what it needs to go on; see `hip_ext.training.state`
    curve.json       training and held-out errors at every evaluation, drawn in learning_curve.png
    metrics.json     what the result knows about the validation data
    checkpoint/      the result, as `from_pretrained` reads it

The same call in the same folder goes on where the last one was stopped, by whatever.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hip_ext.backbones import Backbone, load_backbone
from hip_ext.data.plausibility import refuse_other_units
from hip_ext.data.record import HessianRecord
from hip_ext.errors import ConfigError, DataError, MissingDependencyError
from hip_ext.features import NodeFeatures
from hip_ext.model import HessianModel, attach_head, from_pretrained
from hip_ext.structures import Structures
from hip_ext.training.features import MB, FeatureCache, FeatureStore
from hip_ext.training.finish import CHECKPOINT, finish, with_average
from hip_ext.training.folder import check_origin, claim
from hip_ext.training.normalisation import (
    Statistics,
    coverage_of,
    draw_sample,
    fit_head,
    fit_references,
    require_validation,
)
from hip_ext.training.objective import Objective
from hip_ext.training.parameters import choose_trainable
from hip_ext.training.records import RecordSet
from hip_ext.training.settings import TrainingConfig
from hip_ext.training.state import read_state

if TYPE_CHECKING:
    from hip_ext.training.module import Part, Training

Report = Callable[[int, str], None]
Stages = Callable[[str, int], Report]
"""Told about each stage, its name and how many steps it has; gives a function to call with steps done and a note."""


@dataclass(frozen=True)
class TrainingResult:
    """What came out of a run.

    Attributes:
        model: backbone and head with the averaged weights.
        metrics: of the validation data; empty in processes other than the first.
        checkpoint: folder of the saved head.
        curve: errors at every evaluation.
        skipped: numbers of training records that could not be used, and why.
    """

    model: HessianModel
    metrics: dict[str, Any]
    checkpoint: Path
    curve: list[dict[str, float]]
    skipped: dict[int, str]


class Stopped(SystemExit):
    """A run was asked to stop, stored its state, and ends with 128 + the number of the signal."""


def silent(stage: str, total: int) -> Report:
    """Progress that nobody looks at."""
    return lambda done, note: None


def train(
    config: TrainingConfig,
    folder: str | Path,
    backbone: Backbone | None = None,
    stages: Stages = silent,
    about: dict[str, Any] | None = None,
) -> TrainingResult:
    """Runs, or goes on with, a training.

    Args:
        config: stored in the folder, and refused if the folder was begun with another one.
        folder: of the run.
        backbone: a loaded backbone; by default the config's is loaded. If it is trained, it is changed.
        stages: told about progress.
        about: what else the checkpoint shall say about its training.

    Raises:
        ConfigError: the folder belongs to another config or cannot be used, or the config does not fit the backbone or
            the machine.
        DataError: there is nothing to learn from, the loss stopped being finite, or the state cannot be stored.
        MissingDependencyError: Lightning or the logger is not installed.
        Stopped: SIGTERM or SIGINT; the state is stored.
    """
    _require_packages(config)
    _require_devices(config)
    from hip_ext.training.module import Part

    folder = Path(folder)
    first = is_first_process()
    if first:
        claim(folder, config)
    backbone = backbone or load_backbone(
        config.backbone.name,
        config.backbone.source,
        device=_device(config),
        dtype=getattr(torch, config.run.precision),
        **config.backbone.options,
    )
    if str(backbone.dtype) != f"torch.{config.run.precision}":
        raise ConfigError(f"run.precision is {config.run.precision}, the backbone computes in {backbone.dtype}")
    model = _untrained(config, backbone)
    backbone = model.backbone
    trained = choose_trainable(backbone, config.backbone.trainable)
    train_records, validation_records = _records(config, backbone)
    store = None if trained else _feature_store(config, folder)
    memory = config.data.cache.memory * MB
    cached = None if trained else FeatureCache(backbone, train_records, memory, store)
    train_part = Part(train_records, cached)
    validation = Part(validation_records, cached and FeatureCache(backbone, validation_records, memory, store, cached))
    state = read_state(folder)
    origin = {"backbone": backbone.source.fingerprint, "records": [len(train_records), len(validation_records)]}
    if state is None:
        require_validation(validation_records, config.loss)
    else:
        check_origin(folder, state.get("origin", origin), origin)
    statistics = _begin(config, model, train_part, state, stages)
    references = torch.zeros(119, dtype=backbone.dtype)
    for z, value in statistics.references.items():
        references[z] = value
    objective = Objective(backbone, model.head, config.loss, statistics.coverage, references, bool(trained))
    try:
        if state is None or state["step"] < config.run.steps:
            device = backbone.device
            _fit(config, folder, model, objective, train_part, validation, statistics, origin, state, stages)
            objective.to(device)  # Lightning leaves everything on the CPU
        if not first:
            return TrainingResult(model, {}, folder / CHECKPOINT, [], {})
        return TrainingResult(*finish(config, folder, model, objective, train_part, validation, about or {}))
    finally:
        if store:
            store.close()


def _fit(
    config: TrainingConfig,
    folder: Path,
    model: HessianModel,
    objective: Objective,
    train_part: Part,
    validation: Part,
    statistics: Statistics,
    origin: dict[str, Any],
    state: dict[str, Any] | None,
    stages: Stages,
) -> None:
    import lightning
    from lightning.pytorch.strategies import DDPStrategy

    from hip_ext.training.module import Breakdown, Training

    module = Training(
        config,
        objective,
        train_part,
        validation,
        folder,
        statistics.state(),
        origin,
        state,
        stages("train", config.run.steps) if is_first_process() else (lambda step, note: None),
    )
    run = config.run
    several = run.devices * run.nodes > 1
    with _quiet(), module.interruption.listening():
        trainer = lightning.Trainer(
            accelerator=run.accelerator,
            devices=run.devices,
            num_nodes=run.nodes,
            # A part of a backbone may not be reached by any loss; the head is always.
            strategy=DDPStrategy(find_unused_parameters=objective.trained) if several else "auto",
            max_epochs=1,
            logger=_logger(config, folder),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        try:
            trainer.fit(module)
        except Breakdown as error:
            raise DataError(
                f"{error}{_rescued(folder, model, module)}: begin another run with a smaller optimiser.learning_rate"
            ) from None
    if module.interruption.received is not None:
        raise Stopped(128 + module.interruption.received)


def _rescued(folder: Path, model: HessianModel, module: Training) -> str:
    """Saves what a run that broke down has learned, and says where it is."""
    if not is_first_process() or module.progress.step == 0:
        return ""
    with_average(model, module.objective, module.average.values).save_pretrained(folder / CHECKPOINT)
    return f"; the weights before it are in {folder / CHECKPOINT}"


def _records(config: TrainingConfig, backbone: Backbone) -> tuple[RecordSet, RecordSet]:
    data = config.data
    everything = RecordSet.open(data.train, backbone.elements, data.limit)
    if data.validation:
        return everything, RecordSet.open(data.validation, backbone.elements, data.limit)
    return everything.split(data.split, config.run.seed)


def _feature_store(config: TrainingConfig, folder: Path) -> FeatureStore | None:
    cache = config.data.cache
    if not cache.disk:
        return None
    return FeatureStore(Path(cache.folder or folder) / "features.lmdb", cache.disk * MB)


def _untrained(config: TrainingConfig, backbone: Backbone) -> HessianModel:
    if config.start is not None:
        return from_pretrained(config.start, backbone=backbone)
    return attach_head(backbone, config.head, seed=config.run.seed)


def _begin(
    config: TrainingConfig, model: HessianModel, part: Part, state: dict[str, Any] | None, stages: Stages
) -> Statistics:
    """Prepares the head, from the state or from a sample of the data; what is known about the data."""
    backbone = model.backbone
    if state is not None:
        model.head.load_state_dict(state["head"])
        return Statistics(**state["statistics"])
    advance = stages("measure", 1)
    sample = draw_sample(part.records, config.run.seed)
    records = list(sample.values())
    if not config.data.trust_units:
        refuse_other_units(records, "", "convert them (hip-ext data convert), or set data.trust_units")
    coverage = coverage_of(records, config.loss)

    def structures(chosen: dict[int, HessianRecord]) -> Structures:
        return Structures.from_ase([r.atoms() for r in chosen.values()], backbone.dtype, backbone.device)

    @torch.no_grad()
    def features(chosen: dict[int, HessianRecord]) -> NodeFeatures:
        if part.features is not None:
            return part.features(list(chosen), structures(chosen))
        return backbone.features(backbone.prepare(structures(chosen)))

    if config.start is None:
        fit_head(model.head, sample, features)
    references: dict[int, float] = {}
    if config.loss.energy and config.loss.fit_references:
        with torch.no_grad():
            energies = [float(backbone.energy(backbone.prepare(structures({n: r})))) for n, r in sample.items()]
        references = fit_references(records, energies)
    advance(1, "")
    return Statistics(coverage, references)


def _require_packages(config: TrainingConfig) -> None:
    if find_spec("lightning") is None:
        raise MissingDependencyError("Lightning is not installed: pip install 'hip-ext[train]'")
    logger = config.run.logger
    if logger != "none" and find_spec(logger) is None:
        raise MissingDependencyError(f"run.logger is {logger}, which is not installed: pip install {logger}")


def _require_devices(config: TrainingConfig) -> None:
    """Refuses a device that is not here, before anything is done.

    Raises:
        ConfigError: that is so.
    """
    kind = config.run.accelerator
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(kind, True):
        raise ConfigError(f"run.accelerator is {kind}, but torch finds no such device here: set it to auto or cpu")
    count = torch.cuda.device_count()
    if there["cuda"] and kind in ("auto", "cuda") and config.run.devices > count:
        raise ConfigError(f"run.devices is {config.run.devices}, but there are {count} GPUs here: ask for no more")


def _logger(config: TrainingConfig, folder: Path) -> Any:
    if config.run.logger == "none":
        return False
    from lightning.pytorch import loggers

    if config.run.logger == "tensorboard":
        return loggers.TensorBoardLogger(folder, name="logs", version="")
    return loggers.WandbLogger(name=folder.name, save_dir=folder)


def _device(config: TrainingConfig) -> str | None:
    """Where this process trains, as Lightning will choose."""
    if config.run.accelerator in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{int(os.environ.get('LOCAL_RANK', 0))}"
    return None


def is_first_process() -> bool:
    """Whether this process is the one that writes and prints, of all those that train together."""
    return _rank() == 0


def _rank() -> int:
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    return int(getattr(rank_zero_only, "rank", 0) or 0)


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning without what it says about itself."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "lightning")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
