"""Phonon bands of five crystals from one direct Hessian of the primitive cell, beside phonopy's finite displacements.

    python benchmarks/phonons.py --out benchmarks/results/phonons.json
    python benchmarks/phonons.py --model my-sevennet-head

Needs the extras `sevennet` and `phonons`. Both ways use 7net-0: the displacements its forces, the direct Hessian its
features. The Hessian at Γ is that of the conventional cell (a primitive one of a single atom would have none), against
automatic differentiation of 7net-0. Without --model the head is untrained: its time is that of any head, its errors
mean nothing and are left out. One thread, float32; each time is that of a second run.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE

from hip_ext import HessianModel, attach_head, from_pretrained
from hip_ext.backbones import load_backbone
from hip_ext.displacements import displaced_phonons
from hip_ext.phonons import band_path, phonon_wavenumbers
from hip_ext.reference import autograd_hessian

CRYSTALS = {
    "Si": ("diamond", 5.43),
    "Cu": ("fcc", 3.61),
    "NaCl": ("rocksalt", 5.64),
    "MgO": ("rocksalt", 4.21),
    "Al": ("fcc", 4.05),
}
POINTS = 100


def relaxed(atoms: Atoms, model: HessianModel) -> Atoms:
    """The crystal with the backbone's own lattice constant."""
    atoms.calc = model.backbone.calculator()
    FIRE(FrechetCellFilter(atoms), logfile=None).run(fmax=1e-3, steps=200)
    return atoms


def at_gamma(name: str, lattice_constant: float, model: HessianModel) -> dict:
    """Error of the direct Hessian of the conventional cell, and its size, eV/Å²."""
    cell = bulk(name, CRYSTALS[name][0], lattice_constant, cubic=True)
    structures = model.structures(cell)
    exact = autograd_hessian(model.backbone, structures)
    difference = model.hessian(structures).dense() - exact
    return {"gamma_mae": float(difference.abs().mean()), "gamma_mean_abs": float(exact.abs().mean())}


def measure(name: str, model: HessianModel, width: float, trained: bool) -> dict:
    atoms = relaxed(bulk(name, *CRYSTALS[name]), model)
    path = band_path(atoms, npoints=POINTS)
    displaced, slow = timed(lambda: displaced_phonons(model.backbone.calculator(), atoms, path.kpts, width))
    structures, masses = model.structures(atoms), atoms.get_masses()
    found, fast = timed(lambda: phonon_wavenumbers(model.hessian(structures), masses, path.kpts))
    errors = np.abs(found - displaced.wavenumbers)
    lattice_constant = float(2 ** (1 / 2) * atoms.cell.lengths()[0])
    return {
        "atoms": len(atoms),
        "lattice_constant": lattice_constant,
        "supercell": list(displaced.supercell),
        "displacements": displaced.displacements,
        "highest": float(displaced.wavenumbers.max()),
        "lowest": float(displaced.wavenumbers.min()),
        "displaced_seconds": slow,
        "direct_seconds": fast,
        "band_mae": float(errors.mean()) if trained else None,
        **(at_gamma(name, lattice_constant, model) if trained else {}),
    }


def timed(work):
    work()
    start = time.perf_counter()
    return work(), time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a checkpoint of a head on 7net-0")
    parser.add_argument("--crystals", nargs="+", choices=CRYSTALS, default=list(CRYSTALS))
    parser.add_argument("--width", type=float, default=10.0, help="Å across the supercells")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    trained = arguments.model is not None
    model = from_pretrained(arguments.model) if trained else attach_head(load_backbone("sevennet", "7net-0"))
    found = {}
    print(
        "crystal  a, Å   supercell  displacements  cm⁻¹           phonopy, s  direct, s  ratio  band MAE, cm⁻¹  "
        "Γ MAE, eV/Å²",
        flush=True,
    )
    for name in arguments.crystals:
        one = found[name] = measure(name, model, arguments.width, trained)
        size = "×".join(map(str, one["supercell"]))
        error = f"{one['band_mae']:.2f}  {one['gamma_mae']:.3f} of {one['gamma_mean_abs']:.3f}" if trained else "–"
        slow, fast = one["displaced_seconds"], one["direct_seconds"]
        print(
            f"{name:<7}  {one['lattice_constant']:.3f}  {size:<9}  {one['displacements']:<13}  "
            f"{one['lowest']:6.1f}–{one['highest']:6.1f}  {slow:10.2f}  {fast:9.3f}  {slow / fast:5.0f}  {error}",
            flush=True,
        )
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
