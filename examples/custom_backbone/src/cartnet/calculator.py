"""The potential's own ASE calculator, as a framework has one before it hears of hip-ext."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ase.calculators.calculator import Calculator, all_changes
from ase.neighborlist import neighbor_list
from ase.stress import full_3x3_to_voigt_6_stress

from cartnet.model import CartNet


class CartNetCalculator(Calculator):
    """Energy, forces and, with a cell, stress."""

    implemented_properties = ("energy", "free_energy", "forces", "stress")

    def __init__(self, model: CartNet) -> None:
        super().__init__()
        self.model = model

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes) -> None:
        """Fills `results`, as ASE asks."""
        super().calculate(atoms, properties, system_changes)
        i, j, lines = neighbor_list("ijD", self.atoms, self.model.cutoff)
        parameter = next(self.model.parameters())
        edges = torch.as_tensor(np.stack((i, j)), device=parameter.device)
        vector = torch.as_tensor(lines).to(parameter).requires_grad_(True)
        species = torch.tensor([self.model.elements.index(z) for z in self.atoms.numbers], device=parameter.device)
        with torch.enable_grad():
            energy = self.model(species, edges, vector).sum()
            (slope,) = torch.autograd.grad(energy, vector)
        total, slope = energy.item(), slope.cpu().numpy().astype(float)
        forces = np.zeros((len(self.atoms), 3))
        np.add.at(forces, i, slope)
        np.add.at(forces, j, -slope)
        self.results = {"energy": total, "free_energy": total, "forces": forces}
        if self.atoms.cell.rank == 3:
            stress = lines.T @ slope / self.atoms.get_volume()
            self.results["stress"] = full_3x3_to_voigt_6_stress((stress + stress.T) / 2)
