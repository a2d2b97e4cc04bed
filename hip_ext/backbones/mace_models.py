"""Where MACE models come from: released names, files and open calculators. MACE is imported here, nowhere else."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from ase.calculators.calculator import Calculator
from torch import nn

from hip_ext.backbones.borrowed import read_module, reason_of
from hip_ext.backbones.frameworks import require, unusable_source
from hip_ext.errors import BackboneError, MissingDependencyError
from hip_ext.suggest import did_you_mean

FRAMEWORK, REQUIREMENT, EXTRA = "MACE", "mace-torch>=0.3.16,<0.4", "mace"
FAMILIES = ("mace_mp", "mace_off", "mace_omol")
"""MACE's functions that download released models."""


def find_model(source: Any, device: torch.device | None) -> tuple[nn.Module, str]:
    """The energy model that `source` means, and a name for it; see `MACEBackbone.load`."""
    modules = import_mace("mace.modules")
    if isinstance(source, Calculator):
        model, name = _from_calculator(source), "calculator"
    elif isinstance(source, nn.Module):
        model, name = source, "in-memory"
    elif isinstance(source, (str, os.PathLike)):
        name = os.fspath(source)
        model = _released(name, device) if name.partition(":")[0] in FAMILIES else _from_file(name, device)
    else:
        expected = "a module, a MACECalculator, a .model file or a name such as 'mace_mp:medium-mpa-0'"
        raise unusable_source("mace", source, expected)
    if not isinstance(model, modules.MACE) or isinstance(model, modules.PolarMACE):
        raise BackboneError(f"expected a MACE or ScaleShiftMACE model, found a {type(model).__name__} ({name})")
    return model, name


def import_mace(name: str) -> ModuleType:
    """Imports a module of MACE, and leaves torch's safe loading as it was; what it prints goes to stderr."""
    require(FRAMEWORK, REQUIREMENT, EXTRA)
    # The tables of e3nn 0.4 hold slices; with these allowed, torch's safe loading reads them.
    torch.serialization.add_safe_globals([slice])
    try:
        importlib.import_module("e3nn.o3")
        # It says on stdout what else could be installed, in the middle of what a command prints as JSON.
        with unpickling_allowed(), redirect_stdout(sys.stderr):
            return importlib.import_module(name)
    except ImportError as error:
        raise MissingDependencyError(f"MACE is installed but cannot be imported: {reason_of(error)}") from error


def _from_calculator(calculator: Any) -> nn.Module:
    models = getattr(calculator, "models", [])
    if len(models) != 1:
        raise BackboneError(
            f"the mace backbone needs a calculator with one model, found {type(calculator).__name__} with {len(models)}"
        )
    if any(getattr(calculator, unit, 1.0) != 1.0 for unit in ("energy_units_to_eV", "length_units_to_A")):
        raise BackboneError("the mace backbone needs a model in eV and Å, but this calculator converts units")
    return models[0]


def _from_file(path: str, device: torch.device | None) -> nn.Module:
    if not Path(path).is_file():
        raise BackboneError(
            f"there is no MACE model file at {path!r}: give the path of a .model file, or a released model as "
            "family:name, such as 'mace_mp:small' or 'mace_off:small'"
        )
    return read_module(path, device, FRAMEWORK)


def _released(source: str, device: torch.device | None) -> nn.Module:
    """A released model, through MACE's own function of that family, which keeps it in MACE's cache."""
    family, _, name = source.partition(":")
    released = import_mace("mace.calculators.foundations_models")
    known = {"mace_mp": released.mace_mp_urls, "mace_off": released.mace_off_urls}.get(family, ["extra_large"])
    if name and name not in known:
        raise BackboneError(f"{family} has no model {name!r}{did_you_mean(name, known)}; it has {', '.join(known)}")
    try:
        with unpickling_allowed():
            return getattr(released, family)(name or None, device=str(device or "cpu"), return_raw_model=True)
    except Exception as error:  # of the network, of the disk, or of a damaged file in MACE's cache
        reason = reason_of(error.__cause__ or error)
        raise BackboneError(
            f"{source} could not be fetched ({reason}): download the file where there is a network and give its path"
        ) from None


@contextmanager
def unpickling_allowed() -> Iterator[None]:
    """Where MACE calls torch.load without arguments, pickles must be allowed; MACE would allow them for good."""
    variable = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(variable)
    os.environ[variable] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before
