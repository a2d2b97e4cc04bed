"""Derivatives of a backbone's dipole moment, for infrared intensities.

derivatives = dipole_derivatives(model.backbone, model.structures(atoms))  # [3, N, 3], e
vibrations = analyse(atoms, hessian, dipole_derivatives=derivatives)
vibrations.intensities  # km/mol
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from hip_ext.backbones.base import Backbone
from hip_ext.errors import BackboneError, StructureError
from hip_ext.structures import Structures


def dipole_derivatives(backbone: Backbone, structures: Structures) -> NDArray[np.float64]:
    """∂μ/∂x of one molecule by three backward passes of the backbone's dipole moment.

    Args:
        backbone: one that has a dipole moment (see `Backbone.dipole`).
        structures: a batch of one.

    Returns:
        e, [3, N, 3]: component of the dipole, atom, direction.

    Raises:
        StructureError: there is not exactly one structure, or it is periodic.
        BackboneError: the backbone has no dipole moment, or one that cannot be differentiated.
    """
    if structures.num_systems != 1:
        raise StructureError(f"one structure expected, found {structures.num_systems}")
    if bool(structures.pbc.any()):
        raise StructureError("the dipole moment of a periodic structure is not defined: no infrared intensities of it")
    with torch.inference_mode(False), torch.enable_grad():
        fields = {name: getattr(structures, name).clone() for name in Structures.__dataclass_fields__}
        inputs = backbone.prepare(Structures(**fields).to(backbone.device))
        positions = inputs["positions"].detach().requires_grad_(True)
        dipole = backbone.dipole({**inputs, "positions": positions})[0]
        if not dipole.requires_grad:
            raise BackboneError(f"the dipole moment of the {backbone.kind} backbone cannot be differentiated")
        rows = [torch.autograd.grad(component, positions, retain_graph=True)[0] for component in dipole]
    return torch.stack(rows).cpu().numpy().astype(np.float64)
