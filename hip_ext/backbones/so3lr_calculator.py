"""so3krates-torch's ASE calculator, kept from changing the model that it shares and torch's defaults.

The original sets torch's default dtype for the process, `requires_grad` of all parameters and the long-range settings
of the model when it is made, leaves the tensors of its last pass on the model, and draws random numbers for its data
loader. This module imports so3krates-torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import all_changes
from numpy.typing import NDArray
from so3krates_torch.calculator.so3 import TorchkratesCalculator

from hip_ext.backbones.so3lr import SO3LRBackbone


class SharedModelCalculator(TorchkratesCalculator):
    """TorchkratesCalculator around the model of a backbone, with the backbone's long-range settings."""

    def __init__(self, backbone: SO3LRBackbone) -> None:
        self._backbone = backbone
        dtype = str(backbone.dtype).removeprefix("torch.")
        with self._backbone.borrowed_model():
            super().__init__(
                models=backbone.model,
                r_max_lr=backbone.long_range_cutoff,
                dispersion_energy_cutoff_lr_damping=backbone.dispersion_damping,
                device=str(backbone.device),
                default_dtype=dtype,
            )

    def calculate(self, atoms: Atoms | None = None, properties: Any = None, system_changes: Any = all_changes) -> None:
        """As the original; stress where it is asked for."""
        self.compute_stress = "stress" in (properties or ())
        with self._backbone.borrowed_model(), torch.random.fork_rng(devices=[]):
            super().calculate(atoms, properties, system_changes)

    def get_hessian(self, atoms: Atoms | None = None) -> NDArray[np.floating]:
        """As the original: exact second derivatives, eV/Å²."""
        with self._backbone.borrowed_model(), torch.random.fork_rng(devices=[]):
            return super().get_hessian(atoms)
