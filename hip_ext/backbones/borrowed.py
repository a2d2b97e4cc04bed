"""Working with a user's module without leaving a trace on it: reading, converting, watching and calling.

A hook that stayed on the module would be written into the user's own files by `torch.save`, would collect tensors
whenever the module runs elsewhere, and would be in the way of copies; so hooks live as long as one call.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hip_ext.errors import BackboneError


def reason_of(error: BaseException) -> str:
    """The first sentence of another library's error, for the end of a line of ours."""
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0].partition(". ")[0]


@contextmanager
def outputs_of(modules: Iterable[nn.Module]) -> Iterator[list[Any]]:
    """Yields a list that collects what the modules return, in the order of their calls, until the block ends."""
    outputs: list[Any] = []

    def collect(module: nn.Module, args: object, output: Any) -> None:
        outputs.append(output)

    hooks = [module.register_forward_hook(collect) for module in modules]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def ended_by(module: nn.Module) -> Iterator[None]:
    """Ends the block as soon as `module` has returned, so that nothing is computed which nobody reads."""

    class Ended(Exception):
        pass

    def end(module: nn.Module, args: object, output: Any) -> None:
        raise Ended

    hook = module.register_forward_hook(end)
    try:
        with suppress(Ended):
            yield
    finally:
        hook.remove()


@contextmanager
def untouched(model: nn.Module, default_dtype: torch.dtype | None = None) -> Iterator[None]:
    """Puts back what frameworks change in passing: attributes of the module, `requires_grad`, torch's default dtype.

    Args:
        model: any module.
        default_dtype: torch's default dtype for the length of the block, where the framework relies on it.
    """
    attributes = dict(vars(model))
    trainable = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    before = torch.get_default_dtype()
    torch.set_default_dtype(default_dtype or before)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
        vars(model).clear()
        vars(model).update(attributes)
        for parameter, flag in trainable:
            if parameter.requires_grad != flag:
                parameter.requires_grad_(flag)


def read_module(path: str | os.PathLike[str], device: torch.device | None, framework: str) -> nn.Module:
    """Unpickles a module from a file that the user named.

    A pickle runs code as it is read. This happens here, and only here, because the file is the user's explicit choice
    and the framework has no other format.

    Raises:
        BackboneError: there is no such file, or it cannot be read as a whole module.
    """
    if not Path(path).is_file():
        raise BackboneError(f"there is no {framework} model file at {os.fspath(path)!r}")
    try:
        model = torch.load(path, map_location=device or "cpu", weights_only=False)
    except Exception as error:  # a damaged pickle, or one of another framework, can fail in any way at all
        raise BackboneError(f"{os.fspath(path)!r} cannot be read as a {framework} model: {reason_of(error)}") from None
    if not isinstance(model, nn.Module):
        raise BackboneError(
            f"{os.fspath(path)!r} holds a {type(model).__name__}, not a whole {framework} model: "
            "give the file that was written by torch.save(model)"
        )
    return model.eval()


def usable_device(device: torch.device | str | None) -> torch.device | None:
    """The device with its index, or None for None.

    Raises:
        BackboneError: no tensor can be put there.
    """
    if device is None:
        return None
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise BackboneError(f"device {str(device)!r} cannot be used here: {reason_of(error)}") from None


def converted(model: nn.Module, device: torch.device | None, dtype: torch.dtype | None) -> nn.Module:
    """The module itself where device and dtype are as asked for (None: as they are), otherwise a converted copy.

    Raises:
        BackboneError: the dtype is neither float32 nor float64.
    """
    if dtype not in (None, torch.float32, torch.float64):
        raise BackboneError(f"a backbone computes in torch.float32 or torch.float64, not in {dtype}")
    parameter = next(model.parameters())
    device, dtype = device or parameter.device, dtype or parameter.dtype
    if (device, dtype) == (parameter.device, parameter.dtype):
        return model
    # Intermediate results that a framework has left on the module cannot be copied with their history.
    left = (x for value in vars(model).values() for x in (value if isinstance(value, tuple) else (value,)))
    memo = {id(x): x.detach() for x in left if isinstance(x, Tensor)}
    return copy.deepcopy(model, memo).to(device=device, dtype=dtype)
