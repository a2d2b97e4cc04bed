"""Labels from tight binding with tblite: GFN2-xTB and its relatives, by central differences of analytic gradients."""

from __future__ import annotations

from ase import Atoms
from ase.calculators.calculator import BaseCalculator

from hip_ext.data.record import HessianRecord
from hip_ext.errors import ConfigError, MissingDependencyError
from hip_ext.labelling.base import check_electrons
from hip_ext.labelling.finite_difference import STEP, FiniteDifferences
from hip_ext.structures import total_charge, unpaired_electrons
from hip_ext.suggest import did_you_mean

METHODS = ("GFN1-xTB", "GFN2-xTB", "IPEA1-xTB")
ACCURACY = 0.01
"""tblite's factor on its thresholds; at its default of 1 the noise of forces is too large for differences."""


class TBLiteLabeller(FiniteDifferences):
    """Tight binding with charge, spin and cell of the structure.

    Args:
        method: one of `METHODS`.
        step: of the differences, Å.

    Raises:
        MissingDependencyError: tblite is not installed.
        ConfigError: there is no such method, or the step is not a positive number.
    """

    def __init__(self, method: str = "GFN2-xTB", step: float = STEP) -> None:
        if method not in METHODS:
            hint = did_you_mean(method, METHODS)
            raise ConfigError(f"tblite has no method {method!r}{hint}; known are {', '.join(METHODS)}")
        try:
            from tblite.ase import TBLite
        except ImportError:
            raise MissingDependencyError("tblite is not installed: pip install 'hip-ext[label]'") from None

        def calculator(atoms: Atoms) -> BaseCalculator:
            check_electrons(HessianRecord.from_atoms(atoms))
            return TBLite(
                method=method,
                charge=total_charge(atoms),
                multiplicity=int(unpaired_electrons(atoms)) + 1,
                accuracy=ACCURACY,
                verbosity=0,
            )

        super().__init__(calculator, method, step, {"program": "tblite", "accuracy": ACCURACY})
