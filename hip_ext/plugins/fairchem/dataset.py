"""A data set of fairchem with Hessians: `format: hip_ext.plugins.fairchem.dataset.HessianDataset` in its YAML.

Any ASE database that fairchem reads, `*.aselmdb` among them, whose rows may hold a Hessian as `data={"hessian": H}`.
Structures without one take part in everything else.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from ase import Atoms
from fairchem.core.common.registry import registry
from fairchem.core.datasets.ase_datasets import AseDBDataset
from fairchem.core.datasets.atomic_data import AtomicData
from numpy.typing import NDArray

from hip_ext.backbones.borrowed import reason_of
from hip_ext.errors import ConfigError, DataError
from hip_ext.pairs import MIN_DISTANCE, pair_graph
from hip_ext.structures import Structures

STAND_INS = 16
"""After so many records in a row that cannot be used, something else is wrong than a record."""


@registry.register_dataset("hip_hessian_db")
class HessianDataset(AseDBDataset):
    """Structures with Hessians from ASE databases, each item with a flat `hessian` of (3n)² numbers, or one infinity.

    The Hessian of a row, eV/Å², is any array of (3n)² numbers in the order of the atoms. Before training, records are
    checked, and a bad one is an error. During training a bad record loses its label, or, where the structure itself
    cannot be used, is stood in for by the next; both are reported once.

    Args:
        config: as AseDBDataset, and
            hessian_key: of the Hessian in a row's data, by default "hessian".
            check_records: how many records, evenly spread, are checked at the start, by default 2000.
            bad_records: "error", or "skip" to report bad records at the start as well.

    Attributes:
        labelled: how many of the checked records have a Hessian.

    Raises:
        DataError: there are no records, or a checked one is bad.
        ConfigError: `bad_records` is neither "error" nor "skip".
    """

    a2g: Any

    def __init__(self, config: dict[str, Any]) -> None:
        try:
            super().__init__(config)
        except ValueError as error:
            raise DataError(f"{config.get('src')}: {reason_of(error)}") from error
        self._key = config.get("hessian_key", "hessian")
        self._reported: set[int] = set()
        self._from_ase = self.a2g
        self.a2g = self._labelled_data
        if config.get("bad_records", "error") not in ("error", "skip"):
            raise ConfigError(f"bad_records is 'error' or 'skip', found {config['bad_records']!r}")
        self._check_size(config.get("max_atoms"))
        self.labelled = self._check(int(config.get("check_records", 2000)))

    def __getitem__(self, index: Any) -> Any:
        """One `AtomicData`, or a list of them for a slice."""
        if isinstance(index, slice):
            return super().__getitem__(index)
        for place in range(index, index + STAND_INS):
            try:
                return super().__getitem__(place % len(self))
            except Exception as error:  # a record can be damaged in any way, and a training run must go on
                self._report(place % len(self), f"the next one stands in: {reason_of(error)}")
        raise DataError(f"{STAND_INS} records from {index} on cannot be used in {self.config['src']}")

    def _labelled_data(self, atoms: Atoms, sid: Any = None) -> AtomicData:
        check_geometry(atoms)
        data = self._from_ase(atoms, sid=sid)
        try:
            hessian = read_hessian(atoms, self._key)
        except DataError as error:
            self._report(sid, f"its Hessian is left out: {error}")
            hessian = None
        flat = np.full(1, np.inf) if hessian is None else hessian.ravel()
        data["hessian"] = torch.as_tensor(flat, dtype=data.pos.dtype)
        return data

    def _check_size(self, max_atoms: int | None) -> None:
        """Raises DataError where fairchem would take structures of up to `max_atoms` and find none."""
        sizes = self._metadata.get("natoms", []) if max_atoms is not None else []
        if len(sizes) and min(sizes) > max_atoms:
            raise DataError(
                f"{self.config['src']}: none of {len(self)} structures has up to max_atoms={max_atoms} atoms, the "
                f"smallest has {min(sizes)}"
            )

    def _check(self, count: int) -> int:
        """Reads `count` records, evenly spread; returns how many have a Hessian."""
        indices = np.unique(np.linspace(0, len(self) - 1, min(count, len(self))).astype(int)).tolist()
        problems, labelled = [], 0
        for index in indices:
            try:
                atoms = self.get_atoms(index)
                check_geometry(atoms)
                labelled += read_hessian(atoms, self._key) is not None
            except Exception as error:  # as above
                problems.append(f"record {index}: {reason_of(error)}")
        if problems and self.config.get("bad_records", "error") == "error":
            raise DataError(
                f"{len(problems)} of {len(indices)} checked records of {self.config['src']} are bad ({problems[0]}): "
                "mend them, or set bad_records: skip"
            )
        for problem in problems:
            logging.warning(f"{self.config['src']}: {problem}")
        logging.info(f"{self.config['src']}: {labelled} of {len(indices)} checked records have a Hessian")
        return labelled

    def _report(self, record: Any, what: str) -> None:
        if record not in self._reported:
            self._reported.add(record)
            logging.warning(f"record {record} of {self.config['src']} is bad, {what}")


def read_hessian(atoms: Atoms, key: str = "hessian") -> NDArray[np.float64] | None:
    """The Hessian that a row holds in its data, [3n, 3n], symmetric, eV/Å²; None where there is none.

    Raises:
        DataError: it has a wrong length, a value that is not finite, or is far from symmetric.
    """
    found = atoms.info.get(key)
    if found is None:
        return None
    size = 3 * len(atoms)
    values = np.asarray(found, dtype=np.float64)
    if values.size != size * size:
        raise DataError(f"a Hessian of {len(atoms)} atoms has {size * size} entries, found {values.size}")
    if not np.isfinite(values).all():
        raise DataError(f"{int((~np.isfinite(values)).sum())} of {values.size} Hessian entries are not finite")
    matrix = values.reshape(size, size)
    skew = np.abs(matrix - matrix.T).max()
    if skew > 1e-2 * max(np.abs(matrix).max(), 1.0):
        raise DataError(f"a Hessian is symmetric, found H and its transpose {skew:.3g} eV/Å² apart")
    return (matrix + matrix.T) / 2


def check_geometry(atoms: Atoms) -> None:
    """Raises StructureError for a structure that no Hessian can be predicted for."""
    pair_graph(Structures.from_ase(atoms), 2 * MIN_DISTANCE)
