"""Adds a Hessian head to a trained checkpoint, as the model of a fairchem training run."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import hydra
import torch
from fairchem.core.units.mlip_unit.utils import load_inference_model, update_configs
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from hip_ext.atomic import write_text
from hip_ext.backbones.borrowed import reason_of
from hip_ext.errors import BackboneError, HipExtError
from hip_ext.head import HeadConfig
from hip_ext.plugins.fairchem.head import check_task_name
from hip_ext.plugins.fairchem.model import HessianHydraModel, Trainable


def add_hessian_head(
    checkpoint_location: str | Path,
    tasks: list[str],
    *,
    head: dict[str, Any] | None = None,
    trainable: Trainable = "hessian",
    name: str = "hessian",
    overrides: dict[str, Any] | None = None,
    seed: int = 0,
) -> HessianHydraModel:
    """The model of a trained checkpoint with an untrained Hessian head beside its own heads.

    All other weights are, bit for bit, the averaged ones of the checkpoint, with which fairchem predicts. In a YAML:
    `model: {_target_: hip_ext.plugins.fairchem.finetune.add_hessian_head, checkpoint_location: …, tasks: […]}`.

    Args:
        checkpoint_location: an inference checkpoint of fairchem. It is a pickle, which runs code when it is read: name
            only files that you trust.
        tasks: names of the Hessian tasks of the run, such as ["omol_direct_hessian"].
        head: hyper-parameters of the head, see `hip_ext.head.HeadConfig`.
        trainable: which weights learn: everything, all heads, or the Hessian head alone.
        name: of the head in the model; in a model without `pass_through_head_outputs` the task's name is taken.
        overrides: changes to the stored model config, as in fairchem.
        seed: of the head's initial weights.

    Raises:
        BackboneError: there is no such checkpoint, it has no energy task, or it has such a head already.
        ConfigError: a hyper-parameter or a task name cannot be used.
    """
    for task in tasks:
        check_task_name(task)
    settings = HeadConfig.from_dict(_plain(head or {}))
    model, checkpoint = _load(str(checkpoint_location))
    if not any(task["property"] == "energy" for task in checkpoint.tasks_config):
        raise BackboneError(f"{checkpoint_location} has no energy task: a Hessian needs the energy that it belongs to")
    config = _plain(checkpoint.model_config)
    if overrides:
        config = update_configs(config, _plain(overrides))
    passes = config.get("pass_through_head_outputs", False)
    if not passes and len(tasks) != 1:
        raise BackboneError(f"{checkpoint_location} names outputs after heads: give one task, found {list(tasks)}")
    name = name if passes else tasks[0]
    if name in config["heads"]:
        raise BackboneError(f"{checkpoint_location} has a head named {name!r} already: train on, or give another name")
    config["heads"][name] = {
        "module": "hip_ext.plugins.fairchem.head.DirectHessianHead",
        "tasks": list(tasks) if passes else None,
        "config": settings.model_dump(),
    }
    config["_target_"] = "hip_ext.plugins.fairchem.model.HessianHydraModel"
    config["trainable"] = trainable
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        grown = _instantiated(config)
    missing, unexpected = grown.load_state_dict(model.state_dict(), strict=False)
    foreign = [key for key in missing if not key.startswith(f"output_heads.{name}.")]
    if foreign or unexpected:
        raise BackboneError(f"{checkpoint_location} does not fit its model config: {[*foreign, *unexpected][0]}")
    # What fairchem writes into checkpoints and resume.yaml in place of the call of this function.
    grown.finetune_model_full_config = config
    grown.checkpoint_tasks = [_plain(task) for task in checkpoint.tasks_config]
    return grown


def keep_tasks(run_config: str | Path, model: Any) -> None:
    """Completes the tasks in a run's own configuration by those of the checkpoint that the run does not train.

    fairchem copies the tasks of the run into the checkpoints that it writes. With those of the original checkpoint
    among them, normalizers and element references included, a new one predicts energies and forces as the original.

    Args:
        run_config: `job.metadata.config_path`.
        model: from `add_hessian_head`; nothing is done for others.
    """
    config = OmegaConf.load(run_config)
    unit = config.runner.train_eval_unit
    known = {task.name for task in unit.tasks}
    kept = [task for task in getattr(model, "checkpoint_tasks", []) if task["name"] not in known]
    if kept:
        unit.tasks = [*unit.tasks, *({**task, "inference_only": True} for task in kept)]
        write_text(Path(run_config), OmegaConf.to_yaml(config))


def _instantiated(config: dict[str, Any]) -> Any:
    try:
        return hydra.utils.instantiate(config)
    except InstantiationException as error:
        raise error.__cause__ if isinstance(error.__cause__, HipExtError) else error from None


def _load(path: str) -> tuple[Any, Any]:
    if not Path(path).is_file():
        raise BackboneError(f"there is no fairchem checkpoint at {path!r}")
    try:
        model, checkpoint = load_inference_model(path, use_ema=True)
    except Exception as error:  # a pickle of something else, or of another version, can fail in any way at all
        raise BackboneError(f"{path!r} cannot be read as a fairchem checkpoint: {reason_of(error)}") from None
    return model.module, checkpoint


def _plain(config: Any) -> Any:
    """A copy without OmegaConf's types, which refuse keys that they have not seen."""
    return OmegaConf.to_container(config, resolve=True) if isinstance(config, DictConfig) else copy.deepcopy(config)
