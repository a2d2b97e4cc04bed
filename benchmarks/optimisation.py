"""Steps and time of geometry optimisation with Hessians, beside the same without: SO3LR, molecules shaken by 0.05 Å.

    python benchmarks/optimisation.py --folder runs/optimisation

The starts are minima of SO3LR (references/optimisation_minima.extxyz: molecules of at most 21 atoms that the head was
never taught), every coordinate moved by normal noise of 0.05 Å, as HIP's are minima with noise. All optimisers end at
the same largest force, that of Gaussian and of HIP's runs: 4.5e-4 Ha/Bohr. Some take the first 30 starts only. One
thread; what is in the folder is not done again, and the result file has every method that is complete in it.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from functools import partial
from pathlib import Path
from statistics import mean, median

import ase.io
import numpy as np
import torch
from ase.optimize import BFGS, FIRE
from ase.optimize.rfo import RFO
from rich.console import Console
from rich.table import Table

from hip_ext.atomic import write_text
from hip_ext.calculator import HessianCalculator
from hip_ext.model import from_pretrained
from hip_ext.workflows.batch import run_batch
from hip_ext.workflows.journal import read_outcomes
from hip_ext.workflows.newton import Newton
from hip_ext.workflows.one_pass import OnePassCalculator
from hip_ext.workflows.outcome import Outcome, Task
from hip_ext.workflows.relax import positive, restart_bfgs

HERE = Path(__file__).parent
MINIMA = HERE / "references" / "optimisation_minima.extxyz"
RESULT = HERE / "results" / "optimisation.json"
MODEL, NOISE, FMAX, STEPS = "hip-so3lr-organic", 0.05, 0.0231, 150

METHODS = {
    "newton_direct": "Newton, direct Hessian every step",
    "bfgs": "ASE's BFGS",
    "newton_exact": "Newton, exact Hessian every step",
    "newton_direct_start": "Newton, direct Hessian at the start, BFGS updates",
    "bfgs_direct_start": "ASE's BFGS, direct Hessian at the start",
    "fire": "ASE's FIRE",
    "rfo_direct": "ASE's RFO, direct Hessian every step",
    "rfo_exact": "ASE's RFO, exact Hessian every step",
}
FEWER = {"newton_exact": 30, "rfo_exact": 30, "rfo_direct": 30, "fire": 30}
"""Starts of what takes long."""


def make_run():
    torch.set_num_threads(1)
    model = from_pretrained(MODEL)
    optimise(model, "newton_direct", ase.io.read(MINIMA, 0), 2)  # what is slow the first time
    return partial(run, model)


def run(model, task):
    method = task.name.split()[0]
    cpu, wall = time.process_time(), time.perf_counter()
    converged, steps, atoms = optimise(model, method, task.atoms.copy(), STEPS)
    seconds = {"cpu_seconds": time.process_time() - cpu, "seconds": time.perf_counter() - wall}
    force = float(np.linalg.norm(atoms.get_forces(), axis=1).max())
    energy = float(atoms.get_potential_energy())
    values = {"converged": bool(converged), "steps": steps, "largest_force": force, "energy": energy}
    return Outcome(task.name, "done", values=values | seconds)


def optimise(model, method, atoms, steps):
    atoms.calc = OnePassCalculator(model) if method in ("newton_direct", "rfo_direct") else HessianCalculator(model)

    def hessian(current):
        return atoms.calc.get_hessian(current, *(["autograd"] if method.endswith("exact") else []))

    if method.startswith("newton"):
        optimizer = Newton(atoms, hessian, every=STEPS if method.endswith("start") else 1, logfile=None)
    else:
        optimizer = {"rfo": RFO, "bfgs": BFGS, "fire": FIRE}[method.split("_")[0]](atoms, logfile=None)
    if method == "bfgs_direct_start":
        optimizer.H0 = positive(hessian(atoms))
    converged = False
    for converged in optimizer.irun(fmax=FMAX, steps=steps):
        if isinstance(optimizer, RFO) and not converged:
            restart_bfgs(optimizer, hessian(atoms))
    return converged, optimizer.nsteps, atoms


def starts(count):
    found = []
    for number, atoms in enumerate(ase.io.read(MINIMA, f":{count}")):
        shaken = atoms.copy()
        shaken.positions += np.random.default_rng(number).normal(scale=NOISE, size=shaken.positions.shape)
        found.append(shaken)
    return found


def summary(outcomes, count):
    by_method = {}
    for method, title in METHODS.items():
        mine = [outcomes[name] for name in sorted(outcomes) if name.split()[0] == method]
        if len(mine) < min(count, FEWER.get(method, count)):
            continue  # not all there yet
        steps = [found.values["steps"] for found in mine]
        by_method[method] = {
            "what": title,
            "molecules": len(mine),
            "converged": sum(found.values["converged"] for found in mine),
            "steps_mean": round(mean(steps), 2),
            "steps_median": median(steps),
            "steps_max": max(steps),
            "cpu_seconds_total": round(sum(found.values["cpu_seconds"] for found in mine), 2),
            "seconds_total": round(sum(found.values["seconds"] for found in mine), 2),
            "steps": {found.name.split()[1]: found.values["steps"] for found in mine},
        }
    return by_method


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("optimisation"))
    parser.add_argument("--count", type=int, default=None, help="of the starts; fewer are for a look, not for the file")
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS), metavar="METHOD")
    arguments = parser.parse_args()
    given = starts(arguments.count or "")
    tasks = [
        Task(f"{method} {number:03d}", (atoms,))
        for method in arguments.methods
        for number, atoms in enumerate(given[: FEWER.get(method)])
    ]
    settings = {"model": MODEL, "noise": NOISE, "fmax": FMAX, "steps": STEPS}
    console = Console(width=120)
    run_batch(make_run, tasks, arguments.folder, settings, report=lambda now: now.done % 50 or console.print(now))
    outcomes = {found.name: found for found in read_outcomes(arguments.folder)}
    found = summary(outcomes, len(given))
    table = Table(
        "optimiser", "molecules", "converged", "steps: mean", "median", "largest", "CPU s", "CPU s a molecule"
    )
    for row in found.values():
        each = f"{row['cpu_seconds_total'] / row['molecules']:.2f}"
        table.add_row(*(str(row[k]) for k in list(row)[:6]), str(row["cpu_seconds_total"]), each)
    console.print(table)
    if arguments.count is None:
        atoms = [len(one) for one in given]
        about = {"atoms": [min(atoms), median(atoms), max(atoms)], "threads": 1, "load": os.getloadavg()[0]}
        write_text(RESULT, json.dumps({"settings": settings | about, "methods": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
