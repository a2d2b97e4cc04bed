"""Many molecules at once with torch-sim: relaxed as one batch, then the Hessian of each from one pass."""

import torch
import torch_sim
from ase.build import molecule

from hip_ext import from_pretrained
from hip_ext.integrations.torch_sim import TorchSimModel

model = TorchSimModel(from_pretrained("hip-so3lr-organic"))
molecules = [molecule(name) for name in ("CH3OH", "CH3CH2OH", "CH3OCH3")]
state = torch_sim.optimize(system=molecules, model=model, optimizer=torch_sim.Optimizer.fire, max_steps=100)
for atoms, hessian in zip(state.to_atoms(), model.hessians(state), strict=True):
    print(atoms.get_chemical_formula(), "softest, eV/Å²:", torch.linalg.eigvalsh(hessian)[:3].tolist())
