"""Structures with exact rows of their Hessians, in shards of safetensors files.

A shard is written atomically and never changed, so a labelling run that was stopped goes on with the first shard that
is missing. Nothing in it is pickled: arrays are safetensors, what is text is JSON in the file's metadata.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from hip_ext.atomic import atomic_path
from hip_ext.errors import DataError

FORMAT = "hip-ext labels 1"


@dataclass(frozen=True)
class LabelledStructure:
    """One structure with some or all rows of its Hessian.

    Attributes:
        numbers: atomic numbers, [N].
        positions: Å, [N, 3].
        charge: total charge in e.
        energy: eV.
        forces: eV/Å, [N, 3].
        labelled: the k atoms whose rows are known, [k].
        rows: eV/Å², [k, 3, N, 3]; `rows[m, x, j, y]` is the second derivative along x of atom `labelled[m]` and y of j.
        info: where the structure came from: SMILES, distortion.
    """

    numbers: np.ndarray
    positions: np.ndarray
    charge: float
    energy: float
    forces: np.ndarray
    labelled: np.ndarray
    rows: np.ndarray
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether every row is known."""
        return len(np.unique(self.labelled)) == len(self.numbers)

    def hessian(self) -> np.ndarray:
        """The full matrix, eV/Å², [3N, 3N], symmetrised.

        Raises:
            DataError: some rows are not known.
        """
        if not self.is_complete:
            raise DataError(f"only {len(self.labelled)} of {len(self.numbers)} atoms have labelled rows")
        n = len(self.numbers)
        full = np.zeros((n, 3, n, 3))
        full[self.labelled] = self.rows
        square = full.reshape(3 * n, 3 * n)
        return (square + square.T) / 2

    def atoms(self) -> Atoms:
        """The structure alone, with its charge in `info`."""
        return Atoms(self.numbers, positions=self.positions, info={"charge": self.charge, **self.info})


def write_shard(path: str | Path, records: Sequence[LabelledStructure]) -> None:
    """Writes one shard atomically."""
    arrays = {
        "sizes": np.array([len(r.numbers) for r in records]),
        "label_counts": np.array([len(r.labelled) for r in records]),
        "charge": np.array([r.charge for r in records]),
        "energy": np.array([r.energy for r in records]),
        "numbers": np.concatenate([r.numbers for r in records]).astype(np.int64),
        "positions": np.concatenate([r.positions for r in records]).astype(np.float64),
        "forces": np.concatenate([r.forces for r in records]).astype(np.float32),
        "labelled": np.concatenate([r.labelled for r in records]).astype(np.int64),
        "rows": np.concatenate([r.rows.ravel() for r in records]).astype(np.float32),
    }
    with atomic_path(path) as temporary:
        save_file(arrays, temporary, metadata={"format": FORMAT, "info": json.dumps([r.info for r in records])})


def read_shard(path: str | Path) -> list[LabelledStructure]:
    """Reads one shard.

    Raises:
        DataError: the file is missing, truncated, or not a label shard.
    """
    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError) as error:
        raise DataError(f"cannot read label shard {path}: {error}") from None
    if metadata.get("format") != FORMAT:
        raise DataError(f"{path} is not a label shard: format {metadata.get('format')!r}, expected {FORMAT!r}")
    sizes, counts = arrays["sizes"], arrays["label_counts"]
    atom = np.concatenate(([0], np.cumsum(sizes)))
    label = np.concatenate(([0], np.cumsum(counts)))
    value = np.concatenate(([0], np.cumsum(9 * sizes * counts)))
    return [
        LabelledStructure(
            numbers=arrays["numbers"][atom[m] : atom[m + 1]],
            positions=arrays["positions"][atom[m] : atom[m + 1]],
            charge=float(arrays["charge"][m]),
            energy=float(arrays["energy"][m]),
            forces=arrays["forces"][atom[m] : atom[m + 1]],
            labelled=arrays["labelled"][label[m] : label[m + 1]],
            rows=arrays["rows"][value[m] : value[m + 1]].reshape(counts[m], 3, sizes[m], 3),
            info=info,
        )
        for m, info in enumerate(json.loads(metadata["info"]))
    ]


def read_shards(folder: str | Path) -> list[LabelledStructure]:
    """Reads every complete shard of a folder, in order of their names."""
    files = sorted(Path(folder).glob("shard-*.safetensors"))
    if not files:
        raise DataError(f"no label shards in {folder}: expected files named shard-*.safetensors")
    return [record for file in files for record in read_shard(file)]
