"""A Phonopy object with the force constants of one direct Hessian, and what phonopy makes of it.

The head that ships was taught on molecules, not on crystals: this shows the way, not good phonons.
"""

from hip_ext import from_pretrained
from hip_ext.integrations.phonopy import phonopy_with_hessian
from hip_ext.testing import methanol_crystal

atoms = methanol_crystal()
blocks = from_pretrained("hip-so3lr-organic").hessian(atoms)
phonopy = phonopy_with_hessian(blocks, atoms)
phonopy.run_qpoints([[0, 0, 0], [0.5, 0, 0]])
print(f"{len(phonopy.supercell)} atoms in the supercell; THz:", phonopy.qpoints.frequencies.round(1), sep="\n")
