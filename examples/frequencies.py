"""Vibrations of a transition state, where two carbamic acids exchange their protons, predicted and exact.

The exact Hessian has one imaginary mode. A head that was taught few broken bonds may miss it: compare before you rely
on a prediction at a transition state.
"""

from pathlib import Path

from ase.io import read

from hip_ext import HessianCalculator, from_pretrained

atoms = read(Path(__file__).parent / "molecules" / "carbamic_acid_dimer_ts.xyz")
atoms.calc = HessianCalculator(from_pretrained("hip-so3lr-organic"))
for method in ("direct", "autograd"):
    vibrations = atoms.calc.get_vibrations(atoms, method=method)
    print(f"{method}, cm⁻¹:", " ".join(f"{abs(x):.0f}{'i' if x < 0 else ''}" for x in vibrations.frequencies))
    print(f"zero-point energy {vibrations.zero_point_energy:.3f} eV, imaginary modes {vibrations.num_imaginary}")
