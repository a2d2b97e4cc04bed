"""Bulk, surfaces and molecules of more than 25 elements, strained and rattled, for a head on a materials potential.

    python configs/sevennet/structures.py --out runs/sevennet-data --states 40

Writes train.extxyz and held_out.extxyz. Si, Cu, NaCl, MgO and Al, whose phonons are measured afterwards, are taught;
the crystals of `HELD_OUT` are not.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.build import bulk, fcc111, molecule

CRYSTALS = {
    "fcc": {"Cu": 3.61, "Al": 4.05, "Ag": 4.09, "Au": 4.08, "Ni": 3.52, "Pd": 3.89, "Pt": 3.92},
    "bcc": {"Fe": 2.87, "W": 3.17, "Li": 3.49, "Na": 4.29, "V": 3.03},
    "diamond": {"Si": 5.43, "C": 3.57, "Ge": 5.66},
    "rocksalt": {"NaCl": 5.64, "MgO": 4.21, "LiF": 4.03, "CaO": 4.81, "KCl": 6.29, "TiN": 4.24},
    "zincblende": {"GaAs": 5.65, "SiC": 4.36, "ZnS": 5.41, "InP": 5.87, "BN": 3.62},
}
HELD_OUT = {"Ag", "V", "Ge", "CaO", "ZnS"}
PHONONS = {"Si", "Cu", "NaCl", "MgO", "Al"}
"""Crystals that come in cells of 32 atoms too, in which more images of a neighbour are apart from one another."""
SURFACES = ("Cu", "Al", "Ni", "Pt")
MOLECULES = ("H2O", "NH3", "CH4", "CO2", "SO2", "SiH4", "CH3OH", "C2H4", "HCl", "CH3NO2", "P2", "LiH")
RATTLE, STRAIN = (0.01, 0.15), 0.04
"""Å, smallest and largest; relative, standard deviation of each component."""


def states(perfect: Atoms, count: int, rng: np.random.Generator) -> Iterator[Atoms]:
    """The structure in random states; what is periodic is strained as well."""
    for _ in range(count):
        atoms = perfect.copy()
        atoms.info.clear()  # ASE's notes on a slab, which no file can hold
        if atoms.pbc.any():
            strain = rng.normal(scale=STRAIN / 2, size=(3, 3))
            atoms.set_cell(atoms.cell.array @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
        atoms.positions += rng.normal(scale=rng.uniform(*RATTLE), size=(len(atoms), 3))
        yield atoms


def perfect_structures() -> Iterator[tuple[str, Atoms]]:
    """Cells of 16 atoms, made of cubic ones; some of 32; slabs of three layers; molecules."""
    repeats = {2: (2, 2, 2), 4: (2, 2, 1), 8: (2, 1, 1)}
    for lattice, crystals in CRYSTALS.items():
        for name, constant in crystals.items():
            cell = bulk(name, lattice, constant, cubic=True)
            yield name, cell.repeat(repeats[len(cell)])
            if name in PHONONS:
                yield name, cell.repeat((2, 2, 32 // (4 * len(cell))))
    for name in SURFACES:
        yield name, fcc111(name, (2, 2, 3), vacuum=6.0, periodic=True)
    for name in MOLECULES:
        yield name, molecule(name)


def main() -> None:
    """Draws the structures and writes them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--states", type=int, default=40, help="of each structure")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng, parts = np.random.default_rng(arguments.seed), {"train": [], "held_out": []}
    for name, perfect in perfect_structures():
        part = parts["held_out" if name in HELD_OUT else "train"]
        part += states(perfect, arguments.states if name not in HELD_OUT else max(1, arguments.states // 5), rng)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, frames in parts.items():
        order = rng.permutation(len(frames))
        ase.io.write(arguments.out / f"{name}.extxyz", [frames[index] for index in order], format="extxyz")
        elements = {symbol for frame in frames for symbol in frame.symbols}
        print(f"{name}: {len(frames)} structures of {len(elements)} elements")


if __name__ == "__main__":
    main()
