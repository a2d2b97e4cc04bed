"""Labels from density-functional theory with PySCF: analytic Hessians of molecules, closed-shell (RKS) or open (UKS).

The full matrix is analytic (coupled-perturbed SCF). Rows and probes come from central differences of analytic
gradients, each from the density of the structure itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ase import Atoms
from ase.units import Bohr, Hartree
from numpy.typing import NDArray

from hip_ext.data.record import HessianRecord
from hip_ext.errors import BackboneError, ConfigError, MissingDependencyError, StructureError
from hip_ext.labelling.base import FULL, Array, Labeller, Target, check_electrons, filled
from hip_ext.labelling.finite_difference import STEP, by_differences, checked_step

GRIDS = range(10)

SOME_ELEMENTS = ("H", "C", "O", "Na", "Si", "Fe", "Br", "I", "Au")
"""A basis that has none of these is none."""


@dataclass(frozen=True)
class Level:
    """A level of theory.

    Attributes:
        functional: any that PySCF has second derivatives for, e.g. "wb97x"; "hf" is Hartree–Fock.
        basis: any that PySCF knows, e.g. "6-31g*"; d functions are spherical.
        grid_level: 0 (coarse) to 9; a Hessian needs a finer grid than an energy, since PySCF leaves out how the grid
            moves with the atoms.
        grid: radial and angular points of every atom, e.g. (99, 590), in place of a level.
        conv_tol: of the SCF energy, Hartree.
        conv_tol_grad: of the SCF's orbital gradient, to which errors of forces are proportional. PySCF's own, the root
            of `conv_tol`, leaves 1e-4 eV/Å of noise: too much for differences.
    """

    functional: str
    basis: str
    grid_level: int = 3
    grid: tuple[int, int] | None = None
    conv_tol: float = 1e-10
    conv_tol_grad: float = 1e-7

    def __post_init__(self) -> None:
        if self.grid_level not in GRIDS:
            raise ConfigError(f"grid level {self.grid_level}: expected 0 to 9")

    def __str__(self) -> str:
        return f"{self.functional}/{self.basis}"


class PySCFLabeller(Labeller):
    """Density-functional theory with PySCF.

    Args:
        level: the level of theory.
        step: of the differences for rows and probes, Å.

    Raises:
        MissingDependencyError: PySCF is not installed.
        ConfigError: PySCF does not know the functional or the basis.
    """

    def __init__(self, level: Level, step: float = STEP) -> None:
        self.level, self.step, self.method = level, checked_step(step), str(level)
        dft = _pyscf().dft
        try:
            dft.libxc.parse_xc(level.functional)
        except Exception as error:
            raise ConfigError(f"PySCF does not know the functional {level.functional!r}: {_reason(error)}") from None
        self._check_basis()
        if level.grid is not None and level.grid[1] not in dft.gen_grid.LEBEDEV_NGRID:
            known = ", ".join(map(str, sorted(dft.gen_grid.LEBEDEV_NGRID)))
            raise ConfigError(f"there is no angular grid of {level.grid[1]} points: known are {known}")

    def _check_basis(self) -> None:
        """Refuses a basis that has nothing for any element; of which it has something, its structures will say.

        Raises:
            ConfigError: that is so.
        """
        gto = _pyscf().gto
        for symbol in SOME_ELEMENTS:
            with warnings.catch_warnings(), suppress(Exception):  # PySCF tries several readers, each with its own
                warnings.simplefilter("ignore")
                if gto.format_basis({symbol: self.level.basis}).get(symbol):
                    return
        raise ConfigError(f"PySCF does not know the basis {self.level.basis!r}: give one such as 6-31g* or def2-svp")

    @property
    def settings(self) -> Mapping[str, Any]:
        """Functional, basis, grid, convergence, and the step where differences are taken."""
        grid: dict[str, Any] = {"grid_level": self.level.grid_level}
        if self.level.grid is not None:
            grid = {"grid": list(self.level.grid)}
        tolerances = {"conv_tol": self.level.conv_tol, "conv_tol_grad": self.level.conv_tol_grad}
        return {"method": self.method, "program": "pyscf", **grid, **tolerances, "step": self.step}

    def label(self, atoms: Atoms, target: Target = FULL) -> HessianRecord:
        """See `Labeller.label`.

        Raises:
            StructureError: the structure is periodic, or its electrons do not fit its spin.
            ConfigError: the basis has nothing for an element.
            BackboneError: the SCF does not converge, or PySCF has no gradient or Hessian for this functional.
        """
        bare = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc, info=dict(atoms.info))
        record = HessianRecord.from_atoms(bare, method=self.method)
        directions = target.directions(len(bare))
        reference = self._converged(record, record.positions, None)
        forces = self._forces(reference)
        record = replace(record, energy=float(reference.e_tot) * Hartree, forces=forces)
        if target.is_full:
            try:
                hessian = reference.Hessian().kernel()  # [N, N, 3, 3], Hartree/Bohr²
            except (NotImplementedError, AttributeError, AssertionError) as error:
                raise BackboneError(f"PySCF has no Hessian for {self.method}: {_reason(error)}") from None
            products = np.asarray(hessian).transpose(0, 2, 1, 3) * (Hartree / Bohr**2)
            return filled(record, target, products.reshape(-1, len(bare), 3))
        density = reference.make_rdm1()

        def displaced(positions: Array) -> Array:
            return self._forces(self._converged(record, positions, density))

        return by_differences(record, target, directions, displaced, self.step)

    def _converged(self, record: HessianRecord, positions: NDArray[np.floating[Any]], density: Any) -> Any:
        """The SCF of these positions, Å."""
        dft = _pyscf().dft
        field = (dft.UKS if record.unpaired else dft.RKS)(self._molecule(record, positions), xc=self.level.functional)
        field.conv_tol, field.conv_tol_grad = self.level.conv_tol, self.level.conv_tol_grad
        field.grids.level = self.level.grid_level
        if self.level.grid is not None:
            field.grids.atom_grid = self.level.grid
        field.kernel(dm0=density)
        if not field.converged:
            field = field.newton()
            field.kernel()
        if not field.converged:
            raise BackboneError(f"the SCF of {self._formula(record)} does not converge with {self.method}")
        return field.undo_soscf() if hasattr(field, "undo_soscf") else field

    def _molecule(self, record: HessianRecord, positions: NDArray[np.floating[Any]]) -> Any:
        gto = _pyscf().gto
        if record.pbc.any():
            raise StructureError(f"{self._formula(record)} is periodic: PySCF Hessians are for molecules")
        check_electrons(record)
        atoms = [(int(z), tuple(x)) for z, x in zip(record.numbers, positions / Bohr, strict=True)]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of where else a basis could come from: the error says enough
                return gto.M(
                    atom=atoms,
                    unit="Bohr",
                    basis=self.level.basis,
                    charge=int(record.charge),
                    spin=int(record.unpaired),
                    verbose=0,
                )
        except Exception as error:
            raise ConfigError(f"PySCF has no basis {self.level.basis!r} here: {_reason(error)}") from None

    def _forces(self, field: Any) -> Array:
        try:
            gradient = field.nuc_grad_method().kernel()  # Hartree/Bohr
        except (NotImplementedError, AttributeError) as error:
            raise BackboneError(f"PySCF has no gradient for {self.method}: {_reason(error)}") from None
        return -np.asarray(gradient) * (Hartree / Bohr)

    @staticmethod
    def _formula(record: HessianRecord) -> str:
        return str(Atoms(record.numbers).symbols)


def _pyscf() -> Any:
    try:
        import pyscf
        import pyscf.dft
        import pyscf.grad
        import pyscf.hessian
    except ImportError:
        raise MissingDependencyError("PySCF is not installed: pip install 'hip-ext[label]'") from None
    return pyscf


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
