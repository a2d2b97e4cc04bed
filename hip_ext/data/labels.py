"""Labels from the backbone itself: exact rows of its Hessian, many structures at a time.

With g = dE/dx, a row of the Hessian is dg_a/dx. One backward pass over a batch gives one row of every structure in it,
so a few rows of many molecules cost far less than the full Hessians of a few.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from hip_ext.backbones.base import Backbone
from hip_ext.data.geometries import relative_distances
from hip_ext.data.shards import LabelledStructure
from hip_ext.structures import Structures, total_charge

LARGEST_FORCE = 40.0
"""Structures with a larger force component (eV/Å) are left out: no potential means anything there."""


def label(backbone: Backbone, many: Sequence[Atoms], labelled: Sequence[np.ndarray]) -> list[LabelledStructure]:
    """Computes energy, forces and chosen Hessian rows of a batch.

    Args:
        backbone: any conservative backbone.
        many: the structures.
        labelled: for each structure, the atoms whose three rows are wanted.

    Returns:
        The labelled structures, without those whose forces or rows are not finite or beyond `LARGEST_FORCE`.
    """
    structures = Structures.from_ase(many, dtype=backbone.dtype, device=backbone.device)
    inputs = backbone.prepare(structures)
    positions = inputs["positions"].requires_grad_(True)
    energy = backbone.energy(inputs)
    (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=True)
    start = structures.ptr[:-1]
    rows = []
    for step in range(max(len(atoms) for atoms in labelled)):
        chosen = torch.as_tensor([atoms[min(step, len(atoms) - 1)] for atoms in labelled], device=start.device) + start
        rows.append(_atom_rows(gradient, positions, chosen))
    stacked = torch.stack(rows).cpu().numpy()
    bounds = structures.ptr.tolist()
    records = []
    for m, atoms in enumerate(many):
        part = slice(bounds[m], bounds[m + 1])
        record = LabelledStructure(
            numbers=atoms.numbers,
            positions=atoms.positions,
            charge=total_charge(atoms),
            energy=float(energy[m].detach()),
            forces=-gradient[part].detach().cpu().numpy(),
            labelled=np.asarray(labelled[m]),
            rows=stacked[: len(labelled[m]), :, part],
            info={key: atoms.info[key] for key in ("smiles", "distortion") if key in atoms.info},
        )
        if np.isfinite(record.rows).all() and np.abs(record.forces).max() < LARGEST_FORCE:
            records.append(record)
    return records


def _atom_rows(gradient: Tensor, positions: Tensor, chosen: Tensor) -> Tensor:
    """The three rows of one atom per structure, [3, N, 3]."""
    rows = []
    for axis in range(3):
        probe = torch.zeros_like(gradient)
        probe[chosen, axis] = 1.0
        (row,) = torch.autograd.grad(gradient, positions, probe, retain_graph=True)
        rows.append(row)
    return torch.stack(rows)


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
