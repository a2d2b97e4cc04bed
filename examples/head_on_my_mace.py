"""A head on a MACE of one's own: attach it, keep it, load it again. The MACE here is small and random."""

import tempfile

# Before e3nn, whose tables torch reads only as mace tells it to.
from mace.modules import MACE, interaction_classes

# isort: split
import numpy as np
import torch
from ase.build import molecule
from e3nn import o3

from hip_ext import attach_head, from_pretrained

my_mace = MACE(
    r_max=4.0,
    num_bessel=6,
    num_polynomial_cutoff=5,
    max_ell=2,
    interaction_cls=interaction_classes["RealAgnosticResidualInteractionBlock"],
    interaction_cls_first=interaction_classes["RealAgnosticInteractionBlock"],
    num_interactions=2,
    num_elements=3,
    hidden_irreps=o3.Irreps("16x0e + 16x1o"),
    MLP_irreps=o3.Irreps("8x0e"),
    atomic_energies=np.zeros(3),
    avg_num_neighbors=6.0,
    atomic_numbers=[1, 6, 8],
    correlation=2,
    gate=torch.nn.functional.silu,
)
atoms = molecule("CH3OH")
model = attach_head("mace", source=my_mace)
with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(f"{folder}/hip-my-mace")
    again = from_pretrained(f"{folder}/hip-my-mace", backbone=model.backbone)
same = torch.equal(model.hessian(atoms).dense(), again.hessian(atoms).dense())
print(f"an untrained head: {tuple(again.hessian(atoms).dense().shape)} eV/Å², the same after loading: {same}")
