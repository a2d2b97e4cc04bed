"""A calculator for pysisyphus, with a Hessian that costs one pass: for its optimisers, saddle searches and IRCs.

geometry = geom_loader("guess.xyz", coord_type="redund")
geometry.set_calculator(PysisyphusCalculator(HessianCalculator(model)))
RSPRFOptimizer(geometry, hessian_init="calc", hessian_recalc=1).run()
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from hip_ext.errors import MissingDependencyError
from hip_ext.integrations.atomic_units import AtomicUnits, HessianFunction, structure

try:
    from pysisyphus.calculators.Calculator import Calculator
except ImportError:
    raise MissingDependencyError("pysisyphus is not installed: pip install 'pysisyphus>=1'") from None


class PysisyphusCalculator(Calculator):
    """What pysisyphus asks of a calculator: results in Hartree and Bohr, coordinates in Bohr, [3N].

    Args:
        calculator: an ASE calculator, e.g. a `HessianCalculator`.
        hessian_function: gives the Hessian in eV/Å²; by default the calculator's `get_hessian`.
        charge: total charge, e.
        mult: multiplicity, 2S + 1.
        options: of pysisyphus' own base class, such as `out_dir` or `force_num_hess`.

    Raises:
        ConfigError: the calculator has no `get_hessian` and no function was given.
    """

    def __init__(
        self,
        calculator: Any,
        hessian_function: HessianFunction | None = None,
        charge: int = 0,
        mult: int = 1,
        **options: Any,
    ) -> None:
        self.units = AtomicUnits(calculator, hessian_function)
        super().__init__(charge=charge, mult=mult, **options)

    def get_energy(self, atoms: Sequence[str], coords: NDArray[np.float64], **_: Any) -> dict[str, Any]:
        """`energy`, Hartree."""
        return {"energy": self.units.energy(self._structure(atoms, coords))}

    def get_forces(self, atoms: Sequence[str], coords: NDArray[np.float64], **_: Any) -> dict[str, Any]:
        """`energy`, and `forces` in Hartree/Bohr, [3N]."""
        molecule = self._structure(atoms, coords)
        return {"energy": self.units.energy(molecule), "forces": -self.units.gradient(molecule)}

    def get_hessian(self, atoms: Sequence[str], coords: NDArray[np.float64], **_: Any) -> dict[str, Any]:
        """`energy`, and `hessian` in Hartree/Bohr², [3N, 3N]."""
        molecule = self._structure(atoms, coords)
        return {"energy": self.units.energy(molecule), "hessian": self.units.hessian(molecule)}

    def run_calculation(self, atoms: Sequence[str], coords: NDArray[np.float64], **kwargs: Any) -> dict[str, Any]:
        """What pysisyphus calls for a single point: energy and forces."""
        return self.get_forces(atoms, coords, **kwargs)

    def _structure(self, atoms: Sequence[str], coords: NDArray[np.float64]) -> Atoms:
        return structure([symbol.capitalize() for symbol in atoms], coords, self.charge, self.mult)
