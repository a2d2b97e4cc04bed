"""What fairchem reads, as in its own calculator, and what it answers.

It reads wrapped atoms in complete cells, charge, multiplicity and task.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from ase.cell import Cell
from ase.geometry import wrap_positions
from torch import Tensor

from hip_ext.backbones.borrowed import reason_of
from hip_ext.backbones.fairchem_models import import_fairchem
from hip_ext.errors import BackboneError, HipExtError, StructureError
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


def inverted(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same structures at −x."""
    return inputs | {name: -inputs[name] for name in ("positions", "cell")}


def with_inverted(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same structures twice: as they are, then at −x; differentiable with respect to the positions."""
    other = inverted(inputs)
    other["batch"] = inputs["batch"] + len(inputs["natoms"])
    return {name: torch.cat((inputs[name], other[name])) for name in inputs}


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


def check_not_empty(systems: int, atoms: int) -> None:
    """Raises StructureError for a batch of nothing, on which fairchem would stop somewhere inside torch."""
    if not systems or not atoms:
        raise StructureError(f"a batch of {systems} structures with {atoms} atoms: give at least one structure")


def predicted(unit: Any, data: Any, *args: Any, **options: Any) -> dict[str, Tensor]:
    """`unit.predict`, also of a lone atom on a unit that has a Hessian beside its energy.

    Raises:
        BackboneError: fairchem refuses the structures.
    """
    with refusals(unit):
        try:
            return dict(unit.predict(data, *args, **options))
        except KeyError:
            found = _looked_up(unit, data)
            if found is None:
                raise
            return found


@contextmanager
def refusals(unit: Any) -> Iterator[None]:
    """Turns what fairchem raises for a structure, or for its own settings, into a BackboneError."""
    try:
        yield
    except HipExtError:
        raise
    except ValueError as error:
        raise BackboneError(f"fairchem cannot evaluate this: {reason_of(error)}") from error
    except KeyError as error:
        raise BackboneError(f"fairchem cannot evaluate this: it gives no {error} for it") from error
    except RuntimeError as error:
        if not unit.inference_settings.merge_mole or "does not require grad" not in str(error):
            raise
        raise BackboneError(
            "fairchem takes forces of merged experts only together with stress: load the model with "
            "inference_settings='batch' or with overrides={'backbone': {'regress_stress': True}}"
        ) from error


def _looked_up(unit: Any, data: Any) -> dict[str, Tensor] | None:
    """What fairchem has in its table for a lone atom, and zero for its Hessians; None for everything else.

    fairchem's own `predict` stops with a KeyError there, since it asks its table for every task of the unit.
    """
    table = import_fairchem("fairchem.core.units.mlip_unit.single_atom_patch")
    if unit.model.module.supports_single_atoms:
        return None
    found = table.single_atom_prediction_from_lookup(data, unit.atom_refs, unit.tasks, unit.device)
    if found is None:
        return None
    tasks = unit.dataset_to_tasks[data.dataset[0]]
    zero = torch.zeros(1, 3, 3, device=unit.device)
    return {t.property: zero if t.property.endswith("hessian") else found[t.name] for t in tasks}
