"""Towards the minima of a backbone, for many structures at once: where labels are needed most."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from hip_ext.backbones.base import Backbone
from hip_ext.data.geometries import relative_distances
from hip_ext.structures import Structures


def relax_roughly(backbone: Backbone, many: Sequence[Atoms], steps: int = 20, longest_step: float = 0.1) -> list[Atoms]:
    """A few steps of FIRE towards the backbone's own minima, for a whole batch at once.

    The result is near a minimum, not at one: forces shrink by an order of magnitude or so. Positions follow
    FIRE 2.0 (doi:10.1016/j.commatsci.2020.109584) with unit masses, every structure with its own time step.
    """
    structures = Structures.from_ase(many, dtype=backbone.dtype, device=backbone.device)
    batch, systems = structures.batch, structures.num_systems
    positions = structures.positions
    velocity = torch.zeros_like(positions)
    time_step = torch.full((systems,), 0.04, dtype=positions.dtype, device=positions.device)
    mixing = torch.full_like(time_step, 0.1)

    def per_system(x: Tensor) -> Tensor:
        return torch.zeros_like(time_step).index_add(0, batch, x.sum(-1))

    for _ in range(steps):
        forces = backbone.evaluate(structures.with_positions(positions)).forces
        uphill = per_system(forces * velocity) <= 0
        velocity = velocity * ~uphill[batch][:, None]
        time_step = torch.where(uphill, time_step * 0.5, (time_step * 1.1).clamp(max=0.12))
        mixing = torch.where(uphill, torch.full_like(mixing, 0.1), mixing * 0.99)
        velocity = velocity + time_step[batch][:, None] * forces
        ratio = torch.sqrt(per_system(velocity**2) / per_system(forces**2).clamp(min=1e-12))
        blend = mixing[batch][:, None]
        velocity = (1 - blend) * velocity + blend * ratio[batch][:, None] * forces
        step = time_step[batch][:, None] * velocity
        length = torch.linalg.vector_norm(step, dim=-1, keepdim=True)
        positions = positions + step * (longest_step / length.clamp(min=longest_step))
    relaxed = []
    bounds = structures.ptr.tolist()
    for m, atoms in enumerate(many):
        moved = atoms.copy()
        moved.info = {**atoms.info, "distortion": "relaxed"}
        moved.positions = positions[bounds[m] : bounds[m + 1]].double().cpu().numpy()
        relaxed.append(moved if _still_bonded(moved) else atoms)
    return relaxed


def _still_bonded(atoms: Atoms) -> bool:
    """Whether no atom has run away: each has a neighbour within 1.6 times the sum of covalent radii."""
    ratio = relative_distances(atoms)
    np.fill_diagonal(ratio, np.inf)
    return bool((ratio.min(axis=1) < 1.6).all())
