"""Where SevenNet models come from: names, files and open calculators. SevenNet is imported here, nowhere else."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from ase.calculators.calculator import BaseCalculator
from torch import Tensor, nn

from hip_ext.backbones.borrowed import reason_of
from hip_ext.backbones.frameworks import require, unusable_source
from hip_ext.errors import BackboneError, MissingDependencyError
from hip_ext.suggest import did_you_mean

FRAMEWORK, REQUIREMENT, EXTRA = "SevenNet", "sevenn>=0.13,<0.14", "sevennet"


def find_model(source: Any) -> tuple[nn.Module, str]:
    """The model that `source` means, on the CPU if it had to be read, and a name; see `SevenNetBackbone.load`."""
    sequence = import_sevennet("sevenn.nn.sequential").AtomGraphSequential
    if isinstance(source, nn.Module):
        model, name = source, "in-memory"
    elif isinstance(source, BaseCalculator):
        model, name = _from_calculator(source), "calculator"
    elif isinstance(source, (str, os.PathLike)):
        name = os.fspath(source)
        model = _from_file(_path_of(name), name)
    else:
        expected = "a name such as '7net-0', a checkpoint, an AtomGraphSequential or a SevenNetCalculator"
        raise unusable_source("sevennet", source, expected)
    if not isinstance(model, sequence):
        raise BackboneError(f"expected a SevenNet model (AtomGraphSequential), found a {type(model).__name__} ({name})")
    if model.key_grad != "edge_vec" or not model.type_map:
        raise BackboneError(
            f"this SevenNet model ({name}) was built for LAMMPS or without its elements: give the checkpoint instead"
        )
    return model, name


def find_modal(modals: Mapping[str, int], wanted: str | None) -> tuple[str | None, int | None]:
    """The modal of a multi-modal model and its index; None and None for a model of one level of theory.

    Raises:
        BackboneError: the model has no such modal, or has several and none was named.
    """
    known = ", ".join(modals)
    if wanted is None and not modals:
        return None, None
    if wanted is None:
        raise BackboneError(f"this SevenNet model has several levels of theory: give modal, one of {known}")
    if wanted not in modals:
        has = f"it has {known}" if modals else "it has one level of theory, so leave modal out"
        raise BackboneError(f"this SevenNet model has no modal {wanted!r}{did_you_mean(wanted, modals)}; {has}")
    return wanted, modals[wanted]


@contextmanager
def lent(model: Any, batched: bool) -> Iterator[None]:
    """The model set for a batch or for one structure, and one-hot elements in its own dtype; as before at the end.

    SevenNet keeps on its modules whether their input is a batch, and whether they train, which would keep the graph of
    the forces; one-hot vectors it makes in single precision always.
    """
    parts = [model, *model.children()]
    before = [dict(vars(part)) for part in parts]
    dtype = next(model.parameters()).dtype

    def cast(module: nn.Module, args: object, data: dict[str, Tensor]) -> None:
        for key in ("x", "node_attr"):
            data[key] = data[key].to(dtype)

    hook = model.onehot_idx_to_onehot.register_forward_hook(cast)
    model.is_batch_data = batched
    for part in parts:
        part.training = False
        if hasattr(part, "_is_batch_data"):
            part._is_batch_data = batched
    try:
        yield
    finally:
        hook.remove()
        for part, attributes in zip(parts, before, strict=True):
            vars(part).clear()
            vars(part).update(attributes)


def import_sevennet(name: str) -> ModuleType:
    """Imports a module of SevenNet."""
    require(FRAMEWORK, REQUIREMENT, EXTRA)
    try:
        return importlib.import_module(name)
    except (ImportError, ValueError) as error:  # it refuses e3nn 0.4 by a ValueError
        raise MissingDependencyError(f"SevenNet is installed but cannot be imported: {reason_of(error)}") from error


def _from_calculator(calculator: Any) -> Any:
    if not isinstance(calculator, import_sevennet("sevenn.calculator").SevenNetCalculator):
        raise BackboneError(
            f"the sevennet backbone needs a SevenNetCalculator, found {type(calculator).__name__}: an energy that is "
            "added to the model's, such as D3, would be missing from the Hessian"
        )
    return calculator.model


def _path_of(name: str) -> str:
    """The checkpoint of a released model, which SevenNet may have to download, or the file of that name."""
    util = import_sevennet("sevenn.util")
    try:
        with redirect_stdout(sys.stderr):  # it tells of its downloads
            return str(util.pretrained_name_to_path(name))
    except ValueError:
        known = util.get_available_pretrained_models()
        if Path(name).is_file():
            return name
        raise BackboneError(
            f"there is no SevenNet checkpoint at {name!r} and no released model of that name"
            f"{did_you_mean(name, known)}; released are {', '.join(known)}"
        ) from None
    except Exception as error:  # of the network or of the disk
        raise BackboneError(
            f"{name} could not be fetched ({type(error).__name__}): download the checkpoint where there is a network "
            "and give its path"
        ) from None


def _from_file(path: str, name: str) -> nn.Module:
    """Unpickles a checkpoint and builds its model; the user's random numbers and default dtype stay as they are."""
    checkpoints, default = import_sevennet("sevenn.checkpoint"), torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float32)  # in which SevenNet expects to build its modules
        with torch.random.fork_rng(devices=[]):
            return checkpoints.SevenNetCheckpoint(path).build_model().eval()
    except Exception as error:  # a damaged pickle, or one of another framework, can fail in any way at all
        raise BackboneError(f"{name!r} cannot be read as a SevenNet checkpoint: {reason_of(error)}") from None
    finally:
        torch.set_default_dtype(default)
