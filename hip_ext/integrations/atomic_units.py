"""Energy, gradient and Hessian in atomic units, from what speaks eV and Å: what quantum chemistry programs ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from ase import Atoms
from ase.units import Bohr, Hartree
from numpy.typing import ArrayLike, NDArray

from hip_ext.errors import ConfigError

HessianFunction = Callable[[Atoms], NDArray[np.float64]]
"""The Hessian of a structure, eV/Å², [3N, 3N]."""


class AtomicUnits:
    """An ASE calculator and a Hessian, asked and answering in Hartree and Bohr.

    Args:
        calculator: gives energy and forces, e.g. a `HessianCalculator`.
        hessian_function: gives the Hessian; by default the calculator's `get_hessian`. For exact ones pass
            `functools.partial(calculator.get_hessian, method="autograd")`.

    Raises:
        ConfigError: the calculator has no `get_hessian` and no function was given.
    """

    def __init__(self, calculator: Any, hessian_function: HessianFunction | None = None) -> None:
        function = hessian_function or getattr(calculator, "get_hessian", None)
        if function is None:
            raise ConfigError(
                f"{type(calculator).__name__} has no get_hessian: pass hessian_function, or use a HessianCalculator"
            )
        self.calculator = calculator
        self._hessian_function: HessianFunction = function

    def energy(self, atoms: Atoms) -> float:
        """Hartree."""
        return float(self.calculator.get_potential_energy(atoms)) / Hartree

    def gradient(self, atoms: Atoms) -> NDArray[np.float64]:
        """The derivatives of the energy, the negative forces, Hartree/Bohr, [3N]."""
        forces = np.asarray(self.calculator.get_forces(atoms), dtype=np.float64)
        return -forces.reshape(-1) * (Bohr / Hartree)

    def hessian(self, atoms: Atoms) -> NDArray[np.float64]:
        """The second derivatives, Hartree/Bohr², [3N, 3N].

        Raises:
            ConfigError: the function gave a matrix of another shape.
        """
        matrix, size = np.asarray(self._hessian_function(atoms), dtype=np.float64), 3 * len(atoms)
        if matrix.shape != (size, size):
            raise ConfigError(f"the Hessian of {len(atoms)} atoms has shape {(size, size)}, found {matrix.shape}")
        return matrix * (Bohr**2 / Hartree)

    def dipole(self, atoms: Atoms) -> NDArray[np.float64]:
        """The dipole moment in e·Bohr, [3]; zeros where the calculator has none."""
        if "dipole" not in self.calculator.implemented_properties:
            return np.zeros(3)
        return np.asarray(self.calculator.get_property("dipole", atoms), dtype=np.float64).reshape(3) / Bohr


def structure(elements: ArrayLike, positions: ArrayLike, charge: int = 0, multiplicity: int = 1) -> Atoms:
    """A molecule as programs in atomic units describe it.

    Args:
        elements: symbols or atomic numbers, [N].
        positions: Bohr, [N, 3] or [3N].
        charge: total charge, e.
        multiplicity: 2S + 1.
    """
    atoms = Atoms(elements, np.asarray(positions, dtype=np.float64).reshape(-1, 3) * Bohr)
    atoms.info |= {"charge": charge, "multiplicity": multiplicity}
    return atoms
