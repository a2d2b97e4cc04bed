"""A saddle point with Sella, which takes the calculator's get_hessian as it is: the inversion of ammonia."""

import numpy as np
from ase import Atoms
from sella import Sella

from hip_ext import HessianCalculator, from_pretrained

atoms = Atoms("NH3", [[0, 0, 0.1], [1.03, 0, 0], [-0.5, 0.9, 0], [-0.5, -0.9, 0]])
atoms.calc = HessianCalculator(from_pretrained("hip-so3lr-organic"))
search = Sella(atoms, order=1, internal=True, hessian_function=atoms.calc.get_hessian, diag_every_n=1)
converged = search.run(fmax=0.01, steps=50)
exact = np.linalg.eigvalsh(atoms.calc.get_hessian(atoms, method="autograd"))
print(f"converged: {converged}, steps: {search.nsteps}, negative curvatures: {int((exact < -0.1).sum())}")
