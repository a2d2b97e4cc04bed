"""Further random states of the molecules of label stores, for the labels of large.yaml: geometries alone.

    python configs/so3lr-organic/states.py runs/so3lr-organic/labels/train.lmdb \
      runs/so3lr-organic-more/labels/train.lmdb --states 4 --out runs/so3lr-organic-large/states.traj

Each structure of the stores is there as it is, since other rows of its Hessian are drawn, and `--states` times in a
random state of its own (see `hip_ext.data.geometries`; those that need a conformer from RDKit fall to the others).
Positions are rounded to single precision.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io.trajectory import Trajectory

from hip_ext.data.geometries import distort
from hip_ext.data.store import HessianStore


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stores", type=Path, nargs="+")
    parser.add_argument("--states", type=int, default=4, help="random states of each structure")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    found: list[Atoms] = []
    for place, path in enumerate(options.stores):
        store = HessianStore(path)
        for number in range(len(store)):
            atoms = store[number].atoms()
            rng = np.random.default_rng([options.seed, place, number])
            found += [atoms, *(distort(atoms, rng) for _ in range(options.states))]
    with Trajectory(options.out, "w") as file:
        # Shuffled, so that any part of the file is a sample of the whole.
        for number in np.random.default_rng(options.seed).permutation(len(found)):
            atoms = found[number]
            file.write(Atoms(atoms.numbers, atoms.positions.astype(np.float32)))
    print(f"{len(found)} structures in {options.out}")


if __name__ == "__main__":
    main()
