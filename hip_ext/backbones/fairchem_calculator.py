"""fairchem's ASE calculator with charge and spin as the backbone reads them. This module imports fairchem.

The original takes charge and spin of the type int only, writes its defaults into the user's `atoms.info`, refuses a
slab whose cell lacks the third vector, and draws from the user's random numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

from ase import Atoms
from ase.calculators.calculator import all_changes
from fairchem.core.calculate.ase_calculator import FAIRChemCalculator

from hip_ext.backbones.fairchem import FairchemBackbone, repeatable
from hip_ext.backbones.fairchem_inputs import charge_and_multiplicity, refusals
from hip_ext.structures import total_charge, unpaired_electrons


class SharedUnitCalculator(FAIRChemCalculator):
    """FAIRChemCalculator around the predict unit of a backbone, for the backbone's task."""

    def __init__(self, backbone: FairchemBackbone) -> None:
        super().__init__(backbone.unit, task_name=backbone.task)
        self._device = backbone.device

    def calculate(
        self, atoms: Atoms, properties: Sequence[str] = ("energy",), system_changes: Sequence[str] = all_changes
    ) -> None:
        """As the original.

        Raises:
            BackboneError: fairchem refuses the structure.
        """
        stated = atoms.copy()
        charge, spin = charge_and_multiplicity(total_charge(atoms), unpaired_electrons(atoms), self.task_name)
        stated.info |= {"charge": charge, "spin": spin}
        stated.cell = atoms.cell.complete()
        with repeatable(self._device), refusals(self.predictor):
            super().calculate(stated, list(properties), list(system_changes))
        self.atoms = atoms.copy()
