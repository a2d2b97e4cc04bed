"""What the suite is told about a backbone, and the fixtures that it makes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator
from torch import nn

from hip_ext.backbones.base import Backbone
from hip_ext.head import HeadConfig
from hip_ext.model import HessianModel, attach_head
from hip_ext.testing.compare import default_dtype, features_of, framework_results
from hip_ext.testing.structures import organic_structures

SMALL_HEAD = HeadConfig(scalars=8, channels=4, hidden=8, pair_channels=2, coordinates=4, cutoff=3.0)


@dataclass(frozen=True)
class BackboneCase:
    """A backbone and what to try it on.

    Attributes:
        make_model: builds what the framework calls a model, on the CPU and in float64, with the same weights at each
            call. Calls `pytest.skip` or `pytest.importorskip` where the framework or its weights are not there.
        attach: the adapter around a model, called as `attach(model)`, `attach(model, dtype=…)` and
            `attach(model, device=…)`: the class method `load` of an adapter, or `partial(load_backbone, kind)`.
        own_calculator: the framework's own ASE calculator around a model, in float64. It is what energy, forces and
            stress are compared with, so it must not go through the adapter.
        structures: two molecules and a crystal of elements that the model knows; the crystal so small that its atoms
            see their own images, and none of them at a stationary point.
        unknown_element: the symbol of an element that the model does not know.
        module: the torch module inside a model, where the model is something else.
        layers: attribute of the model that lists the layers which one pass calls once each, in this order; None where
            the features need several passes, or there is no such list.
        refused: names of `PLACEMENTS` that the framework cannot compute: the adapter must refuse them in words.
        conservative: whether the framework's forces are the gradient of its energy.
        repeats: how well the framework repeats its own numbers, relative to the largest; 0 means bit for bit.
    """

    make_model: Callable[[], Any]
    attach: Callable[..., Backbone]
    own_calculator: Callable[[Any], Calculator]
    structures: Callable[[], tuple[Atoms, Atoms, Atoms]] = organic_structures
    unknown_element: str = "Xe"
    module: Callable[[Any], nn.Module] = lambda model: model
    layers: str | None = None
    refused: frozenset[str] = field(default_factory=frozenset)
    conservative: bool = True
    repeats: float = 0.0


class CaseFixtures:
    """What the tests of the suite share; all of it is made of a fixture `case`, of scope "class" or wider."""

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, case: BackboneCase) -> Any:
        """The framework's model."""
        return case.make_model()

    @pytest.fixture(scope="class")
    @classmethod
    def backbone(cls, case: BackboneCase, model: Any) -> Backbone:
        """The adapter around `model`."""
        return case.attach(model)

    @pytest.fixture(scope="class")
    @classmethod
    def calculator(cls, case: BackboneCase) -> Calculator:
        """The framework's own calculator around its own copy of the model; it may change the default dtype."""
        with default_dtype(torch.float64):
            return case.own_calculator(case.make_model())

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def settled(cls, case: BackboneCase, calculator: Calculator) -> None:
        """Lets the framework compile itself: with TorchScript the first numbers of a process are rounded otherwise."""
        for atoms in 2 * case.structures():
            framework_results(calculator, atoms, ["energy", "forces"])

    @pytest.fixture(scope="class")
    @classmethod
    def hessian_model(cls, case: BackboneCase, backbone: Backbone) -> HessianModel:
        """A small untrained head on the backbone, its inputs scaled to the features of the structures."""
        model = attach_head(backbone, SMALL_HEAD)
        model.head.fit_normalisation(features_of(backbone, list(case.structures())))
        return model


def _slab(molecule: Atoms, crystal: Atoms) -> Atoms:
    crystal.pbc = [True, True, False]
    return crystal


def _wire(molecule: Atoms, crystal: Atoms) -> Atoms:
    crystal.pbc = [False, True, False]
    return crystal


def _boxed(molecule: Atoms, crystal: Atoms) -> Atoms:
    molecule.cell = [[9.0, 0.0, 0.0], [1.0, 8.0, 0.0], [0.0, 2.0, 7.5]]
    return molecule


def _outside(molecule: Atoms, crystal: Atoms) -> Atoms:
    crystal.positions += np.random.default_rng(2).integers(-1, 2, (len(crystal), 3)) @ crystal.cell.array
    return crystal


PLACEMENTS: dict[str, Callable[[Atoms, Atoms], Atoms]] = {
    "molecule": lambda molecule, crystal: molecule,
    "molecule in a cell without periodicity": _boxed,
    "crystal": lambda molecule, crystal: crystal,
    "slab": _slab,
    "wire": _wire,
    "atoms outside the cell": _outside,
    "one atom": lambda molecule, crystal: molecule[:1],
}
"""Ways in which atoms can lie in space, made from copies of a molecule and a crystal."""
