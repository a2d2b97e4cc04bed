"""What fairchem reads: wrapped atoms in complete cells, charge, multiplicity and task, as in its own calculator."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ase.cell import Cell
from ase.geometry import wrap_positions
from torch import Tensor

from hip_ext.backbones.fairchem_models import import_fairchem
from hip_ext.errors import BackboneError
from hip_ext.structures import Structures

CHARGES, MULTIPLICITIES = range(-100, 101), range(101)
"""What eSCN models have embeddings for."""


def atomic_data(inputs: dict[str, Tensor], task: str) -> Any:
    """An AtomicData of one task that shares the tensors of `FairchemBackbone.prepare`; fairchem finds the edges."""
    positions, batch = inputs["positions"], inputs["batch"]
    systems = len(inputs["natoms"])
    return import_fairchem("fairchem.core.datasets.atomic_data").AtomicData(
        pos=positions,
        cell=inputs["cell"],
        edge_index=batch.new_zeros(2, 0),
        cell_offsets=positions.new_zeros(0, 3),
        nedges=batch.new_zeros(systems),
        fixed=torch.zeros_like(batch),
        tags=torch.zeros_like(batch),
        sid=[""] * systems,
        dataset=[task] * systems,
        **{name: inputs[name] for name in ("pbc", "atomic_numbers", "natoms", "batch", "charge", "spin")},
    )


def with_inverted(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same structures twice: as they are, then at −x; differentiable with respect to the positions."""
    twice = {name: torch.cat((x, x)) for name, x in inputs.items() if name not in ("positions", "cell", "batch")}
    signed = {name: torch.cat((inputs[name], -inputs[name])) for name in ("positions", "cell")}
    batch = inputs["batch"]
    return twice | signed | {"batch": torch.cat((batch, batch + len(inputs["natoms"])))}


def wrapped(structures: Structures) -> tuple[Tensor, Tensor]:
    """Positions inside their cells, and cells with vectors along every direction; Å, float64, on the CPU."""
    positions = structures.positions.detach().double().cpu().numpy()
    cells = [Cell(cell).complete().array for cell in structures.cell.detach().double().cpu().numpy()]
    parts = np.split(positions, structures.ptr[1:-1].tolist())
    pbc = structures.pbc.cpu().numpy()
    inside = [wrap_positions(*part, eps=0) for part in zip(parts, cells, pbc, strict=True)]
    return torch.from_numpy(np.concatenate(inside)), torch.from_numpy(np.stack(cells))


def charge_and_multiplicity(charge: float, unpaired: float, task: str) -> tuple[int, int]:
    """As fairchem takes them: without unpaired electrons the multiplicity is 1 for "omol" and 0 for other tasks.

    Raises:
        BackboneError: the models have no embedding for them.
    """
    multiplicity = int(unpaired) + 1 if unpaired or task == "omol" else 0
    if int(charge) not in CHARGES or multiplicity not in MULTIPLICITIES:
        raise BackboneError(
            f"fairchem knows charges from -100 to 100 and multiplicities up to 100, found charge {int(charge)} and "
            f"multiplicity {multiplicity}"
        )
    return int(charge), multiplicity
