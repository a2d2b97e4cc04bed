"""Vibrations of a structure by a model, checked against the model's own backbone.

found = verified_vibrations(model, atoms, fallback=True)
found.vibrations.frequencies      # cm⁻¹
[flag.text for flag in found.flags if not flag.ok]
found.method                      # "autograd" where the prediction failed a check and was replaced
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from ase import Atoms
from numpy.typing import ArrayLike, NDArray

from hip_ext.dipoles import dipole_derivatives
from hip_ext.errors import BackboneError
from hip_ext.model import HessianModel
from hip_ext.reference import autograd_hessian, hessian_vector_product
from hip_ext.vibrations.analysis import analyse
from hip_ext.vibrations.consistency import Flag, LowestMode, consistency, lowest_mode_check
from hip_ext.vibrations.modes import Vibrations

Method = Literal["direct", "autograd"]


@dataclass(frozen=True, eq=False)
class Verified:
    """Vibrations and the checks that they were put to.

    Attributes:
        vibrations: of `hessian`.
        hessian: eV/Å², [3N, 3N].
        method: which Hessian it is.
        flags: the checks of this result.
        replaced: the failed checks of the prediction that an exact Hessian has replaced; empty where none was.
    """

    vibrations: Vibrations
    hessian: NDArray[np.float64]
    method: Method
    flags: tuple[Flag, ...]
    replaced: tuple[Flag, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every check was passed."""
        return all(flag.ok for flag in self.flags)


def verified_vibrations(
    model: HessianModel,
    atoms: Atoms,
    *,
    method: Method = "direct",
    fallback: bool = False,
    masses: ArrayLike | None = None,
    indices: Sequence[int] | None = None,
    infrared: bool = False,
    hessian: NDArray[np.float64] | None = None,
    forces: NDArray[np.float64] | None = None,
) -> Verified:
    """Analyses a Hessian and checks it; see `hip_ext.vibrations.consistency` for the checks.

    Beside the Hessian it takes the forces, two backward passes for the check of a prediction's lowest mode, and three
    for infrared intensities.

    Args:
        model: backbone and head.
        atoms: the structure with its masses and constraints.
        method: "direct" or "autograd".
        fallback: make the exact Hessian where the prediction fails a check of the Hessian; large forces are no reason.
        masses: amu, [N], for isotopes.
        indices: the free atoms, as in `analyse`.
        infrared: also intensities; the backbone needs a dipole moment.
        hessian: that of `method`, eV/Å², [3N, 3N], where it is known already.
        forces: of the backbone, eV/Å, [N, 3], where they are known already.

    Raises:
        StructureError, DataError: as `analyse`.
        BackboneError: the backbone does not know an element, has no dipole moment but is asked for intensities, or
            cannot be differentiated twice where an exact Hessian is needed.
    """
    structures = model.structures(atoms)
    if forces is None:
        forces = _array(model.backbone.evaluate(structures).forces)
    slopes = dipole_derivatives(model.backbone, structures) if infrared else None

    def exact() -> NDArray[np.float64]:
        return _array(autograd_hessian(model.backbone, structures))

    def analysed(matrix: NDArray[np.float64]) -> Vibrations:
        return analyse(atoms, matrix, masses=masses, indices=indices, forces=forces, dipole_derivatives=slopes)

    if hessian is None:
        hessian = exact() if method == "autograd" else _array(model.hessian(structures).dense())
    vibrations = analysed(hessian)
    if method == "autograd":
        return Verified(vibrations, hessian, method, consistency(vibrations))
    flags = consistency(vibrations, _lowest(model, atoms, vibrations))
    failed = tuple(flag for flag in flags if flag.concerns == "hessian" and not flag.ok)
    if not (fallback and failed):
        return Verified(vibrations, hessian, method, flags)
    hessian = exact()
    vibrations = analysed(hessian)
    return Verified(vibrations, hessian, "autograd", consistency(vibrations), failed)


def _lowest(model: HessianModel, atoms: Atoms, vibrations: Vibrations) -> LowestMode | str | None:
    if len(vibrations.modes) == 0:
        return None
    direction = torch.as_tensor(vibrations.lowest_mode)
    try:
        product = hessian_vector_product(model.backbone, model.structures(atoms), direction)
    except BackboneError as error:
        return str(error)
    return lowest_mode_check(vibrations, _array(product))


def _array(values: torch.Tensor) -> NDArray[np.float64]:
    return values.detach().cpu().numpy().astype(np.float64)
