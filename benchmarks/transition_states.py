"""Transition states of ReactBench's reactant/product pairs on SO3LR, by where Sella's Hessian comes from.

    python benchmarks/transition_states.py ts1x/ --work runs/transition_states
    python benchmarks/transition_states.py --work runs/transition_states --out benchmarks/results/transition_states.json

The folder holds the xyz files of the pairs (Transition1x as ReactBench publishes it; not shipped). A fixed random
subset is used. For each reaction all arms start from one guess, the highest frame of an eleven-frame geodesic path, and
search with the same settings. What has converged is looked at with one exact Hessian; a saddle of first order is
followed down both ways, its ends are relaxed and compared with the intended ones by their bonds, atom by atom. What
several arms have found, to 1 meV and 0.02 Å, is judged once. What this judging costs is not counted.

`direct` predicts a Hessian at every step, `direct_start` at the start alone, `direct_product` at the start alone and
makes it right along the path by two gradients; `exact` differentiates at every step, `exact_start` at the start alone;
`sella` diagonalises iteratively by differences of gradients; `none` starts with Sella's guess in internal coordinates
and never looks. A reaction that `exact` fails on is a failure of the backbone (or of the guess); one that another arm
fails on and `exact` does not is a failure of that arm.

What an arm finds does not depend on the other arms, so the journals of several runs may be put together: the arm
`exact` in results/transition_states_large.json is that of results/transition_states.json.

May be stopped and started again: a line of JSON a reaction and arm in the work folder. Times are CPU seconds of one
thread, since the machine has other work too.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
import warnings
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import read, write

from hip_ext import HessianCalculator, HessianModel, from_pretrained
from hip_ext.atomic import write_text
from hip_ext.errors import HipExtError, reason_of
from hip_ext.workflows.reactions.connectivity import aligned_rmsd, named_molecules, same_bonds
from hip_ext.workflows.reactions.ends import match, match_up_to_order, try_relax
from hip_ext.workflows.reactions.guesses import Guess, geodesic_path, highest
from hip_ext.workflows.reactions.irc import PathSettings, descend
from hip_ext.workflows.reactions.saddle import Saddle, Search, SearchSettings, search, verify
from hip_ext.workflows.reactions.surface import Surface

FMAX, STEPS = 0.02, 80
END_FMAX, END_STEPS = 0.05, 150
ARMS = {
    "direct": SearchSettings("direct", refresh=1, fmax=FMAX, steps=STEPS),
    "direct_start": SearchSettings("direct", refresh=0, fmax=FMAX, steps=STEPS),
    "direct_product": SearchSettings("direct", refresh=0, fmax=FMAX, steps=STEPS),
    "exact": SearchSettings("autograd", refresh=1, fmax=FMAX, steps=STEPS),
    "exact_start": SearchSettings("autograd", refresh=0, fmax=FMAX, steps=STEPS),
    "sella": SearchSettings("sella", fmax=FMAX, steps=STEPS),
    "none": SearchSettings("guess", fmax=FMAX, steps=STEPS),
}


class Judge:
    """Verifies saddles and follows their paths; what several arms have found is looked at once."""

    def __init__(self, surface: Surface, wanted: tuple[Atoms, Atoms]) -> None:
        self.surface, self.wanted = surface, wanted
        self.known: list[tuple[Search, float, dict]] = []

    def __call__(self, found: Search) -> dict:
        if not found.converged:
            return {"problem": found.failure or "no saddle found"}
        energy = float(self.surface.on(found.atoms).get_potential_energy())
        for other, other_energy, verdict in self.known:
            if abs(energy - other_energy) < 1e-3 and aligned_rmsd(other.atoms, found.atoms) < 0.02:
                return verdict | {"energy": energy, "shared": True}
        saddle = verify(found, self.surface)
        verdict = {
            "problem": saddle.problem,
            "negative_modes": saddle.vibrations.num_imaginary,
            "lowest": saddle.vibrations.frequencies[:3].tolist(),
            "energy": saddle.energy,
            "largest_force": saddle.largest_force,
            "shared": False,
        }
        if not saddle.problem:
            verdict |= self._follow(saddle)
        self.known.append((found, energy, verdict))
        return verdict

    def _follow(self, saddle: Saddle) -> dict:
        ends, paths = [], []
        for sign in (1, -1):
            try:
                branch = descend(saddle.atoms, saddle.hessian, sign, self.surface, PathSettings())
            except HipExtError as error:
                return {"path": reason_of(error)}
            end = try_relax(branch.frames[-1], self.surface, END_FMAX, END_STEPS)
            if isinstance(end, str):
                return {"path": end}
            ends.append(end)
            paths.append(branch)
        found = (ends[0].atoms, ends[1].atoms)
        kind, _ = match(found, self.wanted)
        return {
            "path": next((end.problem for end in ends if end.problem), ""),
            "path_reached": [branch.reached for branch in paths],
            "path_frames": [len(branch.frames) for branch in paths],
            "ends": [named_molecules(atoms) for atoms in found],
            "match": kind,
            "match_up_to_order": match_up_to_order(found, self.wanted),
            "barriers": [saddle.energy - end.energy for end in ends],
        }


def one_arm(guess: Guess, name: str, model: HessianModel, judge: Judge) -> tuple[dict, Atoms]:
    surface = Surface(HessianCalculator(model, rigid_body=True))
    tangent = guess.tangent if name == "direct_product" else None
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        found = search(guess.atoms, surface, ARMS[name], tangent=tangent)
    except HipExtError as error:
        return {"arm": name, "problem": reason_of(error), "cpu": time.process_time() - cpu}, guess.atoms
    record = {
        "arm": name,
        "cpu": time.process_time() - cpu,
        "wall": time.perf_counter() - wall,
        "converged": found.converged,
        "steps": found.steps,
        "gradients": surface.cost.gradients,
        "direct_hessians": surface.cost.direct,
        "exact_hessians": surface.cost.exact,
    }
    return record | judge(found), found.atoms


def one_reaction(path: Path, arms: list[str], model: HessianModel) -> tuple[list[dict], list[Atoms]]:
    reactant, product = read(path, ":")
    surface = Surface(HessianCalculator(model))
    cpu = time.process_time()
    frames = geodesic_path(reactant, product)
    interpolation, cpu = time.process_time() - cpu, time.process_time()
    guess = highest(frames, surface)
    common = {
        "reaction": path.stem,
        "atoms": len(reactant),
        "formula": reactant.get_chemical_formula(),
        "interpolation_cpu": interpolation,
        "energies_cpu": time.process_time() - cpu,
        "guess_energy": float(guess.energies[guess.highest]),
        "path_energies": guess.energies.tolist(),
    }
    stable = []
    for end in (reactant, product):
        relaxed = try_relax(end, surface, END_FMAX, END_STEPS)
        stable.append(not isinstance(relaxed, str) and same_bonds(relaxed.atoms, end))
    common["ends_stable"] = stable
    judge = Judge(Surface(HessianCalculator(model)), (reactant, product))
    records, found = [], []
    for name in arms:
        record, atoms = one_arm(guess, name, model, judge)
        atoms = atoms.copy()
        atoms.info |= {"reaction": path.stem, "arm": name}
        records.append(common | record)
        found.append(atoms)
    return records, found


def measure(folder: Path, work: Path, count: int, exact: int, name: str, chosen: list[str]) -> None:
    work.mkdir(parents=True, exist_ok=True)
    journal = work / "reactions.jsonl"
    done = {json.loads(line)["reaction"] for line in journal.read_text().splitlines()} if journal.exists() else set()
    files = sorted(folder.glob("*.xyz"))
    random.Random(6).shuffle(files)
    model = from_pretrained(name)
    for index, path in enumerate(files[:count]):
        if path.stem in done:
            continue
        also = index % 2 == 0 and index < 2 * exact
        arms = [arm for arm in chosen if also or not arm.startswith("exact")]
        # In turns, because whoever is first also pays for what jax compiles for this number of atoms.
        arms = arms[index % len(arms) :] + arms[: index % len(arms)]
        try:
            records, found = one_reaction(path, arms, model)
        except HipExtError as error:
            records, found = [{"reaction": path.stem, "problem": reason_of(error)}], []
        with journal.open("a") as file:
            file.write("".join(json.dumps(record) + "\n" for record in records))
            file.flush()
            os.fsync(file.fileno())
        if found:
            write(work / "found.extxyz", found, append=True)
        short = {r["arm"]: (r["steps"], r.get("match", r["problem"][:12])) for r in records if "steps" in r}
        print(index, path.stem, short, flush=True)


def good(record: dict) -> bool:
    return record.get("problem", "?") == "" and record.get("match") == "both"


def summary(records: list[dict], arms: list[str], names: list[str]) -> dict:
    rows = {}
    by = {(r["reaction"], r.get("arm")): r for r in records}
    for arm in arms:
        mine = [by[name, arm] for name in names if (name, arm) in by]
        searched = [r for r in mine if "steps" in r]
        if not searched:
            continue
        rows[arm] = {
            "reactions": len(mine),
            "converged": sum(r.get("converged", False) for r in mine),
            "saddles": sum(r.get("problem", "?") == "" for r in mine),
            "intended": sum(good(r) for r in mine),
            "intended_up_to_order": sum(r.get("problem", "?") == "" and bool(r.get("match_up_to_order")) for r in mine),
            "one_intended_end": sum(r.get("problem", "?") == "" and r.get("match") == "one" for r in mine),
            "steps": float(np.mean([r["steps"] for r in searched])),
            "gradients": float(np.mean([r["gradients"] for r in searched])),
            "direct_hessians": float(np.mean([r["direct_hessians"] for r in searched])),
            "exact_hessians": float(np.mean([r["exact_hessians"] for r in searched])),
            "cpu": float(np.mean([r["cpu"] for r in searched])),
        }
    return rows


def compare(records: list[dict], names: list[str]) -> dict:
    """Whose failure it is, over the reactions on which exact Hessians were tried as well."""
    by = {(r["reaction"], r.get("arm")): r for r in records}
    found = {}
    for arm in {record.get("arm"): None for record in records if "arm" in record}:
        pairs = [(by[n, arm], by[n, "exact"]) for n in names if (n, arm) in by and (n, "exact") in by]
        found[arm] = {
            "both_found": sum(good(a) and good(b) for a, b in pairs),
            "only_exact": sum(good(b) and not good(a) for a, b in pairs),
            "only_this": sum(good(a) and not good(b) for a, b in pairs),
            "neither": sum(not good(a) and not good(b) for a, b in pairs),
        }
    return found


def report(work: Path, out: Path | None, name: str, chosen: list[str]) -> None:
    records = [json.loads(line) for line in (work / "reactions.jsonl").read_text().splitlines()]
    every = list(dict.fromkeys(r["reaction"] for r in records))
    exact = [n for n in every if any(r["reaction"] == n and r.get("arm") == "exact" for r in records)]
    cheap = [arm for arm in chosen if not arm.startswith("exact")]
    stable = {r["reaction"]: all(r["ends_stable"]) for r in records if "ends_stable" in r}
    result = {
        "model": name,
        "fmax": FMAX,
        "steps": STEPS,
        "all": {"reactions": len(every), "ends_stable": sum(stable.values()), "arms": summary(records, cheap, every)},
        "with_exact": {
            "reactions": len(exact),
            "arms": summary(records, chosen, exact),
            "beside_exact": compare(records, exact),
        },
    }
    for part in ("all", "with_exact"):
        print(f"\n{result[part]['reactions']} reactions")
        print("| Hessian | saddles | intended | same graphs | steps | gradients | Hessians | CPU s |")
        print("|---|---|---|---|---|---|---|---|")
        for arm, row in result[part]["arms"].items():
            print(
                f"| {arm} | {row['saddles']} | {row['intended']} | {row['intended_up_to_order']} | {row['steps']:.1f} "
                f"| {row['gradients']:.1f} | {row['direct_hessians'] + row['exact_hessians']:.1f} | {row['cpu']:.2f} |"
            )
    print(json.dumps(result["with_exact"]["beside_exact"], indent=1))
    if out is not None:
        lines = ",\n".join(json.dumps(record) for record in records)
        write_text(out, json.dumps(result, indent=1)[:-2] + f',\n "records": [\n{lines}\n]}}\n')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", help="of the pairs; without it only the table is made")
    parser.add_argument("--work", type=Path, default=Path("runs/transition_states"))
    parser.add_argument("--count", type=int, default=120, help="reactions")
    parser.add_argument("--exact", type=int, default=60, help="so many, every second, also with exact Hessians")
    parser.add_argument("--model", default="hip-so3lr-organic", help="checkpoint on SO3LR")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.folder is not None:
        measure(options.folder, options.work, options.count, options.exact, options.model, options.arms)
    report(options.work, options.out, options.model, options.arms)


if __name__ == "__main__":
    main()
