"""How well a distilled head knows molecules that it was not taught, against its backbone's exact Hessian.

    python benchmarks/accuracy.py --model hip-so3lr-organic
    cd runs && python ../benchmarks/accuracy.py --model mace-spice/checkpoint --limit 32 \
      --backbone mace --source MACE_SPICE.model --work ../benchmarks/references/mace-spice \
      --out ../benchmarks/results/accuracy_mace_spice.json
    python benchmarks/accuracy.py --model checkpoints/hip-7net-0 --records benchmarks/references/sevennet.lmdb \
      --group "unseen cells of 16 atoms" --out benchmarks/results/accuracy_7net.json

Three sets: held-out molecules in random states (rattled, stretched, twisted, half-way between two structures), the
same molecules at minima of the backbone, and larger molecules, rattled by 0.03 Å. The exact Hessians are kept in
`--work`, so another head is compared in seconds. With `--store` the figures go into the checkpoint.
Of a store of complete Hessians, such as the held-out labels of a distillation, one set is made by `--records`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.optimize import BFGS

from hip_ext import HessianCalculator, HessianModel, from_pretrained
from hip_ext.atomic import write_text
from hip_ext.backbones import load_backbone
from hip_ext.data.geometries import distort, embed, rattle
from hip_ext.data.record import HessianRecord
from hip_ext.data.store import HessianStore
from hip_ext.errors import HipExtError
from hip_ext.evaluation.metrics import compare, summarise
from hip_ext.reference import autograd_hessian
from hip_ext.shipped import checkpoints_folder
from hip_ext.structures import Structures
from hip_ext.training.sources import read_sources

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "configs/so3lr-organic"


def random_state(smiles: str, model: HessianModel, seed: int) -> Atoms:
    """A molecule as in training: in a state drawn from all distortions."""
    return distort(embed(smiles, seed=seed), np.random.default_rng(seed))


def rattled(smiles: str, model: HessianModel, seed: int) -> Atoms:
    """A molecule near the force field's minimum."""
    return rattle(embed(smiles, seed=seed), np.random.default_rng(seed), 0.03)


def minimum(smiles: str, model: HessianModel, seed: int) -> Atoms:
    """A molecule at a minimum of the backbone, forces below 1 meV/Å."""
    atoms = embed(smiles, seed=seed)
    atoms.calc = HessianCalculator(model)
    BFGS(atoms, logfile=None).run(fmax=1e-3, steps=400)
    atoms.calc = None
    return atoms


SETS = {
    "random states": (random_state, "held_out.smi", 96),
    "minima": (minimum, "held_out.smi", 64),
    "large": (rattled, "large.smi", 100),
}
"""Name: (how structures are made, their molecules, how many of them)."""


def reference(model: HessianModel, name: str, work: Path, limit: int | None) -> list[HessianRecord]:
    """The structures of a set with their exact Hessians, computed once and kept."""
    make, file, count = SETS[name]
    with HessianStore(work / f"{name.replace(' ', '_')}.lmdb", "a") as store:
        failed = store.failures()
        for number, smiles in enumerate(read_sources([f"smiles:{RECIPE / file}"])[:count][:limit]):
            key = f"{number:05d}"
            if key in store or key in failed:
                continue
            try:
                atoms = make(smiles, model, number)
            except HipExtError as error:
                store.append([], failures={key: str(error)})
                continue
            structures = Structures.from_ase(atoms, dtype=model.dtype)
            found = model.backbone.evaluate(structures)
            record = HessianRecord(
                atoms.numbers,
                atoms.positions,
                energy=float(found.energy),
                forces=found.forces.numpy(),
                method=model.backbone.source.name,
                info={"smiles": smiles},
            )
            exact = autograd_hessian(model.backbone, structures).double().numpy()
            store.append([record.with_hessian(exact)], [key])
            print(f"{name}: {smiles} ({len(atoms)} atoms)", flush=True)
        return list(store)


def measure(model: HessianModel, records: list[HessianRecord]) -> dict[str, float]:
    """Summary of the direct Hessian's errors over a set."""
    found = []
    for record in records:
        predicted = model.hessian(record.atoms()).dense().double().numpy()
        found.append(compare(record.atoms(), (predicted + predicted.T) / 2, record.hessian()))
    return summarise(found)


def molecule_groups(sets: dict[str, list[HessianRecord]]) -> dict[str, list[HessianRecord]]:
    """The sets by size, as they are reported."""
    return {
        "random states, up to 21 atoms": [r for r in sets["random states"] if len(r.numbers) <= 21],
        "random states, 22 to 30 atoms": [r for r in sets["random states"] if len(r.numbers) > 21],
        "minima": sets["minima"],
        "large, rattled": [r for r in sets["large"] if len(r.numbers) >= 30],
    }


def checkpoint_folder(name: str) -> Path:
    """Where `from_pretrained` finds a checkpoint: a folder of that name, else the one that ships."""
    return Path(name) if Path(name).is_dir() else checkpoints_folder() / name


def main() -> None:
    """Measures every set and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="hip-so3lr-organic")
    parser.add_argument("--backbone", help="registry name, for a checkpoint whose backbone is a file")
    parser.add_argument("--source", help="that file")
    parser.add_argument("--limit", type=int, help="at most so many molecules of a set")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "benchmarks/references", help="where exact Hessians are kept"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/accuracy_so3lr.json")
    parser.add_argument("--store", action="store_true", help="write the figures into the checkpoint")
    parser.add_argument("--records", type=Path, help="a store of complete Hessians in place of the three sets")
    parser.add_argument("--group", default="held out", help="what its structures are called")
    parser.add_argument("--references-only", action="store_true", help="compute the exact Hessians and stop")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    backbone = load_backbone(arguments.backbone, arguments.source) if arguments.backbone else None
    model = from_pretrained(arguments.model, backbone=backbone)
    folder = checkpoint_folder(arguments.model)
    if arguments.records:
        groups = {arguments.group: list(HessianStore(arguments.records))}
    else:
        groups = molecule_groups({name: reference(model, name, arguments.work, arguments.limit) for name in SETS})
    if arguments.references_only:
        return
    results = {name: measure(model, records) for name, records in groups.items() if records}
    write_text(arguments.out, json.dumps(results, indent=2) + "\n")
    for name, values in results.items():
        print(name, json.dumps({key: round(value, 4) for key, value in values.items()}))
    if arguments.store:
        model.metrics = results
        model.save_pretrained(folder)


if __name__ == "__main__":
    main()
