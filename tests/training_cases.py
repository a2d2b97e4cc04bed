"""A store of small labelled molecules, a small config, and a run of it, in this process or as a script.

python tests/training_cases.py CONFIG.yaml FOLDER
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from ase.build import molecule
from toy_backbone import ToyBackbone

from hip_ext.data.record import HessianRecord
from hip_ext.data.store import HessianStore
from hip_ext.reference import autograd_hessian
from hip_ext.structures import Structures
from hip_ext.training.run import train
from hip_ext.training.settings import TrainingConfig

MOLECULES = ("H2O", "CH4", "NH3", "CH3OH", "HCN", "C2H4", "H2CO", "C2H2")
HEAD = {"scalars": 16, "channels": 4, "hidden": 16, "pair_channels": 4, "coordinates": 8}


def toy(seed=0):
    return ToyBackbone.load(cutoff=4.0, seed=seed)


def labelled(count, seed=0, teacher=None):
    """Rattled molecules with energy, forces and complete Hessian of a toy potential."""
    teacher = teacher or toy()
    rng = np.random.default_rng(seed)
    records = []
    for number in range(count):
        atoms = molecule(MOLECULES[number % len(MOLECULES)])
        atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
        structures = Structures.from_ase(atoms)
        found = teacher.evaluate(structures)
        record = HessianRecord.from_atoms(atoms)
        record = replace(record, energy=float(found.energy), forces=found.forces.numpy())
        records.append(record.with_hessian(autograd_hessian(teacher, structures).numpy()))
    return records


def partial(record, atoms):
    """The record with the rows of some atoms alone."""
    return replace(record, labelled=np.array(atoms), rows=record.rows[list(atoms)], info={})


def write_store(path, records):
    with HessianStore(path, "a") as store:
        store.append(records)
    return str(path)


def small_config(stores, validation, **sections):
    """A config for toy backbones; each section is merged into the defaults below."""
    values = {
        "backbone": {"name": "toy"},
        "head": HEAD,
        "data": {"train": [stores], "validation": [validation], "batch": 4, "trust_units": True},
        "optimiser": {"warmup": 2, "learning_rate": 0.01},
        "run": {"steps": 12, "evaluate_every": 4, "precision": "float64", "accelerator": "cpu"},
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
    return TrainingConfig.from_dict({key: value for key, value in values.items() if value is not None})


if __name__ == "__main__":
    torch.set_num_threads(1)
    result = train(TrainingConfig.from_yaml(sys.argv[1]), Path(sys.argv[2]), backbone=toy())
    if result.metrics:
        print(json.dumps({"metrics": result.metrics, "curve": result.curve}))
