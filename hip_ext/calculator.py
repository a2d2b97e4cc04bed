"""An ASE calculator with a Hessian: energy, forces and stress are the framework's own, bit for bit.

    atoms.calc = HessianCalculator(from_pretrained("hip-so3lr-organic"))
    atoms.get_potential_energy()           # eV, from the framework's own calculator
    atoms.calc.get_hessian(atoms)          # (3N, 3N) float64, eV/Å²
    atoms.calc.get_hessian(atoms, refine=5)  # corrected by five exact products along its lowest modes
    atoms.calc.get_vibrations(atoms)       # frequencies, modes, thermochemistry

What it costs in passes of the backbone, once for a structure however often it is asked: energy and forces one forward
and one backward pass, in either order; stress one more where the framework's calculator gives it on request alone; a
direct Hessian one forward pass without gradients; a refined one besides that an energy, its gradient and one backward
pass a product; an autograd Hessian 3N backward passes; a finite-difference one 6N
times the forces. The direct Hessian does not take its features from the pass that gave the forces, since only the
framework's own calculator, left alone, gives its own numbers to the last bit. `HessianModel.energy_forces_hessian`
gives all three from one pass, with energy and forces equal up to rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes, equal
from numpy.typing import NDArray

from hip_ext.errors import ConfigError, StructureError
from hip_ext.model import HessianModel
from hip_ext.reference import autograd_hessian, finite_difference_hessian
from hip_ext.structures import total_charge, unpaired_electrons
from hip_ext.suggest import did_you_mean
from hip_ext.sum_rules import with_rigid_body_rule

if TYPE_CHECKING:
    from collections.abc import Hashable

    from hip_ext.refinement import Refine
    from hip_ext.vibrations import Vibrations

Method = Literal["direct", "autograd", "finite_difference"]

ELECTRONS = ("charge", "total_spin", "multiplicity", "spin")
"""The keys of `Atoms.info` that `Structures.from_ase` reads; ASE does not look at them when it looks for changes."""


class HessianCalculator(Calculator):
    """Energy, forces and stress of the backbone's own calculator, and Hessians of the model.

    Results are kept until positions, elements, cell, periodicity, charge or spin change, or until `reset()`, which is
    needed after the weights of the model have changed. A structure that cannot be used is refused before any number is
    made of it.

    Args:
        model: a backbone with a head.
        rigid_body: make direct Hessians of molecules obey the rotation rule H·(L x) = L·g too, with the backbone's own
            forces (see `hip_ext.sum_rules`); costs the energy and forces of the structure.

    Raises:
        ConfigError: `model` is something else.
    """

    def __init__(self, model: HessianModel, *, rigid_body: bool = False) -> None:
        if not isinstance(model, HessianModel):
            raise ConfigError(
                f"HessianCalculator takes a HessianModel, found {type(model).__name__}: "
                "make one with from_pretrained or attach_head"
            )
        super().__init__()
        self.model = model
        self.rigid_body = rigid_body
        self._own: Calculator | None = None
        self._hessians: dict[Hashable, NDArray[np.float64]] = {}

    @property
    def implemented_properties(self) -> list[str]:  # type: ignore[override]
        """What the backbone's own calculator implements."""
        return list(self._own_calculator().implemented_properties)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] | None = None,
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Fills `results` with what the backbone's own calculator finds; called by ASE.

        Args:
            atoms: the structure; by default the one of the last calculation.
            properties: what is asked for; frameworks may compute more.
            system_changes: ignored: what has changed is looked up.

        Raises:
            StructureError: the structure cannot be used.
            BackboneError: the backbone does not know an element, or not this charge or spin.
        """
        current = self._current(atoms)
        self._check(current)
        self.results = self._own_results(current, list(properties or ("energy", "forces")))

    def get_hessian(
        self, atoms: Atoms | None = None, method: Method = "direct", *, refine: Refine = 0
    ) -> NDArray[np.float64]:
        """Second derivatives of the energy, the full matrix whatever the constraints.

        Args:
            atoms: the structure; by default the one of the last calculation. It is not changed.
            method: "direct" is the head's prediction; "autograd" differentiates the backbone's energy and is exact in
                the backbone's dtype; "finite_difference" takes central differences of its forces (step 0.005 Å), which
                in float32 are good to some 1e-2 eV/Å² only.
            refine: exact Hessian-vector products with which the direct Hessian is corrected, lowest modes first (see
                `hip_ext.refinement`); "lowest" makes as many as the lowest mode needs to be exact to 1e-3. The matrix
                then obeys the rotation rule too. `hip_ext.refinement.refine` also says how far it can be trusted.

        Returns:
            [3N, 3N], eV/Å², symmetric, float64 (rounded to the model's dtype for the first two methods); a copy.

        Raises:
            ConfigError: there is no such method, or it is exact already and cannot be refined; or `refine` is neither a
                number nor "lowest".
            StructureError: the structure cannot be used, or none was given and none is known.
            BackboneError: the backbone does not know an element, or cannot be differentiated twice.
        """
        known = get_args(Method)
        if method not in known:
            hint = did_you_mean(str(method), known)
            raise ConfigError(f"there is no Hessian method {method!r}{hint}; known are {', '.join(known)}")
        current = self._current(atoms)
        if refine != 0:
            return self._refined_hessian(current if atoms is None else atoms, method, refine)
        if method not in self._hessians:
            matrix = self._compute_hessian(current, method)
            # Where a pair of atoms has several images, both halves are sums in different orders.
            self._hessians[method] = (matrix + matrix.T) / 2
        return self._hessians[method].copy()

    def get_vibrations(
        self, atoms: Atoms | None = None, method: Method = "direct", *, refine: Refine = 0
    ) -> Vibrations:
        """Harmonic vibrations; atoms fixed by `FixAtoms` stay where they are.

        Besides the Hessian this takes the forces, for `Vibrations.force_residual`: how far the structure is from a
        stationary point.

        Args:
            atoms: the structure with its masses and constraints; by default the one of the last calculation.
            method: as in `get_hessian`.
            refine: as in `get_hessian`.

        Raises:
            ConfigError, BackboneError: as `get_hessian`.
            StructureError: as `get_hessian`, or there is a constraint other than `FixAtoms`.
        """
        from hip_ext.vibrations import analyse

        hessian = self.get_hessian(atoms, method, refine=refine)
        given = self._current(atoms) if atoms is None else atoms
        return analyse(given, hessian, forces=self.get_forces(given))

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What has changed since the last calculation, charge and spin included."""
        changes = list(super().check_state(atoms, tol))
        if self.atoms is not None:
            changes += [key for key in ELECTRONS if not equal(self.atoms.info.get(key), atoms.info.get(key))]
        return changes

    def reset(self) -> None:
        """Forgets the last structure and all that was computed for it."""
        super().reset()
        self._hessians = {}

    def _current(self, atoms: Atoms | None) -> Atoms:
        """The structure that results are kept for: a copy of the one given, or the last one."""
        if atoms is not None and self.check_state(atoms):
            self.reset()
            self.atoms = atoms.copy()
        if self.atoms is None:
            raise StructureError("no structure is known yet: pass atoms")
        return self.atoms

    def _check(self, atoms: Atoms) -> None:
        """Raises what the adapter raises for its input; the framework's own calculator might not, or not so clearly."""
        self.model.backbone.prepare(self.model.structures(atoms))

    def _compute_hessian(self, atoms: Atoms, method: Method) -> NDArray[np.float64]:
        if method == "finite_difference":
            self._check(atoms)

            def forces(positions: NDArray[np.float64]) -> NDArray[np.float64]:
                moved = atoms.copy()
                moved.positions = positions
                found: NDArray[np.float64] = self._own_results(moved, ["forces"])["forces"]
                return found

            return finite_difference_hessian(forces, atoms).hessian
        if method == "autograd":
            matrix = autograd_hessian(self.model.backbone, self.model.structures(atoms))
        else:
            matrix = self.model.hessian(atoms).dense()
            if self.rigid_body and not atoms.pbc.any():
                pulls = torch.as_tensor(self.get_property("forces", atoms), dtype=torch.float64)
                positions = torch.as_tensor(atoms.positions, dtype=torch.float64)
                matrix = with_rigid_body_rule(matrix.double().cpu(), positions, pulls)
        return matrix.detach().cpu().numpy().astype(np.float64)

    def _refined_hessian(self, atoms: Atoms, method: Method, refine: Refine) -> NDArray[np.float64]:
        from hip_ext.refinement import limits
        from hip_ext.refinement.space import fixed_atoms

        wanted = limits(refine)
        if method != "direct":
            raise ConfigError(f"only a direct Hessian can be refined, {method!r} is exact already: leave out refine")
        # Which modes are lowest depends on masses and fixed atoms too, which are no change of the structure for ASE.
        key = (refine, atoms.get_masses().tobytes(), tuple(fixed_atoms(atoms)))
        if key not in self._hessians:
            self._hessians[key] = self.model.refined_hessian(atoms, **wanted).hessian
        return self._hessians[key].copy()

    def _own_calculator(self) -> Calculator:
        if self._own is None:
            self._own = self.model.backbone.calculator()
        return self._own

    def _own_results(self, atoms: Atoms, properties: list[str]) -> dict[str, Any]:
        """One calculation by the framework's own calculator, without its cache, which may not look at the charge."""
        own = self._own_calculator()
        stated = atoms.copy()
        stated.info |= _electrons(atoms)
        with torch.inference_mode(False), torch.enable_grad():
            own.calculate(stated, properties, all_changes)
        return copy.deepcopy(own.results)


def _electrons(atoms: Atoms) -> dict[str, float]:
    """Charge and spin under every name that a framework reads, so that all methods see the same electrons."""
    multiplicity = unpaired_electrons(atoms) + 1
    return {
        "charge": total_charge(atoms),
        "total_spin": (multiplicity - 1) / 2,
        "multiplicity": multiplicity,
        "spin": multiplicity,
    }
