"""What a user could see of a model and of the process around it, to be compared with what is there later."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import nn

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Snapshot:
    """The state of a module and of torch's global settings at the moment when this is made.

    Of the module: its weights and buffers, their gradients and `requires_grad`, whether each part is in training mode,
    the hooks of each part, and its own attributes. Of the process: torch's default dtype, whether gradients are on,
    and the states of the random number generators of torch, numpy and Python.

    Args:
        module: any torch module.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.values = {name: value.clone() for name, value in _tensors(module).items()}
        self.attributes = dict(vars(module))
        self.state = _state(module)
        self.process = _process()

    def assert_unchanged(self) -> None:
        """Asserts that all of it is as it was; attributes must be the same objects."""
        now = _tensors(self.module)
        assert list(now) == list(self.values), "other weights or buffers"
        changed = [name for name, value in now.items() if not torch.equal(value, self.values[name])]
        assert not changed, "values of weights or buffers"
        attributes = vars(self.module)
        assert list(attributes) == list(self.attributes), "attributes of the module"
        replaced = [name for name, value in attributes.items() if value is not self.attributes[name]]
        assert not replaced, "attributes of the module"
        state = _state(self.module)
        for name, value in self.state.items():
            assert state[name] == value, f"{name} of parts of the module"
        process = _process()
        for name, value in self.process.items():
            assert process[name] == value, f"{name} of the process"


def hooks_on(module: nn.Module) -> int:
    """The number of hooks on a module and its parts."""
    return sum(len(getattr(part, kind, None) or ()) for part in module.modules() for kind in HOOKS)


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value for name, value in module.state_dict().items() if isinstance(value, torch.Tensor)}


def _state(module: nn.Module) -> dict[str, Any]:
    parameters = list(module.parameters())
    return {
        "requires_grad": [parameter.requires_grad for parameter in parameters],
        "gradients": [None if p.grad is None else p.grad.flatten().tolist() for p in parameters],
        "training mode": [part.training for part in module.modules()],
        "hooks": hooks_on(module),
    }


def _process() -> dict[str, Any]:
    numbers: Any = np.random.get_state()  # noqa: NPY002
    return {
        "default dtype": torch.get_default_dtype(),
        "gradient mode": torch.is_grad_enabled(),
        "random state of torch": torch.get_rng_state().numpy().tobytes(),
        "random state of numpy": (numbers[1].tobytes(), *numbers[2:]),
        "random state of Python": random.getstate(),
    }
