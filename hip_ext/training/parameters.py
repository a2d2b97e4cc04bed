"""Which parameters of a backbone are trained."""

from __future__ import annotations

import fnmatch
from dataclasses import replace
from typing import Literal

from hip_ext.backbones import Backbone
from hip_ext.backbones.fingerprint import fingerprint
from hip_ext.checkpoint import Tuning
from hip_ext.errors import ConfigError
from hip_ext.model import HessianModel
from hip_ext.suggest import did_you_mean


def choose_trainable(backbone: Backbone, trainable: Literal["none", "all"] | list[str]) -> list[str]:
    """Makes the chosen parameters of a backbone want gradients, and no other.

    Args:
        backbone: changed in place.
        trainable: "none", "all", or patterns of parameter names such as "interactions.1.*".

    Returns:
        The names of the chosen parameters.

    Raises:
        ConfigError: a pattern is of no parameter, or the framework does not let its parameters be trained from here.
    """
    parameters = dict(backbone.model.named_parameters())
    patterns = {"none": [], "all": ["*"]}[trainable] if isinstance(trainable, str) else list(trainable)
    if patterns and backbone.kind == "fairchem":
        raise ConfigError("a fairchem model freezes its own parameters: train it with fairchem's own trainer")
    chosen: set[str] = set()
    for pattern in patterns:
        found = fnmatch.filter(parameters, pattern)
        if not found:
            hint = did_you_mean(pattern, parameters) or f"; the first is {next(iter(parameters))!r}"
            raise ConfigError(f"backbone.trainable: no parameter is called {pattern!r}{hint}")
        chosen |= {name for name in found if parameters[name].is_floating_point()}
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in chosen)
    return sorted(chosen)


def tuned_model(model: HessianModel, trained: list[str]) -> HessianModel:
    """The same model after parameters of its backbone were changed in place, which lets the backbone know.

    Args:
        model: backbone and head.
        trained: names of the parameters that were changed.
    """
    backbone, earlier = model.backbone, model.tuning
    tuning = Tuning(
        earlier.base if earlier else backbone.source, frozenset(trained) | (earlier.changed if earlier else frozenset())
    )
    backbone.source = replace(backbone.source, fingerprint=fingerprint(backbone.model))
    return HessianModel(backbone, model.head, tuning=tuning)
