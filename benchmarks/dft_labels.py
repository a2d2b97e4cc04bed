"""How fine PySCF's grid must be for Hessians, against the finest grid and against labels of the HORM data set.

    OMP_NUM_THREADS=1 python benchmarks/dft_labels.py grid --horm sample.lmdb --records 50 25

PySCF leaves out how its grid moves with the atoms, so a coarse grid shows as a violated translational sum rule. For
small molecules the reference is a grid of 150 radial and 974 angular points; for HORM's records, ωB97X/6-31G(d), it is
their own Hessian. What is in the JSON file already is not computed again.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import molecule

from hip_ext.atomic import write_text
from hip_ext.data.formats import read_records
from hip_ext.data.record import HessianRecord
from hip_ext.labelling.pyscf import Level, PySCFLabeller

LEVEL = ("wb97x", "6-31g*")
FINEST = {"grid": (150, 974)}
GRIDS: dict[str, dict[str, Any]] = {
    "level 3": {"grid_level": 3},
    "level 4": {"grid_level": 4},
    "level 5": {"grid_level": 5},
    "(75, 302)": {"grid": (75, 302)},
    "(50, 590)": {"grid": (50, 590)},
    "(99, 590)": {"grid": (99, 590)},
}
OUT = Path(__file__).parent / "results/pyscf_grid.json"


def labelled(atoms: Atoms, options: dict[str, Any]) -> tuple[HessianRecord, float]:
    """The label, and the seconds of processor time that it took."""
    begin = time.process_time()
    record = PySCFLabeller(Level(*LEVEL, **options)).label(atoms)
    return record, time.process_time() - begin


def sum_rule(hessian: np.ndarray) -> float:
    """Largest |Σ_j H_ij|, eV/Å²."""
    return float(np.abs(hessian.reshape(len(hessian), -1, 3).sum(axis=1)).max())


def compared(record: HessianRecord, reference: HessianRecord, seconds: float) -> dict[str, float]:
    """Errors of a label against a reference."""
    found, expected = record.hessian(), reference.hessian()
    return {
        "hessian_mae": float(np.abs(found - expected).mean()),
        "hessian_max": float(np.abs(found - expected).max()),
        "mean_abs": float(np.abs(expected).mean()),
        "force_mae": float(np.abs(record.forces - reference.forces).mean()),
        "sum_rule": sum_rule(found),
        "sum_rule_of_reference": sum_rule(expected),
        "atoms": len(record.numbers),
        "cpu_seconds": round(seconds, 1),
    }


def grid(arguments: argparse.Namespace) -> None:
    """Fills the JSON file, case by case."""
    results = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {"level": "/".join(LEVEL)}
    grids = {name: GRIDS[name] for name in arguments.grids}

    def fill(part: str, name: str, atoms: Atoms, reference: HessianRecord | None) -> None:
        cases = results.setdefault(part, {}).setdefault(name, {})
        for title, options in grids.items():
            if title in cases:
                continue
            if reference is None:
                reference, _ = labelled(atoms, FINEST)
            record, seconds = labelled(atoms, options)
            cases[title] = compared(record, reference, seconds)
            write_text(arguments.out, json.dumps(results, indent=1) + "\n")
            print(part, name, title, cases[title], flush=True)

    for name in arguments.molecules:
        fill("against (150, 974)", name, molecule(name), None)
    if arguments.horm:
        for index in arguments.records:
            record = next(islice(read_records(arguments.horm), index, None))
            fill("against HORM", f"record {index}", record.atoms(), record)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("grid")
    command.add_argument("--horm", type=Path, help="label file of HORM")
    command.add_argument("--records", type=int, nargs="*", default=[])
    command.add_argument("--molecules", nargs="*", default=["H2O", "CH4"])
    command.add_argument("--grids", nargs="*", default=list(GRIDS), choices=list(GRIDS))
    command.add_argument("--out", type=Path, default=OUT)
    command.set_defaults(run=grid)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
