"""Labels for the real runs with fairchem: small molecules by SO3LR and copper by ASE's effective-medium theory.

    python benchmarks/escn_data.py molecules --out runs/escn     # needs so3krates-torch and RDKit; about 15 minutes
    python benchmarks/escn_data.py copper --out runs/escn        # a minute
    python benchmarks/escn_data.py databases --out runs/escn     # needs fairchem

The first two write stores of labels (see `hip_ext.data.store`) and extended XYZ, both resumable; the last one writes
what fairchem reads, `SYSTEM/{train,val,test}/*.aselmdb` with energy, forces and the Hessian of every structure.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from hip_ext.atomic import atomic_path
from hip_ext.backbones import load_backbone
from hip_ext.data.record import HessianRecord
from hip_ext.data.store import HessianStore
from hip_ext.reference import finite_difference_hessian
from hip_ext.training.config import LabelConfig
from hip_ext.training.labelling import COMPLETE, label_sources, split_sources
from hip_ext.training.sources import read_sources

SMILES = Path(__file__).resolve().parents[1] / "configs/so3lr-organic/train.smi"
LARGEST, STATES = 12, 3
"""Atoms of the largest molecule; random states of each."""

LABELS = LabelConfig(relaxed=0.6, held_out=0.1, seed=7)
COPPER = {"train": 400, "val": 40, "test": 60}


def molecules(out: Path) -> None:
    """Molecules of H, C, N and O; those held out share no ring scaffold and no sum formula with the others."""
    from rdkit import Chem

    def is_small(smiles: str) -> bool:
        molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
        return molecule.GetNumAtoms() <= LARGEST and {a.GetSymbol() for a in molecule.GetAtoms()} <= set("HCNO")

    chosen = [s for s in dict.fromkeys(read_sources([f"smiles:{SMILES}"])) if isinstance(s, str) and is_small(s)]
    split = split_sources(chosen, LABELS)
    backbone = load_backbone("so3lr")
    for name, part in (("train", split.train * STATES), ("held_out", split.held_out)):
        store = label_sources(backbone, part, out / f"molecules/labels/{name}.lmdb", LABELS, COMPLETE)
        print(f"{name}: {len(store)} structures of {len(set(map(str, part)))} molecules", flush=True)


def copper(out: Path) -> None:
    """Strained and rattled cells of 4 to 16 copper atoms, some with a vacancy; Hessians from differences of forces."""
    rng = np.random.default_rng(3)
    for name, count in COPPER.items():
        frames = []
        for _ in range(count):
            atoms = bulk("Cu", "fcc", a=3.61, cubic=True).repeat([(1, 1, 1), (2, 1, 1), (2, 2, 1)][rng.integers(3)])
            if len(atoms) > 4 and rng.random() < 0.3:
                del atoms[0]
            atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(scale=0.02, size=(3, 3))), scale_atoms=True)
            atoms.positions += rng.normal(scale=rng.choice((0.01, 0.05, 0.1)), size=atoms.positions.shape)
            atoms.calc = EMT()
            energy, forces, stress = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()

            def moved(positions: np.ndarray, atoms: Atoms = atoms) -> np.ndarray:
                other = atoms.copy()
                other.positions = positions
                other.calc = EMT()
                return other.get_forces()

            hessian = finite_difference_hessian(moved, atoms).hessian
            atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces, stress=stress)
            atoms.info["hessian"] = hessian.ravel().tolist()
            frames.append(atoms)
        path = out / "copper" / f"{name}.extxyz"
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            ase.io.write(temporary, frames, format="extxyz")
        print(f"{name}: {count} cells", flush=True)


def databases(out: Path) -> None:
    """What fairchem reads, from whatever labels are there; databases that are there already are left alone."""
    from hip_ext.plugins.fairchem import write_database

    parts: dict[Path, Iterable[HessianRecord | Atoms]] = {}
    labels = out / "molecules/labels"
    if labels.exists():
        held_out = list(HessianStore(labels / "held_out.lmdb"))
        parts[out / "molecules/train"] = HessianStore(labels / "train.lmdb")
        parts[out / "molecules/val"] = held_out[::3]
        parts[out / "molecules/test"] = [record for number, record in enumerate(held_out) if number % 3]
    for name in COPPER:
        file = out / "copper" / f"{name}.extxyz"
        if file.exists():
            parts[out / "copper" / name] = map(with_matrix, ase.io.iread(file, index=":"))
    for folder, records in parts.items():
        if not folder.exists():
            print(f"{folder}: {write_database(folder, records)} structures", flush=True)


def with_matrix(atoms: Atoms) -> Atoms:
    """A cell from an extended XYZ file, its Hessian as a matrix."""
    atoms.info["hessian"] = np.reshape(atoms.info["hessian"], (3 * len(atoms), 3 * len(atoms)))
    return atoms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["molecules", "copper", "databases"])
    parser.add_argument("--out", type=Path, default=Path("runs/escn"))
    arguments = parser.parse_args()
    {"molecules": molecules, "copper": copper, "databases": databases}[arguments.stage](arguments.out)


if __name__ == "__main__":
    main()
