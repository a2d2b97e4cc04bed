"""A potential energy surface that counts what is asked of it.

Everything in a search for a saddle goes through here, so that its cost is known in passes rather than in seconds:
gradients (energy and forces of one structure) and Hessians of each kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator, Calculator, all_changes
from numpy.typing import NDArray

from hip_ext.calculator import HessianCalculator
from hip_ext.errors import BackboneError, reason_of
from hip_ext.reference import finite_difference_hessian

Array = NDArray[np.float64]
HessianMethod = Literal["direct", "autograd", "finite_difference"]


@dataclass
class Cost:
    """Passes so far.

    Attributes:
        gradients: structures of which energy and forces were computed, those of finite differences included.
        direct: predicted Hessians.
        exact: Hessians by automatic differentiation or by finite differences.
    """

    gradients: int = 0
    direct: int = 0
    exact: int = 0

    def __sub__(self, earlier: Cost) -> Cost:
        """What was spent since `earlier`, which is a copy of an earlier state."""
        return Cost(self.gradients - earlier.gradients, self.direct - earlier.direct, self.exact - earlier.exact)

    def copy(self) -> Cost:
        """The state now."""
        return Cost(self.gradients, self.direct, self.exact)


class Surface(Calculator):
    """Energy and forces of another calculator, its Hessians, and a count of both.

    Args:
        calculator: a `HessianCalculator`, or any ASE calculator, whose Hessians are then finite differences.

    Attributes:
        cost: passes so far.
        exact_method: how an exact Hessian is made: "autograd" for a `HessianCalculator`, else "finite_difference".
    """

    implemented_properties = ["energy", "free_energy", "forces"]  # noqa: RUF012 - as ASE has it

    def __init__(self, calculator: BaseCalculator) -> None:
        super().__init__()
        self.inner = calculator
        self.cost = Cost()
        direct = isinstance(calculator, HessianCalculator)
        self.exact_method: HessianMethod = "autograd" if direct else "finite_difference"

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] | None = None,
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Fills `results` with energy and forces; called by ASE.

        Raises:
            BackboneError: the calculator fails, or gives numbers that are not finite.
        """
        super().calculate(atoms, properties, system_changes)
        self.cost.gradients += 1
        try:
            forces = np.array(self.inner.get_forces(self.atoms), dtype=np.float64)
            energy = float(self.inner.get_potential_energy(self.atoms))
        except BackboneError:
            raise
        except Exception as error:
            raise BackboneError(f"the calculator fails at this geometry: {reason_of(error)}") from error
        if not (np.isfinite(energy) and np.isfinite(forces).all()):
            raise BackboneError("the calculator gives an energy or forces that are not finite at this geometry")
        self.results = {"energy": energy, "free_energy": energy, "forces": forces}

    def hessian(self, atoms: Atoms, method: HessianMethod) -> Array:
        """Second derivatives, [3N, 3N] in eV/Å².

        Raises:
            BackboneError: the calculator has no such Hessian, or it fails.
        """
        if method == "finite_difference":
            self.cost.exact += 1
            free = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc, info=dict(atoms.info))
            return finite_difference_hessian(self, free).hessian
        if not isinstance(self.inner, HessianCalculator):
            raise BackboneError(
                f"{type(self.inner).__name__} has no {method} Hessian: use finite_difference, or a HessianCalculator"
            )
        if method == "direct":
            self.cost.direct += 1
        else:
            self.cost.exact += 1
        return self.inner.get_hessian(atoms, method)

    def exact_hessian(self, atoms: Atoms) -> Array:
        """The Hessian that results are verified with, [3N, 3N] in eV/Å²."""
        return self.hessian(atoms, self.exact_method)

    def on(self, atoms: Atoms) -> Atoms:
        """A copy of a structure, without constraints and with this calculator."""
        placed = atoms.copy()
        placed.set_constraint()
        placed.calc = self
        return placed
