"""Calling a function of another package with other meanings for some of the global names that it uses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import FunctionType, ModuleType
from typing import Any

from hip_ext.errors import BackboneError


def with_globals(function: Callable[..., Any], names: Mapping[str, Any]) -> Callable[..., Any]:
    """The same function, for which `names` stand for other things; its module is not changed.

    Args:
        function: a plain function without a closure or default arguments.
        names: global names that it uses, and what they shall mean.

    Raises:
        BackboneError: the function does not use one of the names, so it is not the one that this was written for.
    """
    code, module_globals = function.__code__, function.__globals__
    for name in sorted(set(names) - set(code.co_names)):
        raise BackboneError(f"{function.__module__}.{function.__name__} has no {name!r}: pip install 'hip-ext[mace]'")
    return FunctionType(code, module_globals | dict(names), function.__name__)


class Overlay:
    """A module of which some names mean something else, for the eyes of one function.

    Args:
        module: gives all other names.
        names: what is different.
    """

    def __init__(self, module: ModuleType, **names: Any) -> None:
        self._module = module
        vars(self).update(names)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)
