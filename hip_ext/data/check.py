"""What is in a set of labels, and what is wrong with it: `check(read_each("labels.lmdb")).summary()`.

Three rules hold for every exact Hessian, and what is left of them is the noise of the labels: it equals its transpose,
Σ_j H_ij = 0, and H·(Lx) = L·g for every generator L of rotations (molecules with forces only); see
`hip_ext.sum_rules`. All figures are the worst entry of a record, eV/Å² for the first two and eV/Å for the third.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from hip_ext.data.duplicates import Fingerprints
from hip_ext.data.plausibility import suspicions
from hip_ext.data.record import HessianRecord
from hip_ext.errors import DataError

SAMPLES = 200
"""Blocks of every record, at most, whose size and distance are kept for the figure."""


@dataclass
class Check:
    """What was found, record by record.

    Attributes:
        damaged: index and reason of the records that cannot be used.
        implausible: index and likely units of those whose numbers are probably in others.
        sizes: numbers of atoms.
        elements: atoms of every element, by symbol.
        labels: records with energy, forces, a complete Hessian, some rows, products, or none of the last three.
        methods: records of every level of theory.
        asymmetry, translation, rotation: index and violation of the three rules.
        structures: for duplicates.
        blocks: distances (Å) and norms (eV/Å²) of some pair blocks, two arrays a record.
    """

    count: int = 0
    damaged: dict[int, str] = field(default_factory=dict)
    implausible: dict[int, list[str]] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=list)
    elements: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    methods: Counter[str] = field(default_factory=Counter)
    asymmetry: dict[int, float] = field(default_factory=dict)
    translation: dict[int, float] = field(default_factory=dict)
    rotation: dict[int, float] = field(default_factory=dict)
    structures: Fingerprints = field(default_factory=Fingerprints)
    blocks: list[NDArray[np.float64]] = field(default_factory=list)

    def add(self, found: HessianRecord | DataError) -> None:
        """Takes the next record into account."""
        index, self.count = self.count, self.count + 1
        if isinstance(found, DataError):
            self.damaged[index] = str(found)
            return
        self.sizes.append(len(found.numbers))
        self.elements.update(chemical_symbols[z] for z in found.numbers)
        self.labels.update(_labels(found))
        self.methods[found.method or "not stated"] += 1
        self.structures.add(index, found)
        strange = [str(suspicion) for suspicion in suspicions(found)]
        if strange:
            self.implausible[index] = strange
        if found.rows is not None and len(found.rows):
            self._add_rows(index, found, np.asarray(found.rows, dtype=np.float64))

    def _add_rows(self, index: int, record: HessianRecord, rows: NDArray[np.float64]) -> None:
        self.translation[index] = float(np.abs(rows.sum(axis=2)).max())
        if record.is_complete:
            hessian = record.hessian()
            stated = record.info.get("asymmetry", 0.0)
            self.asymmetry[index] = max(float(np.abs(hessian - hessian.T).max()), float(stated))
            if record.forces is not None and not record.pbc.any():
                self.rotation[index] = _rotation_violation(hessian, record.positions, record.forces)
        if not record.pbc.any():
            vectors = record.positions[None] - record.positions[record.labelled][:, None]
            apart = np.linalg.norm(vectors, axis=-1).ravel()
            norms = np.linalg.norm(rows, axis=(1, 3)).ravel()
            pairs = np.flatnonzero(apart > 0)[:: max(1, len(apart) // SAMPLES)]
            self.blocks.append(np.stack((apart[pairs], norms[pairs])).astype(np.float64))

    def summary(self, other: Check | None = None) -> dict[str, Any]:
        """All figures as plain values; with another set of labels, what the two have in common."""
        duplicates = self.structures.duplicates()
        found: dict[str, Any] = {
            "records": self.count,
            "damaged": self.damaged,
            "implausible": self.implausible,
            "atoms": _spread(self.sizes) | {"total": int(sum(self.sizes))},
            "elements": dict(sorted(self.elements.items(), key=lambda item: chemical_symbols.index(item[0]))),
            "formulas": len(self.structures.formulas()),
            "labels": dict(self.labels),
            "methods": dict(self.methods),
            "violations": {
                "asymmetry": _worst(self.asymmetry),
                "translation": _worst(self.translation),
                "rotation": _worst(self.rotation),
            },
            "duplicates": {"count": len(duplicates), "pairs": duplicates},
        }
        if other is not None:
            same = self.structures.common(other.structures)
            here, there = self.structures.formulas(), other.structures.formulas()
            shared = sorted(here.keys() & there.keys())
            found["leakage"] = {
                "same_structure": len({index for index, _ in same}),
                "pairs": same,
                "same_formula": sum(len(here[name]) for name in shared),
                "formulas": shared,
            }
        return found


def check(records: Iterable[HessianRecord | DataError]) -> Check:
    """Looks at every record once; memory grows by some bytes a pair of atoms."""
    found = Check()
    for record in records:
        found.add(record)
    return found


def _labels(record: HessianRecord) -> list[str]:
    kinds = {
        "energy": record.energy is not None,
        "forces": record.forces is not None,
        "complete Hessian": record.is_complete,
        "some rows": bool(record.labelled is not None and len(record.labelled)) and not record.is_complete,
        "products": record.probes is not None and len(record.probes) > 0,
    }
    kinds["no Hessian"] = not (kinds["complete Hessian"] or kinds["some rows"] or kinds["products"])
    return [name for name, is_there in kinds.items() if is_there]


def _rotation_violation(
    hessian: NDArray[np.float64], positions: NDArray[np.floating[Any]], forces: NDArray[np.floating[Any]]
) -> float:
    centred = np.asarray(positions, dtype=np.float64) - np.mean(positions, axis=0, dtype=np.float64)
    axes = np.eye(3)[:, None]
    turns = np.cross(axes, centred[None]).reshape(3, -1)
    expected = np.cross(axes, -np.asarray(forces, dtype=np.float64)[None]).reshape(3, -1)
    return float(np.abs(turns @ hessian - expected).max())


def _spread(values: Sequence[int]) -> dict[str, Any]:
    if not values:
        return {"least": 0, "median": 0.0, "most": 0}
    return {"least": int(min(values)), "median": float(np.median(values)), "most": int(max(values))}


def _worst(violations: Mapping[int, float]) -> dict[str, Any]:
    """Median, largest, and the index of the largest."""
    if not violations:
        return {"records": 0, "median": None, "largest": None, "index": None}
    index = max(violations, key=violations.__getitem__)
    values = list(violations.values())
    return {"records": len(values), "median": float(np.median(values)), "largest": violations[index], "index": index}
