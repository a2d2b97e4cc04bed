"""Labels from forces alone: central differences, H·v ≈ −(F(x + hv) − F(x − hv)) / 2h, periodic structures included.

The step h is what the atom that a direction moves farthest is moved by. The error of the differences is that of the
step, h²/6 times the third derivative along v, and that of noise in the forces, divided by h. With differences of step
h and 2h the former is (D₂ₕ − Dₕ)/3; both show there, and the latter also in the asymmetry of a full matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator

from hip_ext.data.record import HessianRecord
from hip_ext.errors import BackboneError, ConfigError, HipExtError
from hip_ext.labelling.base import FULL, Array, Labeller, Target, filled

STEP = 0.005
"""Å: noise of 1e-6 eV/Å in the forces gives 1e-4 eV/Å², as does the step itself at the bonds of organic molecules."""

Forces = Callable[[Array], Array]
CalculatorFactory = Callable[[Atoms], BaseCalculator]


class FiniteDifferences(Labeller):
    """Any ASE calculator.

    Args:
        factory: makes the calculator for a structure, which may state its charge and spin in `info`.
        method: the potential in a few words.
        step: h in Å.
        options: what else changes the numbers, for the record.

    Every record's `info` has "step" and "step_error": the root mean square of (D₂ₕ − Dₕ)/3 over the first direction,
    in eV/Å².

    Raises:
        ConfigError: the step is not a positive number.
    """

    def __init__(
        self,
        factory: CalculatorFactory,
        method: str,
        step: float = STEP,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.factory, self.method, self.step = factory, method, checked_step(step)
        self._options = dict(options or {})

    @property
    def settings(self) -> Mapping[str, Any]:
        """The method, its options and the step."""
        return {"method": self.method, **self._options, "step": self.step}

    def label(self, atoms: Atoms, target: Target = FULL) -> HessianRecord:
        """See `Labeller.label`.

        Raises:
            StructureError: the structure cannot be used.
            BackboneError: the calculator fails, or its forces have a wrong shape or are not finite.
        """
        bare = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc, info=dict(atoms.info))
        record = HessianRecord.from_atoms(bare, method=self.method)
        directions = target.directions(len(bare))
        try:
            calculator = self.factory(bare)

            def forces(positions: Array) -> Array:
                moved = bare.copy()
                moved.positions = positions
                # a copy, because some calculators hand out their own array and fill it again at the next call
                return np.array(calculator.get_forces(moved), dtype=float)

            energy = float(calculator.get_potential_energy(bare))
            record = replace(record, energy=energy, forces=checked_forces(forces(bare.positions), len(bare)))
            return by_differences(record, target, directions, forces, self.step)
        except HipExtError:
            raise
        except Exception as error:  # a calculator of any origin can fail in any way
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise BackboneError(f"{self.method} fails for {bare.symbols}: {reason}") from None


def by_differences(
    record: HessianRecord, target: Target, directions: Array, forces: Forces, step: float
) -> HessianRecord:
    """The record with the products of a target by central differences, and their error in `info`.

    Args:
        record: the structure, with energy and forces.
        target: what is wanted.
        directions: its directions, [p, N, 3].
        forces: from positions [N, 3] in Å to forces [N, 3] in eV/Å.
        step: h in Å.

    Raises:
        BackboneError: the forces have a wrong shape or are not finite.
    """
    n = len(record.numbers)

    def difference(direction: Array, step: float) -> Array:
        scale = step / np.linalg.norm(direction, axis=-1).max()
        plus, minus = (checked_forces(forces(record.positions + sign * scale * direction), n) for sign in (1.0, -1.0))
        return (minus - plus) / (2 * scale)

    products = np.stack([difference(direction, step) for direction in directions])
    wider = difference(directions[0], 2 * step)
    length = np.linalg.norm(directions[0], axis=-1).max()
    error = float(np.sqrt(np.mean((wider - products[0]) ** 2)) / 3 / length)
    return filled(replace(record, info={**record.info, "step": step, "step_error": error}), target, products)


def checked_step(step: float) -> float:
    """The step as it is, or a ConfigError."""
    if not (np.isfinite(step) and step > 0):
        raise ConfigError(f"step is {step}, expected a positive length in Å such as {STEP}")
    return float(step)


def checked_forces(forces: Array, atoms: int) -> Array:
    """The forces as they are, or a BackboneError."""
    if np.shape(forces) != (atoms, 3):
        raise BackboneError(f"the forces have shape {np.shape(forces)}, expected {(atoms, 3)}")
    if not np.isfinite(forces).all():
        raise BackboneError("the forces are not finite: check the structure and the calculator")
    return forces
