"""The Hessian of ethanol by the head that ships, through the ASE calculator."""

from pathlib import Path

from ase.io import read

from hip_ext import HessianCalculator, from_pretrained

atoms = read(Path(__file__).parent / "molecules" / "ethanol.xyz")
atoms.calc = HessianCalculator(from_pretrained("hip-so3lr-organic"))
hessian = atoms.calc.get_hessian(atoms)
print(f"{atoms.get_chemical_formula()}: {hessian.shape} eV/Å², energy {atoms.get_potential_energy():.3f} eV")
