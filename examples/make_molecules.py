"""Makes the structures in examples/molecules: RDKit geometries (a drawn one for the dimer), relaxed with SO3LR.

    python examples/make_molecules.py [name ...]

Minima are relaxed until no force exceeds 0.005 eV/Å and no mode is imaginary. The transition state, in which two
carbamic acids exchange their protons, is found with exact Hessians: each Newton step goes up along the lowest mode and
down along all others.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.optimize import BFGS

from hip_ext.backbones import Backbone, load_backbone
from hip_ext.data.geometries import embed
from hip_ext.reference import autograd_hessian
from hip_ext.structures import Structures
from hip_ext.vibrations import analyse

FOLDER = Path(__file__).resolve().parent / "molecules"
MINIMA = {
    "water": "O",
    "ethanol": "CCO",
    "caffeine": "Cn1cnc2c1c(=O)n(C)c(=O)n2C",
    "cholesterol": "C[C@H](CCCC(C)C)[C@H]1CC[C@@H]2[C@@]1(CC[C@H]3[C@H]2CC=C4[C@@]3(CC[C@@H](C4)O)C)C",
}
LARGEST_FORCE, LONGEST_STEP, SOFTEST = 0.005, 0.1, 0.02  # eV/Å, Å, eV/Å²


def dimer_half_way() -> Atoms:
    """Two carbamic acids face to face, both protons in the middle between their oxygens."""
    half = [
        ("C", 1.77, 0.0),
        ("N", 3.12, 0.0),
        ("O", 1.2, 1.12),
        ("O", 1.2, -1.12),
        ("H", 3.62, 0.87),
        ("H", 3.62, -0.87),
    ]
    both = [(element, sign * x, sign * y) for sign in (1, -1) for element, x, y in half]
    symbols, x, y = zip(*both, ("H", 0.0, 1.12), ("H", 0.0, -1.12), strict=True)
    atoms = Atoms(symbols, positions=np.stack((x, y, np.zeros(len(x))), axis=1))
    atoms.rattle(0.02, seed=1)  # the amino groups need not stay in the plane
    return atoms


def relax(atoms: Atoms, backbone: Backbone, rounds: int = 8) -> None:
    """Relaxes to a minimum; a saddle, where symmetry or a flat methyl rotor has led to one, is left along its mode."""
    for _ in range(rounds):
        BFGS(atoms, logfile=None).run(fmax=LARGEST_FORCE, steps=2000)
        found = analyse(atoms, exact_hessian(atoms, backbone))
        if found.eigenvalues[0] > 0:
            return
        atoms.positions += 0.5 * found.lowest_mode / np.linalg.norm(found.lowest_mode, axis=1).max()
    raise RuntimeError(f"still a saddle after {rounds} rounds")


def climb_to_saddle(atoms: Atoms, backbone: Backbone, steps: int = 60) -> None:
    """Steps −Σ_k v_k (v_k·g) / |λ_k|, with the sign of the lowest mode's turned, to a transition state."""
    for _ in range(steps):
        gradient = -atoms.get_forces().ravel()
        if np.linalg.norm(gradient.reshape(-1, 3), axis=1).max() < LARGEST_FORCE / 50:
            return
        curvature, modes = np.linalg.eigh(exact_hessian(atoms, backbone))
        size = np.maximum(np.abs(curvature), SOFTEST)
        size[0] *= -1.0
        step = -(modes @ ((modes.T @ gradient) / size)).reshape(-1, 3)
        atoms.positions += step * min(1.0, LONGEST_STEP / np.linalg.norm(step, axis=1).max())
    raise RuntimeError(f"not converged within {steps} steps")


def exact_hessian(atoms: Atoms, backbone: Backbone) -> np.ndarray:
    """The backbone's own Hessian, eV/Å², [3N, 3N]."""
    return autograd_hessian(backbone, Structures.from_ase(atoms)).numpy()


def main() -> None:
    """Makes the structures named on the command line, or all."""
    backbone = load_backbone("so3lr", dtype=torch.float64)
    for name in sys.argv[1:] or [*MINIMA, "carbamic_acid_dimer_ts"]:
        atoms = embed(MINIMA[name], seed=1) if name in MINIMA else dimer_half_way()
        atoms.calc = backbone.calculator()
        if name in MINIMA:
            relax(atoms, backbone)
        else:
            climb_to_saddle(atoms, backbone)
        force = float(np.linalg.norm(atoms.get_forces(), axis=1).max())
        found = analyse(atoms, exact_hessian(atoms, backbone))
        plain = Atoms(atoms.numbers, positions=atoms.positions)
        plain.info["name"] = name
        FOLDER.mkdir(exist_ok=True)
        plain.write(FOLDER / f"{name}.xyz", format="extxyz")
        lowest = ", ".join(f"{x:.1f}" for x in found.frequencies[:3])
        print(f"{name}: {len(atoms)} atoms, largest force {force:.4f} eV/Å, lowest frequencies {lowest} cm⁻¹")


if __name__ == "__main__":
    main()
