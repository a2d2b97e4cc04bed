"""The contract between a framework and the rest of the package.

An adapter wraps a loaded model without changing it and gives three things: node features for the head, energy and
forces as the framework computes them, and a differentiable energy for exact references. See `hip_ext.backbones.mace`
for the pattern.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from ase.calculators.calculator import Calculator
from torch import Tensor, nn

from hip_ext.errors import BackboneError
from hip_ext.features import NodeFeatures, Parity, Widths
from hip_ext.structures import Structures


@dataclass(frozen=True)
class BackboneSource:
    """Where a backbone came from and what it is: what a checkpoint stores to find and recognise it again.

    Attributes:
        kind: the registry name of the adapter, e.g. "mace".
        name: what the user gave: a model name, a path, or "in-memory".
        options: keyword arguments that change what the backbone computes (cutoffs, head), JSON-able.
        fingerprint: sha256 over the names, shapes and values of the model's parameters and buffers.
    """

    kind: str
    name: str
    fingerprint: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """Energy and forces of a batch, as the framework computes them.

    Attributes:
        energy: eV, [B].
        forces: eV/Å, [N, 3].
        stress: eV/Å³, [B, 3, 3], or None where it was not asked for.
        features: the node features of the same pass.
    """

    energy: Tensor
    forces: Tensor
    stress: Tensor | None
    features: NodeFeatures


class Backbone(nn.Module, ABC):
    """A trained interatomic potential, seen from the head.

    Class attributes:
        kind: registry name.
        framework: what people call the framework, e.g. "MACE".
        requirement: the framework's distribution and supported versions, e.g. "mace-torch>=0.3.16,<0.4"; empty where
            nothing has to be installed.
        extra: the extra of hip-ext that installs the framework; empty for adapters from elsewhere.

    Attributes:
        model: the framework's own module, untouched.
        cutoff: range of one message of the model, Å.
        parity: what the features promise under reflections.
        widths: channels of the features per degree, (C0, C1, C2).
        elements: atomic numbers that the model knows.
    """

    kind: ClassVar[str]
    framework: ClassVar[str] = ""
    requirement: ClassVar[str] = ""
    extra: ClassVar[str] = ""

    model: Any  # a torch module of a framework; few of them are typed
    cutoff: float
    parity: Parity
    widths: Widths
    elements: frozenset[int]
    source: BackboneSource

    @classmethod
    def load(
        cls, source: Any = None, device: Any = None, dtype: torch.dtype | None = None, *args: Any, **options: Any
    ) -> Backbone:
        """Wraps what `source` names: a loaded module, a file, a model's name; each adapter says what it takes.

        Raises:
            MissingDependencyError: the framework is not installed.
            BackboneError: there is no such model, or this adapter only takes a module in its constructor.
        """
        raise BackboneError(f"the {cls.kind} backbone has no loader: construct {cls.__name__} around a loaded model")

    @abstractmethod
    def prepare(self, structures: Structures) -> dict[str, Tensor]:
        """The framework's own input for these structures: graph, one-hot elements, and whatever else it reads."""

    @abstractmethod
    def energy(self, inputs: dict[str, Tensor]) -> Tensor:
        """Total energies in eV, [B], differentiable with respect to `inputs["positions"]`."""

    def dipole(self, inputs: dict[str, Tensor]) -> Tensor:
        """Electric dipole moments in e·Å, [B, 3], differentiable with respect to `inputs["positions"]`.

        An adapter whose model has charges or dipoles overrides this; it is asked of molecules only. The dipole of an
        ion depends on the origin, which stays where it is, its derivative along a vibration does not.

        Raises:
            BackboneError: the model has neither charges nor dipoles.
        """
        raise BackboneError(f"the {self.kind} backbone has no dipole moment: there are no infrared intensities")

    @abstractmethod
    def features(self, inputs: dict[str, Tensor]) -> NodeFeatures:
        """Node features from one forward pass; differentiable unless gradients are switched off."""

    def energy_and_features(self, inputs: dict[str, Tensor]) -> tuple[Tensor, NodeFeatures]:
        """Total energies in eV, [B], and node features, both differentiable: what a backbone is trained by.

        Two passes, unless an adapter takes both from one.
        """
        return self.energy(inputs), self.features(inputs)

    @abstractmethod
    def evaluate(self, structures: Structures, *, stress: bool = False) -> Evaluation:
        """Energy, forces, optionally stress, and the node features of the same pass, by the framework's own means."""

    @abstractmethod
    def calculator(self) -> Calculator:
        """The framework's own ASE calculator around the same model."""

    def close(self) -> None:
        """Detaches whatever the adapter has left on the user's model; nothing, unless an adapter says otherwise."""

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the model's parameters."""
        return next(self.model.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Device of the model's parameters."""
        return next(self.model.parameters()).device

    def check_elements(self, structures: Structures) -> None:
        """Raises BackboneError for an element that the model was not made for."""
        unknown = sorted(set(structures.numbers.tolist()) - self.elements)
        if unknown:
            from ase.data import chemical_symbols

            names = ", ".join(chemical_symbols[z] for z in unknown)
            known = ", ".join(chemical_symbols[z] for z in sorted(self.elements))
            raise BackboneError(f"the {self.kind} backbone does not know {names}; it knows {known}")
