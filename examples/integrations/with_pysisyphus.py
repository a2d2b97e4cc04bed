"""A saddle point with pysisyphus, with a Hessian at every step: the inversion of ammonia."""

import numpy as np
from ase import Atoms
from pysisyphus.constants import ANG2BOHR
from pysisyphus.Geometry import Geometry
from pysisyphus.tsoptimizers.RSPRFOptimizer import RSPRFOptimizer

from hip_ext import HessianCalculator, from_pretrained
from hip_ext.integrations.pysisyphus import PysisyphusCalculator

atoms = Atoms("NH3", [[0, 0, 0.1], [1.03, 0, 0], [-0.5, 0.9, 0], [-0.5, -0.9, 0]])
calculator = HessianCalculator(from_pretrained("hip-so3lr-organic"))
geometry = Geometry(list(atoms.symbols), atoms.positions.ravel() * ANG2BOHR, coord_type="cart")
geometry.set_calculator(PysisyphusCalculator(calculator))
search = RSPRFOptimizer(geometry, hessian_init="calc", hessian_recalc=1, thresh="gau")
search.run()
atoms.positions = geometry.coords3d / ANG2BOHR
exact = np.linalg.eigvalsh(calculator.get_hessian(atoms, method="autograd"))
print(f"converged: {search.is_converged}, cycles: {search.cur_cycle}, negative: {int((exact < -0.1).sum())}")
