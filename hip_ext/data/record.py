"""One structure with what is known about it: energy, forces, and its Hessian, in full or in part.

A Hessian may be known in two ways, and a record may hold both: whole rows for some atoms (all of them for a full
matrix), and products H·v with given displacement fields v. What is not known is None.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import NDArray

from hip_ext.errors import DataError
from hip_ext.structures import Structures, total_charge, unpaired_electrons

Real = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class HessianRecord:
    """A labelled structure of N atoms; the constructor checks every shape and refuses what is not finite.

    Attributes:
        numbers: atomic numbers, [N].
        positions: Å, [N, 3].
        cell: rows are lattice vectors in Å, zero along directions without one, [3, 3].
        pbc: periodic directions, bool [3].
        charge: total charge in e.
        unpaired: number of unpaired electrons (multiplicity − 1).
        energy: eV, or None.
        forces: eV/Å, [N, 3], or None.
        labelled: the k atoms whose rows are known, [k], or None.
        rows: eV/Å², [k, 3, N, 3], or None; `rows[m, x, j, y]` is the second derivative along x of atom `labelled[m]`
            and y of j, periodic images of j added up.
        probes: displacement fields v, Å, [p, N, 3], or None.
        products: H·v of each, eV/Å, [p, N, 3], or None.
        method: level of theory or potential, e.g. "wB97X/6-31G(d)".
        origin: where the structure or the label comes from: a file, a data set, a citation.
        info: anything else that JSON can hold, e.g. SMILES.

    Raises:
        DataError: a shape is wrong, a number is not finite, or one half of a pair is missing.
    """

    numbers: NDArray[np.integer[Any]]
    positions: Real
    cell: Real = field(default_factory=lambda: np.zeros((3, 3)))
    pbc: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(3, dtype=bool))
    charge: float = 0.0
    unpaired: float = 0.0
    energy: float | None = None
    forces: Real | None = None
    labelled: NDArray[np.integer[Any]] | None = None
    rows: Real | None = None
    probes: Real | None = None
    products: Real | None = None
    method: str = ""
    origin: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        numbers = np.asarray(self.numbers)
        n = len(numbers) if numbers.ndim == 1 else 0
        if n == 0 or numbers.dtype.kind not in "iu" or numbers.min() < 1 or numbers.max() > 118:
            raise DataError(f"a record needs a list of atomic numbers from 1 to 118, found {str(self.numbers)[:60]}")
        k = 0 if self.labelled is None else len(self.labelled)
        p = 0 if self.probes is None else len(self.probes)
        expected = {
            "positions": (n, 3),
            "cell": (3, 3),
            "pbc": (3,),
            "forces": (n, 3),
            "rows": (k, 3, n, 3),
            "probes": (p, n, 3),
            "products": (p, n, 3),
        }
        for name, shape in expected.items():
            array = getattr(self, name)
            if array is not None and np.shape(array) != shape:
                raise DataError(f"{name} of a record of {n} atoms has shape {np.shape(array)}, expected {shape}")
            if array is not None and np.asarray(array).dtype.kind not in "fiub":
                raise DataError(f"{name} of a record are no numbers: {str(array)[:60]}")
            if array is not None and not np.isfinite(array).all():
                raise DataError(f"{name} of a record holds {np.count_nonzero(~np.isfinite(array))} numbers not finite")
        if self.energy is not None and not np.isfinite(self.energy):
            raise DataError(f"the energy of a record is {self.energy}: leave it out if there is none")
        for one, other in (("labelled", "rows"), ("probes", "products")):
            if (getattr(self, one) is None) != (getattr(self, other) is None):
                raise DataError(f"a record needs both or neither of {one} and {other}")
        if self.labelled is not None:
            atoms = np.asarray(self.labelled)
            if len(np.unique(atoms)) != k or atoms.min(initial=0) < 0 or atoms.max(initial=0) >= n:
                raise DataError(
                    f"labelled atoms of a record of {n} atoms must be distinct and below {n}, found {atoms}"
                )

    @property
    def is_complete(self) -> bool:
        """Whether every row of the Hessian is known."""
        return self.labelled is not None and len(self.labelled) == len(self.numbers)

    def hessian(self) -> NDArray[np.float64]:
        """The full matrix as it was given, eV/Å², [3N, 3N].

        Raises:
            DataError: some rows are not known.
        """
        if not self.is_complete or self.labelled is None or self.rows is None:
            known = 0 if self.labelled is None else len(self.labelled)
            raise DataError(f"rows of {known} of {len(self.numbers)} atoms are known: the Hessian is not complete")
        n = len(self.numbers)
        full = np.zeros((n, 3, n, 3))
        full[self.labelled] = self.rows
        return full.reshape(3 * n, 3 * n)

    def with_hessian(self, hessian: Real) -> HessianRecord:
        """The same record with a full Hessian, symmetrised; `info["asymmetry"]` is the largest |H − Hᵀ|, eV/Å².

        Args:
            hessian: eV/Å², [3N, 3N] or anything that has as many numbers in that order.

        Raises:
            DataError: it has another number of entries, or some that are not finite.
        """
        n = len(self.numbers)
        given = np.asarray(hessian)
        if given.size != 9 * n * n:
            raise DataError(f"a Hessian of {n} atoms has {9 * n * n} entries, found {given.size} in {given.shape}")
        square = given.reshape(3 * n, 3 * n)
        asymmetry = float(np.abs(square - square.T).max())
        symmetric = (0.5 * (square + square.T)).reshape(n, 3, n, 3)
        info = {**self.info, "asymmetry": asymmetry} if asymmetry > 0 else self.info
        return replace(self, labelled=np.arange(n), rows=symmetric, info=info)

    def atoms(self) -> Atoms:
        """The structure with charge and spin in `info`, energy and forces on a single-point calculator.

        A complete Hessian is not attached: see `hessian`.
        """
        atoms = Atoms(self.numbers, positions=self.positions, cell=self.cell, pbc=self.pbc)
        atoms.info.update(self.info)
        # multiplicity goes in only where it says something, since most readers take a stated one for a demand
        atoms.info["charge"] = round(self.charge)
        if self.unpaired:
            atoms.info["multiplicity"] = round(self.unpaired) + 1
        results = {"energy": self.energy, "forces": None if self.forces is None else np.asarray(self.forces, float)}
        known = {name: value for name, value in results.items() if value is not None}
        if known:
            atoms.calc = SinglePointCalculator(atoms, **known)
        return atoms

    @classmethod
    def from_atoms(cls, atoms: Atoms, method: str = "", origin: str = "") -> HessianRecord:
        """The structure, with energy and forces if its calculator has them; no Hessian.

        Raises:
            StructureError: it cannot be used; see `Structures.from_ase`.
        """
        Structures.from_ase(atoms)
        results = {} if atoms.calc is None else atoms.calc.results
        forces = results.get("forces")
        energy = results.get("energy")
        return cls(
            numbers=atoms.numbers.copy(),
            positions=atoms.positions.copy(),
            cell=atoms.cell.array.copy(),
            pbc=atoms.pbc.copy(),
            charge=total_charge(atoms),
            unpaired=unpaired_electrons(atoms),
            energy=None if energy is None else float(energy),
            forces=None if forces is None else np.array(forces, dtype=float),
            method=method,
            origin=origin,
            info={key: _plain(value) for key, value in atoms.info.items() if _is_kept(key, value)},
        )


SPINS = ("charge", "spin", "multiplicity", "total_spin")
"""Keys of `Atoms.info` that a record holds in fields of its own."""


def _is_kept(key: str, value: Any) -> bool:
    return isinstance(value, str | int | float | np.bool_ | np.number) and key not in SPINS


def _plain(value: Any) -> str | int | float:
    return value.item() if isinstance(value, np.generic) else value
