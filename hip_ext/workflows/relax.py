"""Relaxation of structures into minima, with a Hessian for every step or for the first one.

    run = Relaxation(from_pretrained("hip-so3lr-organic"), RelaxSettings(fmax=0.01))
    outcome = run(Task("water", (atoms,)))  # outcome.frames["relaxed"][0], outcome.values["steps"]

Positions move; a cell stays as it is. Whether the end is a minimum is decided by the Hessian there, without the modes
that are not vibrations.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.optimize import BFGS
from ase.optimize.optimize import Optimizer
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from hip_ext.calculator import HessianCalculator
from hip_ext.data.geometries import relative_distances
from hip_ext.errors import ConfigError, HipExtError, StructureError, reason_of
from hip_ext.model import HessianModel
from hip_ext.reference import autograd_hessian
from hip_ext.vibrations import IMAGINARY_THRESHOLD, analyse
from hip_ext.workflows.newton import FLOOR, Newton
from hip_ext.workflows.one_pass import OnePassCalculator
from hip_ext.workflows.outcome import Outcome, Task, Value

OptimizerName = Literal["newton", "bfgs"]
HessianName = Literal["direct", "exact", "none"]

OVERLAP = 0.3
"""Of the sum of two covalent radii: closer than this, forces and Hessians mean nothing."""

BONDED = 1.3
"""Of the sum of two covalent radii: farther than this, two atoms are not bonded."""


@dataclass(frozen=True)
class RelaxSettings:
    """How to relax.

    Attributes:
        optimizer: "newton" takes a Hessian every `every` steps; "bfgs" is ASE's, and begins with one.
        hessian: predicted by the head, exact by automatic differentiation, or none.
        fmax: eV/Å, largest force of a free atom at the end.
        steps: at most.
        every: steps from one Hessian to the next; for "bfgs" 0 is the first one alone.
        verify: which Hessian decides whether the end is a minimum.
    """

    optimizer: OptimizerName = "newton"
    hessian: HessianName = "direct"
    fmax: float = 0.01
    steps: int = 200
    every: int = 1
    verify: HessianName = "direct"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("optimizer", self.optimizer, get_args(OptimizerName)),
            ("hessian", self.hessian, get_args(HessianName)),
            ("verify", self.verify, get_args(HessianName)),
        ):
            if value not in known:
                raise ConfigError(f"{name} is {value!r}, expected one of {', '.join(known)}")
        if self.optimizer == "newton" and self.hessian == "none":
            raise ConfigError("Newton steps need a Hessian: choose direct or exact, or the optimizer bfgs")
        if not self.fmax > 0 or self.steps < 0 or self.every < (self.optimizer == "newton"):
            raise ConfigError(
                f"fmax {self.fmax}, steps {self.steps}, every {self.every}: fmax must be positive, steps not negative, "
                "every at least 1, or 0 with bfgs for a Hessian at the start alone"
            )

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


class Relaxation:
    """The workflow: call it with a task.

    Args:
        model: a backbone with a head.
        settings: how to relax.
        trajectory: keep the structures of all steps as frames "trajectory", each with its energy, eV, and its largest
            force, eV/Å, as `info["energy"]` and `info["largest_force"]`. They are many, and no result depends on them.
    """

    def __init__(self, model: HessianModel, settings: RelaxSettings | None = None, trajectory: bool = False) -> None:
        self.model, self.settings, self.trajectory = model, settings or RelaxSettings(), trajectory

    def __call__(self, task: Task) -> Outcome:
        """Relaxes the first structure of a task.

        Returns:
            A failed outcome, with the last structure, where the forces did not become small enough.

        Raises:
            HipExtError: the structure cannot be used.
        """
        settings = self.settings
        atoms = task.atoms.copy()
        check_start(atoms)
        direct = settings.hessian == "direct" and settings.optimizer == "newton" and settings.every == 1
        atoms.calc = OnePassCalculator(self.model) if direct else HessianCalculator(self.model)
        energy = float(atoms.get_potential_energy())
        optimizer = self._optimizer(atoms)
        converged, passed = False, list[Atoms]()
        try:
            for reached in optimizer.irun(fmax=settings.fmax, steps=settings.steps):
                converged = reached
                if self.trajectory:
                    passed.append(frame_of(atoms))
                due = settings.every and optimizer.nsteps % settings.every == 0
                if isinstance(optimizer, BFGS) and settings.hessian != "none" and due and not reached:
                    restart_bfgs(optimizer, positive(self._hessian(atoms)))
        except HipExtError as error:
            error.args = (f"after {optimizer.nsteps} steps: {error}",)
            raise
        end = relaxed(atoms)
        force = largest_force(end)
        values: dict[str, Value] = {
            "formula": end.get_chemical_formula(),
            "atoms": len(end),
            "converged": bool(converged),
            "steps": optimizer.nsteps,
            "start_energy": energy,
            "energy": float(end.get_potential_energy()),
            "largest_force": force,
            "fragments": fragments(end),
        }
        frames = {"relaxed": (end,)} | ({"trajectory": tuple(passed)} if passed else {})
        if not converged:
            reason = f"not converged after {optimizer.nsteps} steps: the largest force is {force:.3g} eV/Å"
            return Outcome(task.name, "failed", reason, values, frames)
        notes = ["already relaxed: no step was needed"] if optimizer.nsteps == 0 else []
        if fragments(end) > fragments(task.atoms):
            notes.append(f"fell apart into {fragments(end)} fragments")
        notes += self._verify(atoms, values)
        return Outcome(task.name, "done", "; ".join(notes), values, frames)

    def _optimizer(self, atoms: Atoms) -> Optimizer:
        settings = self.settings
        if settings.optimizer == "newton":
            return Newton(atoms, self._hessian, every=settings.every, logfile=None)
        optimizer = BFGS(atoms, logfile=None)
        if settings.hessian != "none":
            optimizer.H0 = positive(self._hessian(atoms))
        return optimizer

    def _hessian(self, atoms: Atoms, exact: bool | None = None) -> NDArray[np.float64]:
        if self.settings.hessian == "exact" if exact is None else exact:
            matrix = autograd_hessian(self.model.backbone, self.model.structures(atoms)).double().cpu().numpy()
            return np.asarray((matrix + matrix.T) / 2)
        return np.asarray(atoms.calc.get_hessian(atoms))

    def _verify(self, atoms: Atoms, values: dict[str, Value]) -> list[str]:
        """Adds what the Hessian says about the end to the values; gives what is to be said about it."""
        if self.settings.verify == "none":
            return []
        try:
            modes = analyse(atoms, self._hessian(atoms, exact=self.settings.verify == "exact"))
        except HipExtError as error:  # of the check, not of the relaxation, whose result is kept
            return [f"not verified: {reason_of(error)}"]
        imaginary = int((modes.frequencies < -IMAGINARY_THRESHOLD).sum())
        lowest = float(modes.frequencies[0]) if len(modes.frequencies) else None
        values |= {"minimum": imaginary == 0, "imaginary_modes": imaginary, "lowest_frequency": lowest}
        values["verified_by"] = self.settings.verify
        return [f"not a minimum: {imaginary} imaginary modes by the {self.settings.verify} Hessian"] * bool(imaginary)


def check_start(atoms: Atoms) -> None:
    """Refuses what no optimiser can make sense of.

    Raises:
        StructureError: two atoms overlap.
    """
    if len(atoms) < 2:
        return
    ratio = relative_distances(atoms)
    np.fill_diagonal(ratio, np.inf)
    if ratio.min() < OVERLAP:
        a, b = (int(i) for i in np.unravel_index(ratio.argmin(), ratio.shape))
        raise StructureError(
            f"atoms {a} and {b} overlap: {atoms.get_distance(a, b, mic=bool(atoms.pbc.any())):.2f} Å apart"
        )


def fragments(atoms: Atoms) -> int:
    """How many parts a structure has that no bond holds together."""
    ratio = atoms.get_all_distances(mic=bool(atoms.pbc.any())) * relative_distances(atoms)
    plain = atoms.get_all_distances()
    ratio = np.divide(ratio, plain, out=np.zeros_like(plain), where=plain > 0)
    return int(connected_components(ratio < BONDED)[0])


def positive(hessian: NDArray[np.float64], floor: float = FLOOR) -> NDArray[np.float64]:
    """The Hessian with max(|h|, floor) in place of each eigenvalue h, as BFGS needs it."""
    values, vectors = np.linalg.eigh(hessian)
    return np.asarray((vectors * np.maximum(np.abs(values), floor)) @ vectors.T)


def restart_bfgs(optimizer: BFGS, hessian: NDArray[np.float64]) -> None:
    """Makes ASE's BFGS forget what it has learned, in favour of a Hessian."""
    optimizer.H0 = hessian
    optimizer.__dict__["state" if "state" in optimizer.__dict__ else "H"] = None


def relaxed(atoms: Atoms) -> Atoms:
    """A copy with energy and forces as numbers."""
    end = atoms.copy()
    end.calc = SinglePointCalculator(end, energy=atoms.get_potential_energy(), forces=atoms.get_forces())
    return end


def frame_of(atoms: Atoms) -> Atoms:
    """A copy that has its energy, eV, and its largest force, eV/Å, in its `info`."""
    frame = atoms.copy()
    frame.info |= {"energy": float(atoms.get_potential_energy()), "largest_force": largest_force(atoms)}
    return frame


def largest_force(atoms: Atoms) -> float:
    """eV/Å, on an atom that may move."""
    return float(np.linalg.norm(atoms.get_forces(), axis=1).max())
