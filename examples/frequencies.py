"""Vibrations of a transition state: one imaginary mode, along which two carbamic acids exchange their protons."""

from pathlib import Path

from ase.io import read

from hip_ext import from_pretrained
from hip_ext.vibrations import analyse

atoms = read(Path(__file__).parent / "molecules" / "carbamic_acid_dimer_ts.xyz")
model = from_pretrained("hip-so3lr-organic")
vibrations = analyse(atoms, model.hessian(atoms).dense().double().numpy())
print("cm⁻¹:", " ".join(f"{abs(x):.0f}{'i' if x < 0 else ''}" for x in vibrations.frequencies))
print(f"zero-point energy {vibrations.zero_point_energy:.3f} eV, imaginary modes {vibrations.num_imaginary}")
