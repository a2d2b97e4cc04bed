"""Where fairchem models come from: released names, checkpoints, predict units and open calculators."""

from __future__ import annotations

import copy
import importlib
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from ase.calculators.calculator import Calculator

from hip_ext.backbones.borrowed import reason_of
from hip_ext.backbones.fingerprint import fingerprint
from hip_ext.backbones.frameworks import require, unusable_source
from hip_ext.errors import BackboneError, MissingDependencyError
from hip_ext.suggest import did_you_mean

FRAMEWORK, REQUIREMENT, EXTRA = "fairchem", "fairchem-core>=2.24,<3", "fairchem"


@cache
def import_fairchem(name: str) -> ModuleType:
    """Imports a module of fairchem; the first one takes some 15 seconds."""
    require(FRAMEWORK, REQUIREMENT, EXTRA)
    # Beside MACE there is e3nn 0.4, whose tables hold slices; with these allowed, torch's safe loading reads them.
    torch.serialization.add_safe_globals([slice])
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingDependencyError(f"fairchem is installed but cannot be imported: {reason_of(error)}") from error


def find_unit(source: Any, device: torch.device | None, dtype: torch.dtype | None) -> tuple[Any, str]:
    """The predict unit that `source` means, and a name for it; see `FairchemBackbone.load`."""
    if dtype not in (None, torch.float32, torch.float64):
        raise BackboneError(f"a backbone computes in torch.float32 or torch.float64, not in {dtype}")
    if isinstance(source, (str, os.PathLike)):
        name = os.fspath(source)
        return _read(name, device, dtype), name
    predict = import_fairchem("fairchem.core.units.mlip_unit.predict")
    unit, name = (getattr(source, "predictor", None), "calculator") if isinstance(source, Calculator) else (source, "")
    if isinstance(unit, predict.ParallelMLIPPredictUnit):
        raise BackboneError("this predict unit runs in several processes: load it with workers=1")
    if not isinstance(unit, predict.MLIPPredictUnit):
        expected = (
            "an MLIPPredictUnit, a FAIRChemCalculator, the path of an inference checkpoint or a name like 'uma-s-1p2'"
        )
        raise unusable_source("fairchem", source, expected)
    return _placed(unit, device, dtype), name or "in-memory"


def check_network(unit: Any) -> None:
    """Raises BackboneError where a predict unit's model has no features that a Hessian can be made of."""
    if unit.inference_settings.nitro:
        raise BackboneError("UMA Nitro shows no node features: load the model with inference_settings='batch'")
    escn = import_fairchem("fairchem.core.models.uma.escn_md").eSCNMDBackbone
    network = unit.model.module.backbone
    if not isinstance(network, escn):
        raise BackboneError(_not_equivariant(type(network).__name__))
    if network.lmax < 2:
        raise BackboneError(f"a Hessian needs node features up to l = 2, this eSCN model has lmax = {network.lmax}")


def find_task(unit: Any, wanted: str | None) -> str:
    """The task to use: the one asked for, or the only one with an energy.

    Raises:
        BackboneError: no task has an energy, there is no such task with one, or there are several and none was named.
    """
    every = unit.dataset_to_tasks
    known = sorted(name for name, tasks in every.items() if any(task.property == "energy" for task in tasks))
    if not known:
        found = ", ".join(f"{name} ({', '.join(task.property for task in tasks)})" for name, tasks in every.items())
        raise BackboneError(f"this fairchem model has no energy task: it has {found or 'none at all'}")
    if wanted is None and len(known) == 1:
        return known[0]
    if wanted is None:
        raise BackboneError(f"this fairchem model has the tasks {', '.join(known)}: name one, as in task={known[0]!r}")
    wanted = str(getattr(wanted, "value", wanted))
    if wanted not in known:
        what = "has no energy in its task" if wanted in every else "has no task"
        raise BackboneError(
            f"this fairchem model {what} {wanted!r}{did_you_mean(wanted, known)}; it has {', '.join(known)}"
        )
    return wanted


def fingerprint_of(unit: Any) -> str:
    """The fingerprint of a unit's model before its experts were merged for one composition."""
    if getattr(unit.model.module.backbone, "_merged_composition", None) is None:
        return fingerprint(unit.model.module)
    loading = import_fairchem("fairchem.core.units.mlip_unit.utils")
    with same_random_numbers():
        model, _ = loading.load_inference_model(unit._inference_model_path, use_ema=True)
    return fingerprint(model.module)


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """Leaves all random number generators as they were: fairchem seeds them for the whole process when it loads."""
    of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)  # noqa: NPY002


def _read(name: str, device: torch.device | None, dtype: torch.dtype | None) -> Any:
    """A predict unit for one released model or checkpoint, whose numbers do not depend on what it was asked before."""
    pretrained = import_fairchem("fairchem.core.calculate.pretrained_mlip")
    inference = import_fairchem("fairchem.core.units.mlip_unit")
    found = _released(pretrained, name) if name in pretrained.available_models else None
    if found is None and not Path(name).is_file():
        hint = did_you_mean(name, pretrained.available_models)
        raise BackboneError(
            f"there is no fairchem checkpoint at {name!r} and no released model of that name{hint}: give the path of "
            "an inference checkpoint or a name such as 'uma-s-1p2'"
        )
    found = found or pretrained.ResolvedCheckpoint(name)
    _check_file(name, found.path)
    # Neither merged nor compiled nor in TF32: structures of all kinds, and numbers fit to be differentiated twice.
    settings = inference.InferenceSettings(
        activation_checkpointing=False, base_precision_dtype=dtype or torch.float32, merge_mole=False, compile=False
    )
    try:
        with same_random_numbers():
            unit = inference.load_predict_unit(
                found.path,
                settings,
                device=device.type if device else "cpu",
                atom_refs=found.atom_refs,
                form_elem_refs=found.form_elem_refs,
            )
    except Exception as error:  # of hydra, of a class that is not installed, or of weights that do not fit
        reason = reason_of(error.__cause__ or error)
        raise BackboneError(f"{name!r} cannot be loaded as a fairchem model: {reason}") from None
    return _placed(unit, device, dtype)


def _released(pretrained: ModuleType, name: str) -> Any:
    """A released model's checkpoint, through fairchem's own download and cache."""
    try:
        return pretrained.resolve_checkpoint(name)
    except Exception as error:  # of the network, of the Hub, or of the disk
        repository = pretrained._MODEL_CKPTS.checkpoints[name].repo_id
        raise BackboneError(
            f"{name} could not be fetched ({reason_of(error).rstrip('.')}): it is gated, so (1) ask for access at "
            f"https://huggingface.co/{repository}, then (2) run 'hf auth login' or set HF_TOKEN; or give a file's path"
        ) from None


def _check_file(name: str, path: str) -> None:
    """Raises BackboneError for a file that is no checkpoint of an eSCN model, before a model is made of it."""
    try:
        # Mapped, so that the weights are not read; a pickle all the same, which the user has named.
        checkpoint = torch.load(path, map_location="cpu", weights_only=False, mmap=True)
    except Exception as error:  # a damaged pickle, or one of another framework, can fail in any way at all
        raise BackboneError(f"{name!r} cannot be read as a fairchem checkpoint: {reason_of(error)}") from None
    kind = import_fairchem("fairchem.core.units.mlip_unit.api.inference").MLIPInferenceCheckpoint
    if not isinstance(checkpoint, kind):
        raise BackboneError(
            f"{name!r} holds a {type(checkpoint).__name__}, not an inference checkpoint: give the inference_ckpt.pt "
            "that fairchem writes beside a training checkpoint"
        )
    loading = import_fairchem("fairchem.core.units.mlip_unit.utils")
    escn = import_fairchem("fairchem.core.models.uma.escn_moe").eSCNMDBackbone  # this registers both short names
    try:
        network = loading.get_backbone_class_from_checkpoint(checkpoint)
    except Exception as error:  # no backbone is named, or it belongs to a package that is not installed
        raise BackboneError(f"{name!r} names no known backbone: {reason_of(error)}") from None
    if not issubclass(network, escn):
        raise BackboneError(_not_equivariant(network.__name__))


def _not_equivariant(network: str) -> str:
    return (
        f"the fairchem backbone takes eSCN models (UMA, eSEN), found {network}: a Hessian is made of node features "
        "that turn with the atoms, and those of EScAIP and AllScAIP do not"
    )


def _placed(unit: Any, device: torch.device | None, dtype: torch.dtype | None) -> Any:
    """The unit itself where device and dtype are as asked for (None: as they are), otherwise a converted copy."""
    before = torch.device(unit.device), unit.inference_settings.base_precision_dtype
    device, dtype = device or before[0], dtype or before[1]
    if (device, dtype) == before:
        return unit
    unit = copy.deepcopy(unit)
    unit.inference_settings.base_precision_dtype = dtype
    unit.device, unit._requested_device = str(device), device.type
    if unit.lazy_model_intialized:  # otherwise this happens at the first prediction
        unit.model.to(dtype)
        unit.move_to_device()
    return unit
