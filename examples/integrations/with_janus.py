"""janus-core takes a calculator with get_hessian as it is: energy, forces and Hessian in one call."""

from ase.build import molecule
from janus_core.calculations.single_point import SinglePoint

from hip_ext import HessianCalculator, from_pretrained

atoms = molecule("CH3OH")
atoms.calc = HessianCalculator(from_pretrained("hip-so3lr-organic"))
results = SinglePoint(struct=atoms, properties=["energy", "hessian"]).run()
print(f"energy: {results['energy']:.3f} eV, Hessian: {results['hessian'].shape}")
