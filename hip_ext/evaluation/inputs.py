"""What an evaluation reads: labelled or plain structures, one at a time, and models by name."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from hip_ext.backbones import Backbone, backbone_kinds, load_backbone
from hip_ext.backbones.fingerprint import fingerprint
from hip_ext.data.formats import find_format, read_each
from hip_ext.data.plausibility import refuse_other_units
from hip_ext.data.record import HessianRecord
from hip_ext.data.store import HessianStore
from hip_ext.errors import CheckpointError, ConfigError, DataError
from hip_ext.hub import is_repository
from hip_ext.model import HessianModel, from_pretrained
from hip_ext.reference import autograd_hessians
from hip_ext.shipped import shipped_checkpoints
from hip_ext.structures import Structures
from hip_ext.suggest import did_you_mean

AUTOGRAD = ":autograd"

SAMPLE = 800
"""So many records, at most, are looked at before an evaluation: whether their units can be right."""


@dataclass(frozen=True)
class Data:
    """Records, and what recognises them.

    Attributes:
        path: the file.
        sha256: of its bytes.
        records: read when they are asked for; a damaged one raises DataError, and leaves the others readable.
        names: of those records that have one, by index.
        units: of the Hessians in the file, where they had to be stated.
    """

    path: Path
    sha256: str
    records: Sequence[HessianRecord]
    names: dict[int, str]
    units: str | None = None


def read_data(path: str | Path, limit: int | None = None, units: str | None = None) -> Data:
    """Opens a `HessianStore`, or reads the first `limit` records of any file of `hip_ext.data.formats`.

    Args:
        path: the file.
        limit: by default all.
        units: of the Hessians, where the format leaves that open; see `hip_ext.data.formats.read_records`.

    Raises:
        DataError: there is no such file, or nothing can be read from it.
        ConfigError: unknown units, or units for a format that has its own.
        MissingDependencyError: a library that the format needs is not installed.
    """
    path = Path(path)
    entry = find_format(path)
    records: Sequence[HessianRecord]
    if entry.name == "store" and units is None:
        store = HessianStore(path)
        records, names = store, {store.index(key): key for key in store.keys()}  # noqa: SIM118
    else:
        records, names = _Read(list(islice(read_each(path, entry.name, units), limit))), {}
    if not records:
        raise DataError(f"cannot read {path}: there is no structure in it")
    return Data(path, _digest(path), records, names, units)


def check_units(data: Data, limit: int | None = None) -> None:
    """Looks whether the numbers of some records, spread over the data, can be in our units.

    Raises:
        DataError: more of them than strain explains look as if they were in others, or none can be read.
    """
    count = len(data.records) if limit is None else min(limit, len(data.records))
    sample: list[HessianRecord] = []
    first: DataError | None = None
    for index in range(0, count, -(-count // SAMPLE)):
        try:
            sample.append(data.records[index])
        except DataError as error:
            first = first or error
    if first is not None and not sample:
        raise DataError(f"no record of {data.path} can be read, the first: {first}")
    advice = "convert them (hip-ext data convert), state --units where the file leaves them open, or pass --trust-units"
    refuse_other_units(sample, str(data.path), advice)


class _Read(Sequence[HessianRecord]):
    """Records that were read, with the error in place of a damaged one, which is raised whenever it is asked for."""

    def __init__(self, found: Sequence[HessianRecord | DataError]) -> None:
        self._found = found

    def __len__(self) -> int:
        return len(self._found)

    def __getitem__(self, index: Any) -> Any:
        found = self._found[index]
        if isinstance(found, DataError):
            raise found
        return found


@dataclass(frozen=True)
class Predicted:
    """What a model says about one structure.

    Attributes:
        hessian: eV/Å², [3N, 3N].
        energy: eV.
        forces: eV/Å, [N, 3].
    """

    hessian: NDArray[np.float64]
    energy: float
    forces: NDArray[np.float64]


class Contestant:
    """A model under evaluation: a head on its backbone, or the backbone's own autograd Hessian.

    Args:
        name: as the user gave it.
        backbone: the potential.
        model: backbone and head; None for the autograd Hessian.
    """

    def __init__(self, name: str, backbone: Backbone, model: HessianModel | None = None) -> None:
        self.name, self.backbone, self.model = name, backbone, model

    @property
    def fingerprint(self) -> str:
        """sha256 that recognises the backbone and, where there is one, the head."""
        head = "autograd" if self.model is None else fingerprint(self.model.head)
        return hashlib.sha256(f"{self.exact_key} {head}".encode()).hexdigest()

    @property
    def exact_key(self) -> str:
        """Equal for models with one backbone in one precision, whose exact Hessian is the same."""
        return f"{self.backbone.source.fingerprint} {self.backbone.dtype}"

    def predict(self, atoms: Sequence[Atoms]) -> list[Predicted]:
        """Energy, forces and Hessian of every structure.

        Raises:
            HipExtError: a structure cannot be used, or a number is not finite.
        """
        structures = Structures.from_ase(list(atoms), dtype=self.backbone.dtype, device=self.backbone.device)
        if self.model is None:
            found = self.backbone.evaluate(structures)
            energies, forces, matrices = found.energy, found.forces, autograd_hessians(self.backbone, structures)
        else:
            prediction = self.model.energy_forces_hessian(structures)
            energies, forces, matrices = prediction.energy, prediction.forces, prediction.hessian.dense_list()
        parts = zip(energies, forces.split(structures.sizes), matrices, strict=True)
        predicted = [Predicted(_numbers(h), float(e), _numbers(f)) for e, f, h in parts]
        if not all(np.isfinite(p.hessian).all() for p in predicted):
            raise DataError("the predicted Hessian is not finite")
        return predicted

    def exact(self, atoms: Sequence[Atoms]) -> list[NDArray[np.float64]]:
        """The backbone's autograd Hessians −∂F/∂x, eV/Å², each [3n, 3n]."""
        structures = Structures.from_ase(list(atoms), dtype=self.backbone.dtype, device=self.backbone.device)
        return [_numbers(h) for h in autograd_hessians(self.backbone, structures)]


def load_contestant(
    name: str, trust_source: bool = False, device: str | None = None, dtype: torch.dtype | None = None
) -> Contestant:
    """A checkpoint, as `from_pretrained` finds it; with ":autograd" behind it, its backbone alone.

    In front of ":autograd" the name of a backbone, such as "so3lr", will do as well.

    Raises:
        HipExtError: there is no such model, or it cannot be loaded.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = name.removesuffix(AUTOGRAD)
        is_checkpoint = Path(base).is_dir() or base in shipped_checkpoints() or is_repository(base)
        if name != base and not is_checkpoint:
            known = [*shipped_checkpoints(), *backbone_kinds()]
            if base not in known:
                raise CheckpointError(
                    f"{name!r}: {base!r} is neither a checkpoint nor a backbone{did_you_mean(base, known)}; "
                    f"known are {', '.join(known)}"
                )
            return Contestant(name, load_backbone(base, device=device, dtype=dtype))
        model = from_pretrained(base, trust_source=trust_source, device=device, dtype=dtype)
    return Contestant(name, model.backbone, model if name == base else None)


def check_names(names: Sequence[str]) -> None:
    """Refuses no model at all, and one model twice.

    Raises:
        ConfigError: that is so.
    """
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names:
        raise ConfigError(f"the model {twice[0]} is named twice: leave one out" if twice else "no model is named")


def _numbers(tensor: torch.Tensor) -> NDArray[np.float64]:
    return tensor.detach().cpu().double().numpy()


def _digest(path: Path) -> str:
    """sha256 of a file, or of the files of a folder one after the other."""
    if path.is_dir():
        parts = [part for part in sorted(path.iterdir()) if part.is_file() and not part.name.endswith("-lock")]
        return hashlib.sha256("".join(map(_digest, parts)).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
