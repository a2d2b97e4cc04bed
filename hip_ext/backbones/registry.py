"""Backbones by name: the adapters of this package and those that other packages declare.

An adapter is a subclass of `Backbone`, declared as an entry point of the group "hip_ext.backbones":

    [project.entry-points."hip_ext.backbones"]
    mymodel = "mypackage.hessian:MyModelBackbone"

Nothing of a framework is imported before one of its models is loaded.
"""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any

import torch
from packaging.requirements import Requirement

from hip_ext.backbones.base import Backbone
from hip_ext.backbones.borrowed import reason_of
from hip_ext.backbones.frameworks import installed_version, require
from hip_ext.backbones.released import file_of, listed, tell_licence
from hip_ext.errors import BackboneError, HipExtError
from hip_ext.suggest import did_you_mean

GROUP = "hip_ext.backbones"
BUILT_IN = {
    "fairchem": "hip_ext.backbones.fairchem:FairchemBackbone",
    "mace": "hip_ext.backbones.mace:MACEBackbone",
    "sevennet": "hip_ext.backbones.sevennet:SevenNetBackbone",
    "so3lr": "hip_ext.backbones.so3lr:SO3LRBackbone",
}
"""Known without installed metadata; an entry point of another package cannot take these names."""


@dataclass(frozen=True)
class BackboneStatus:
    """Whether a backbone can be used here.

    Attributes:
        kind: registry name.
        package: the distribution that it needs, e.g. "mace-torch"; empty where it needs none.
        version: the installed version of that, or None.
        usable: whether `load_backbone` can work.
        hint: what is wrong and what to do; empty where it is usable.
    """

    kind: str
    package: str
    version: str | None
    usable: bool
    hint: str = ""


def load_backbone(
    kind: str,
    source: Any = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **options: Any,
) -> Backbone:
    """Loads a backbone.

    Args:
        kind: registry name, one of `backbone_kinds()`.
        source: what the adapter's `load` takes: a module, a file, a model's name, an open calculator; or the name of a
            model in the user's own catalogue.
        device: where the model shall be; by default where it is.
        dtype: torch.float32 or torch.float64; by default the model's own.
        options: further arguments of the adapter's `load`, such as `head` for MACE.

    Raises:
        MissingDependencyError: the framework is not installed.
        BackboneError: no such kind, option or model, or a version of the framework that is not supported.
        ConfigError: the user's own catalogue cannot be read.
    """
    adapter = backbone_class(kind)
    if adapter.requirement:
        require(adapter.framework or kind, adapter.requirement, adapter.extra)
    parameters = inspect.signature(adapter.load).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        known = sorted(set(parameters) - {"source", "device", "dtype"})
        for name in sorted(set(options) - set(known)):
            raise BackboneError(
                f"the {kind} backbone has no option {name!r}{did_you_mean(name, known)}; it has {', '.join(known)}"
            )
    base = listed(kind, source) if isinstance(source, str) else None
    if base is None:
        return adapter.load(source, device, dtype, **options)
    tell_licence(base)
    file = file_of(base)
    backbone = adapter.load(source if file is None else str(file), device, dtype, **options)
    if file is not None:  # which is found again by its name, wherever the cache is
        backbone.source = replace(backbone.source, name=source)
    return backbone


def backbone_kinds() -> list[str]:
    """The names of all backbones, whether their frameworks are installed or not."""
    return sorted(_declared())


def backbone_class(kind: str) -> type[Backbone]:
    """The adapter of that name; no framework is imported for the built-in ones.

    Raises:
        BackboneError: there is no such name, or what was declared under it cannot be imported or is no adapter.
    """
    declared = _declared()
    if kind not in declared:
        known = ", ".join(sorted(declared))
        raise BackboneError(f"there is no backbone {kind!r}{did_you_mean(kind, declared)}; known are {known}")
    module, _, attribute = declared[kind].partition(":")
    try:
        adapter = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # another package's module can fail in any way at all
        raise BackboneError(f"the {kind} backbone ({declared[kind]}) cannot be imported: {reason_of(error)}") from error
    if not (isinstance(adapter, type) and issubclass(adapter, Backbone)):
        raise BackboneError(f"the {kind} backbone ({declared[kind]}) is not a subclass of hip_ext.backbones.Backbone")
    return adapter


def availability() -> list[BackboneStatus]:
    """What can be used here and what is missing, for every known backbone; never raises for a broken one."""
    return [_status(kind) for kind in backbone_kinds()]


def _status(kind: str) -> BackboneStatus:
    package, version = "", None
    try:
        adapter = backbone_class(kind)
        if adapter.requirement:
            package, version = Requirement(adapter.requirement).name, installed_version(adapter.requirement)
            require(adapter.framework or kind, adapter.requirement, adapter.extra)
    except HipExtError as error:
        return BackboneStatus(kind, package, version, usable=False, hint=str(error))
    return BackboneStatus(kind, package, version, usable=True)


def _declared() -> dict[str, str]:
    """Where every adapter is, "module:class" by name."""
    return {point.name: point.value for point in metadata.entry_points(group=GROUP)} | BUILT_IN
