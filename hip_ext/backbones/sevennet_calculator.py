"""SevenNet's ASE calculator, kept from changing the model that it shares.

The original puts the model and all of its modules into evaluation mode and out of batches for good, and makes its graph
in single precision whatever the model computes in. This module imports SevenNet.
"""

from __future__ import annotations

from typing import Any

from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from sevenn.atom_graph_data import AtomGraphData
from sevenn.calculator import SevenNetCalculator
from sevenn.train.dataload import unlabeled_atoms_to_graph
from sevenn.util import dtype_correct

from hip_ext.backbones.sevennet import SevenNetBackbone
from hip_ext.backbones.sevennet_models import lent


class SharedModelCalculator(SevenNetCalculator):
    """SevenNetCalculator around the model of a backbone, in the model's dtype."""

    def __init__(self, backbone: SevenNetBackbone) -> None:
        modes = [(part, part.training) for part in backbone.model.modules()]
        with lent(backbone.model, batched=False):
            super().__init__(backbone.model, device=backbone.device, modal=backbone.modal)
            for part, training in modes:
                part.training = training
        self._dtype = backbone.dtype

    def calculate(self, atoms: Atoms | None = None, properties: Any = None, system_changes: Any = all_changes) -> None:
        """As the original."""
        Calculator.calculate(self, atoms, properties, system_changes)
        graph = unlabeled_atoms_to_graph(self.atoms, self.cutoff)
        data = AtomGraphData(**{key: dtype_correct(value, self._dtype) for key, value in graph.items()})
        if self.modal:
            data["data_modality"] = self.modal
        with lent(self.model, batched=False):
            self.results = self.output_to_results(self.model(data.to(self.device)))
