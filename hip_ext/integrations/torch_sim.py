"""A model for torch-sim: batches of structures on one device, energies, forces and stresses, and Hessians beside them.

    model = TorchSimModel(from_pretrained("hip-so3lr-organic"))
    state = torch_sim.optimize(system=molecules, model=model, optimizer=torch_sim.Optimizer.fire)
    hessians = model.hessians(state)  # one [3n, 3n] a structure, from one pass

torch-sim needs Python 3.12 or later.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hip_ext.errors import MissingDependencyError
from hip_ext.model import HessianModel
from hip_ext.structures import Structures

try:
    from torch_sim.models.interface import ModelInterface
except ImportError:
    raise MissingDependencyError(
        "torch-sim is not installed: pip install torch-sim-atomistic (Python 3.12 or later)"
    ) from None


class TorchSimModel(ModelInterface):
    """A backbone with a head behind torch-sim's interface; charge and spin are the state's `charge` and `spin`, if any.

    Args:
        model: a backbone with a head.
        compute_stress: give stresses too, which costs more with most backbones; torch-sim may also switch it on.
    """

    def __init__(self, model: HessianModel, *, compute_stress: bool = False) -> None:
        super().__init__()
        self.model = model
        self._device = model.device
        self._dtype = model.dtype
        self._compute_stress = compute_stress
        self._compute_forces = True

    @property
    def compute_stress(self) -> bool:
        """Whether `forward` gives stresses."""
        return self._compute_stress

    @compute_stress.setter
    def compute_stress(self, wanted: bool) -> None:
        self._compute_stress = wanted

    def forward(self, state: Any, **_: Any) -> dict[str, Tensor]:
        """Energies of B structures with N atoms in all.

        Args:
            state: a `torch_sim.SimState`; it is not changed.

        Returns:
            `energy` in eV, [B], `forces` in eV/Å, [N, 3], and `stress` in eV/Å³, [B, 3, 3], if it is wanted.
        """
        found = self.model.backbone.evaluate(self._structures(state), stress=self._compute_stress)
        results = {"energy": found.energy.detach(), "forces": found.forces.detach()}
        if found.stress is not None:
            results["stress"] = found.stress.detach()
        return results

    def hessians(self, state: Any) -> list[Tensor]:
        """The predicted Hessian of every structure of a state, eV/Å², each [3n, 3n], from one pass."""
        return self.model.hessian(self._structures(state)).dense_list()

    def _structures(self, state: Any) -> Structures:
        """A state as this package's batch; torch-sim keeps lattice vectors as columns."""
        count = torch.bincount(state.system_idx, minlength=state.n_systems)
        zero = state.positions.new_zeros(state.n_systems)
        spin = getattr(state, "spin", None)  # 2S + 1, or 0 where nothing is known of it
        batch = Structures(
            numbers=state.atomic_numbers.long(),
            positions=state.positions.detach(),
            cell=state.row_vector_cell.detach() * state.pbc[None, :, None],
            pbc=state.pbc.expand(state.n_systems, 3),
            charge=getattr(state, "charge", zero).to(zero),
            unpaired=zero if spin is None else (spin.to(zero) - 1).clamp(min=0),
            ptr=torch.cat((count.new_zeros(1), count.cumsum(0))),
            batch=state.system_idx,
        )
        return self.model.structures(batch)
