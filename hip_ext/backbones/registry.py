"""Backbones by name: the adapters of this package and those that other packages declare.

An adapter is a subclass of `Backbone`, declared as an entry point of the group "hip_ext.backbones":

    [project.entry-points."hip_ext.backbones"]
    mymodel = "mypackage.hessian:MyModelBackbone"

or, for this process alone, by the decorator `register_backbone`. Nothing of a framework is imported before one of its
models is loaded, and no adapter that is broken, or wants a name that is taken, gets in the way of another one.
"""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from packaging.requirements import InvalidRequirement, Requirement

from hip_ext.backbones.base import Backbone
from hip_ext.backbones.borrowed import reason_of
from hip_ext.backbones.declared import NAME, OURS, THIS_PROCESS, Declaration, declarations, registered, target_of
from hip_ext.backbones.frameworks import installed_version, require
from hip_ext.backbones.released import file_of, listed, tell_licence
from hip_ext.errors import BackboneError, HipExtError
from hip_ext.suggest import did_you_mean

Adapter = TypeVar("Adapter", bound=type[Backbone])


@dataclass(frozen=True)
class BackboneStatus:
    """Whether a backbone can be used here.

    Attributes:
        kind: registry name.
        origin: who declares it: "hip-ext", "this process", or a distribution with its version.
        package: the distribution that it needs, e.g. "mace-torch"; empty where it needs none.
        version: the installed version of that, or None.
        usable: whether `load_backbone` can work.
        hint: what is wrong and what to do; empty where it is usable.
    """

    kind: str
    origin: str
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


def register_backbone(adapter: Adapter) -> Adapter:
    """Makes an adapter known in this process by its `kind`; a decorator.

        @register_backbone
        class MyBackbone(Backbone):
            kind = "mine"

    It comes before the entry points of other packages and after hip-ext's own adapters. The same class may come again,
    as it does when a notebook's cell or a module is run twice.

    Raises:
        BackboneError: it is no adapter, some of its methods are missing, or the name is not its own.
    """
    if not isinstance(adapter, type):
        raise BackboneError(f"expected an adapter's class to register, found a {type(adapter).__name__}")
    kind, target = getattr(adapter, "kind", None), target_of(adapter)
    if not isinstance(kind, str) or not NAME.fullmatch(kind):
        raise BackboneError(f"{target} cannot be registered: its kind is {kind!r}, expected a name such as 'mymodel'")
    checked = _checked(adapter, Declaration(kind, THIS_PROCESS, target))
    holder = _holders().get(kind)
    if holder is not None and holder.target != target and (kind in registered or holder.origin == OURS):
        raise BackboneError(f"the {kind} backbone is {holder.target} already: give {target} another kind")
    registered[kind] = checked
    return adapter


def backbone_kinds() -> list[str]:
    """The names of all backbones, whether their frameworks are installed or not."""
    return sorted(_holders())


def backbone_class(kind: str) -> type[Backbone]:
    """The adapter of that name; no framework is imported for the built-in ones.

    Raises:
        BackboneError: there is no such name, or what was declared under it cannot be imported or is no adapter.
    """
    holders = _holders()
    if kind not in holders:
        known = ", ".join(sorted(holders))
        raise BackboneError(f"there is no backbone {kind!r}{did_you_mean(kind, holders)}; known are {known}")
    return _class_of(holders[kind])


def availability() -> list[BackboneStatus]:
    """What can be used here and what is missing, for every declared backbone; never raises for a broken one.

    A name that several declare comes several times: first the adapter that has it, then the others with the reason.
    """
    return [_status(one) for one in declarations()]


def _status(one: Declaration) -> BackboneStatus:
    package, version, hint = "", None, one.trouble
    try:
        if not hint:
            adapter = _class_of(one)
            if adapter.requirement:
                package, version = Requirement(adapter.requirement).name, installed_version(adapter.requirement)
                require(adapter.framework or one.kind, adapter.requirement, adapter.extra)
    except HipExtError as error:
        hint = str(error)
    return BackboneStatus(one.kind, one.origin, package, version, usable=not hint, hint=hint)


def _holders() -> dict[str, Declaration]:
    """The declarations that have their names."""
    return {one.kind: one for one in declarations() if not one.trouble}


def _class_of(one: Declaration) -> type[Backbone]:
    if one.origin == THIS_PROCESS:
        return registered[one.kind]
    module, _, attribute = one.target.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # another package's module can fail in any way at all
        raise BackboneError(f"the {one.kind} backbone ({one.target}) cannot be imported: {reason_of(error)}") from error
    return _checked(found, one)


def _checked(found: Any, one: Declaration) -> type[Backbone]:
    """What was found where an adapter was declared, if it is one."""
    place = f"the {one.kind} backbone ({one.target})"
    if not (isinstance(found, type) and issubclass(found, Backbone)):
        raise BackboneError(f"{place} is not a subclass of hip_ext.backbones.Backbone")
    if inspect.isabstract(found):
        raise BackboneError(f"{place} has no {', '.join(sorted(found.__abstractmethods__))}: define what is missing")
    kind = getattr(found, "kind", None)
    if kind != one.kind:
        # A checkpoint records the kind of the class, and would not find its backbone again.
        raise BackboneError(f"{place} calls itself {kind!r}: give the class and its entry point the same name")
    try:
        Requirement(found.requirement or "none")
    except InvalidRequirement as error:
        raise BackboneError(f"{place} has the requirement {found.requirement!r}: {reason_of(error)}") from None
    return found
