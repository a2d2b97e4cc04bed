"""ASE's own tools around a Hessian: BFGS that starts from it, and the vibrations of the result."""

from ase.build import molecule
from ase.optimize import BFGS
from ase.vibrations import VibrationsData

from hip_ext import HessianCalculator, from_pretrained
from hip_ext.workflows.relax import positive

atoms = molecule("CH3CH2OH")
atoms.rattle(0.03, seed=0)
atoms.calc = HessianCalculator(from_pretrained("hip-so3lr-organic"))
optimiser = BFGS(atoms, logfile=None)
optimiser.H0 = positive(atoms.calc.get_hessian(atoms))
converged = optimiser.run(fmax=0.02, steps=200)
vibrations = VibrationsData.from_2d(atoms, atoms.calc.get_hessian(atoms))
print(f"converged: {converged}, steps: {optimiser.nsteps}, ZPE: {vibrations.get_zero_point_energy():.2f} eV")
