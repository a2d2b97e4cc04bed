"""A minimum and a saddle point with geomeTRIC, which uses the calculator's Hessian at every step."""

from ase import Atoms
from ase.build import molecule

from hip_ext import HessianCalculator, from_pretrained
from hip_ext.integrations.geometric import optimise

calculator = HessianCalculator(from_pretrained("hip-so3lr-organic"))
minimum = optimise(molecule("NH3"), calculator, hessian="first")
guess = Atoms("NH3", [[0, 0, 0.1], [1.03, 0, 0], [-0.5, 0.9, 0], [-0.5, -0.9, 0]])
saddle = optimise(guess, calculator, transition=True, hessian="each")
barrier = saddle.info["energy"] - minimum.info["energy"]
print(f"minimum in {minimum.info['steps']} steps, saddle in {saddle.info['steps']}, barrier: {barrier:.2f} eV")
