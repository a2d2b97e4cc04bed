"""From molecules to a store of labels: the half of a distillation that comes before the training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms

from hip_ext.backbones.base import Backbone
from hip_ext.data.geometries import distort, embed, rattle
from hip_ext.data.molecules import formula, split_key
from hip_ext.data.store import HessianStore
from hip_ext.errors import DataError, HipExtError
from hip_ext.labelling.backbone import label
from hip_ext.labelling.relaxation import relax_roughly
from hip_ext.training.config import LabelConfig

COMPLETE = 1 << 16
"""As many rows as a structure has."""


@dataclass(frozen=True)
class Split:
    """Sources of structures to train on and to hold out: SMILES strings or structures."""

    train: list[str | Atoms]
    held_out: list[str | Atoms]


def split_sources(sources: Sequence[str | Atoms], config: LabelConfig) -> Split:
    """Holds out whole ring scaffolds (sum formulas for chains and given structures), then their sum formulas.

    No molecule of the training part shares its scaffold or its sum formula with a held-out one.

    Raises:
        DataError: one of the two parts came out empty.
    """
    groups: dict[str, list[int]] = {}
    for index, source in enumerate(sources):
        groups.setdefault(_group(source), []).append(index)
    names = sorted(groups)
    np.random.default_rng(config.seed).shuffle(names)
    target = min(config.held_out * len(sources), config.held_out_most)
    held_out: list[int] = []
    for name in names:
        # A scaffold as common as benzene would swallow the whole share: leave those to the training part.
        if len(held_out) < target and len(groups[name]) <= max(1, target / 10):
            held_out += groups[name]
    formulas = {_formula(sources[index]) for index in held_out}
    out = set(held_out)
    kept = [index for index in range(len(sources)) if index not in out and _formula(sources[index]) not in formulas]
    if not kept or not held_out:
        raise DataError(f"{len(sources)} structures are too few to hold some out: give at least two molecules")
    np.random.default_rng([config.seed, 1]).shuffle(kept)
    return Split([sources[index] for index in kept], [sources[index] for index in held_out])


def label_sources(
    backbone: Backbone,
    sources: Sequence[str | Atoms],
    path: Path,
    config: LabelConfig,
    rows: int,
    report: Callable[[int], None] = lambda done: None,
) -> HessianStore:
    """Labels all sources into a store, `config.shard` of them at a time, leaving out what is there already.

    Molecules that cannot be embedded, or that the backbone refuses, are left out; given structures are used as they
    are. What is drawn for a part depends on the sum of the seed and the number of the part only.

    Returns:
        The store, open to read.
    """
    with HessianStore(path, "a") as store:
        known = {*store.keys(), *store.failures()}
        for number, start in enumerate(range(0, len(sources), config.shard)):
            part = sources[start : start + config.shard]
            first = f"{number:05d}-00000"
            if first not in known:
                seed = config.seed + number
                rng = np.random.default_rng(seed)
                structures = _structures(backbone, part, config, rng, seed)
                chosen = [rng.permutation(len(a))[: rows if len(a) > 4 else len(a)] for a in structures]
                records = label(backbone, structures, chosen) if structures else []
                keys = [f"{number:05d}-{place:05d}" for place in range(len(records))]
                store.append(records, keys, {} if records else {first: "nothing in this part could be labelled"})
            report(len(part))
    return HessianStore(path)


def _structures(
    backbone: Backbone, part: Sequence[str | Atoms], config: LabelConfig, rng: np.random.Generator, seed: int
) -> list[Atoms]:
    """Molecules in random states, some of them near a minimum of the backbone; given structures as they are."""
    molecules, given = [], []
    for source in part:
        if isinstance(source, Atoms):
            given.append(source)
            continue
        try:
            molecules.append(embed(source, seed=seed))
        except HipExtError:
            continue
    near = rng.random(len(molecules)) < config.relaxed
    structures = [
        molecule if is_near else distort(molecule, rng) for molecule, is_near in zip(molecules, near, strict=True)
    ]
    chosen = np.flatnonzero(near)
    if len(chosen):
        relaxed = relax_roughly(backbone, [molecules[index] for index in chosen], config.relax_steps)
        for index, molecule in zip(chosen, relaxed, strict=True):
            structures[index] = rattle(molecule, rng, float(rng.choice((0.0, 0.005, 0.02))))
            structures[index].info["distortion"] = "relaxed"
    return [atoms for atoms in structures + given if set(atoms.numbers.tolist()) <= backbone.elements]


def _group(source: str | Atoms) -> str:
    return split_key(source) if isinstance(source, str) else _formula(source)


def _formula(source: str | Atoms) -> str:
    return formula(source) if isinstance(source, str) else source.get_chemical_formula()
