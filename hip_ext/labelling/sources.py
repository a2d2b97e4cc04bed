"""Labellers by name, as the command line and its worker processes make them.

backbone:so3lr, backbone:mace:FILE        a registered backbone
pyscf:wb97x/6-31g*                        a functional and a basis
tblite:GFN2-xTB                           tight binding
calculator:emt                            one of ASE's calculators
calculator:my_package.my_module:make      what a function of yours returns, given the structure
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ase import Atoms
from ase.calculators.calculator import BaseCalculator

from hip_ext.errors import ConfigError, StructureError
from hip_ext.labelling.base import Labeller
from hip_ext.labelling.finite_difference import STEP, CalculatorFactory, FiniteDifferences
from hip_ext.structures import total_charge, unpaired_electrons
from hip_ext.suggest import did_you_mean


@dataclass(frozen=True)
class Options:
    """What the labellers can be told; each takes what concerns it, and refuses to be told anything else.

    Attributes:
        step: of finite differences, Å.
        grid_level: of PySCF, 0 to 9.
        grid: radial and angular points of PySCF's grid, in place of a level.
        float64: whether a backbone computes in double precision.
        trust_code: whether `calculator:module:callable` may import that module, which runs its code.
        batch: structures that a backbone takes at a time.
        backbone: further arguments of a backbone's loader, such as {"task": "omol"}.
    """

    step: float = STEP
    grid_level: int = 3
    grid: tuple[int, int] | None = None
    float64: bool = False
    trust_code: bool = False
    batch: int = 16
    backbone: Mapping[str, Any] = field(default_factory=dict)


def open_labeller(name: str, options: Options | None = None) -> Labeller:
    """The labeller of a name; see this module.

    Raises:
        ConfigError: there is no such labeller, or an option is out of range.
        BackboneError: there is no such backbone.
        MissingDependencyError: a program is not installed.
    """
    options = Options() if options is None else options
    kind, _, rest = name.partition(":")
    if kind not in _MAKERS:
        known = ", ".join(f"{key}:…" for key in _MAKERS)
        raise ConfigError(f"no labels from {name!r}{did_you_mean(kind, _MAKERS)}; known are {known}")
    if not rest:
        raise ConfigError(f"{name!r} does not say which: give {kind}:NAME")
    _refuse_foreign(name, kind, options)
    return _MAKERS[kind](rest, options)


def _refuse_foreign(name: str, kind: str, options: Options) -> None:
    """Refuses an option that only other labellers would heed.

    Raises:
        ConfigError: that is so.
    """
    plain = Options()
    for option, kinds in _HEEDED.items():
        if kind not in kinds and getattr(options, option) != getattr(plain, option):
            flag = {"backbone": "--backbone-option"}.get(option, f"--{option.replace('_', '-')}")
            others = ", ".join(f"{one}:…" for one in kinds)
            raise ConfigError(f"{flag} is for {others}, not for {name}: leave it out")


def _backbone(name: str, options: Options) -> Labeller:
    import torch

    from hip_ext.backbones.registry import load_backbone
    from hip_ext.labelling.backbone import BackboneLabeller

    kind, _, source = name.partition(":")
    dtype = torch.float64 if options.float64 else None
    backbone = load_backbone(kind, source or None, dtype=dtype, **options.backbone)
    return BackboneLabeller(backbone, options.batch)


def _pyscf(name: str, options: Options) -> Labeller:
    from hip_ext.labelling.pyscf import Level, PySCFLabeller

    functional, slash, basis = name.partition("/")
    if not slash or not functional or not basis:
        raise ConfigError(f"pyscf:{name} does not name a level: give pyscf:FUNCTIONAL/BASIS, e.g. pyscf:wb97x/6-31g*")
    return PySCFLabeller(Level(functional, basis, options.grid_level, options.grid), options.step)


def _tblite(name: str, options: Options) -> Labeller:
    from hip_ext.labelling.tblite import TBLiteLabeller

    return TBLiteLabeller(name, options.step)


def _calculator(name: str, options: Options) -> Labeller:
    module, colon, attribute = name.partition(":")
    if not colon:
        return FiniteDifferences(_named_by_ase(name), name, options.step, {"program": "ase"})
    if not options.trust_code:
        raise ConfigError(f"calculator:{name} runs the code of module {module}: say --trust-code if you trust it")
    try:
        factory: Callable[[Atoms], BaseCalculator] = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a module can fail in any way at all
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"cannot import {attribute} of {module}: {reason}") from None
    if not callable(factory):
        raise ConfigError(f"{name} is a {type(factory).__name__}: expected a callable that returns a calculator")
    return FiniteDifferences(factory, name, options.step, {"program": "module"})


def _named_by_ase(name: str) -> CalculatorFactory:
    from ase.calculators.calculator import get_calculator_class

    try:
        made: Any = get_calculator_class(name)
        made()
    except Exception as error:  # unknown, not installed, or not to be made without arguments
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"ASE cannot make a calculator {name!r} without arguments: {reason}") from None

    def calculator(atoms: Atoms) -> BaseCalculator:
        if total_charge(atoms) or unpaired_electrons(atoms):
            raise StructureError(
                f"{atoms.symbols} states a charge or a spin, of which ASE's {name} would not know: "
                "use calculator:module:callable"
            )
        return made()

    return calculator


_MAKERS: dict[str, Callable[[str, Options], Labeller]] = {
    "backbone": _backbone,
    "pyscf": _pyscf,
    "tblite": _tblite,
    "calculator": _calculator,
}

_HEEDED = {
    "step": ("pyscf", "tblite", "calculator"),
    "grid_level": ("pyscf",),
    "grid": ("pyscf",),
    "float64": ("backbone",),
    "trust_code": ("calculator",),
    "batch": ("backbone",),
    "backbone": ("backbone",),
}
"""Which labellers heed an option."""
