"""Labels from a backbone itself, exact, many structures at a time.

With g = ∂E/∂x, one backward pass of g gives one product H·v of every structure of a batch. So a few rows or probes of
many molecules cost far less than the full Hessians of a few.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from hip_ext.backbones.base import Backbone
from hip_ext.data.record import HessianRecord
from hip_ext.errors import BackboneError, HipExtError
from hip_ext.labelling.base import FULL, Labeller, Target, filled
from hip_ext.reference import hessian_vector_product
from hip_ext.structures import Structures

LARGEST_FORCE = 40.0
"""Structures with a larger force component (eV/Å) are refused: no potential means anything there."""

ATOMS_AT_ONCE, ATOMS_AT_ONCE_ON_GPU = 256, 8192
"""Atoms of a batch: a pass of more is not faster on a CPU, and its graph takes memory; with fewer, a GPU is idle."""


class BackboneLabeller(Labeller):
    """Any conservative backbone; periodic structures too.

    Args:
        backbone: gives energy, forces and, by automatic differentiation, the Hessian.
        batch: structures at a time; a batch of more than `ATOMS_AT_ONCE` atoms is cut.
    """

    def __init__(self, backbone: Backbone, batch: int = 16) -> None:
        self.backbone, self.batch = backbone, batch
        self.atoms_at_once = ATOMS_AT_ONCE if backbone.device.type == "cpu" else ATOMS_AT_ONCE_ON_GPU
        self.method = f"{backbone.kind} {backbone.source.name}"

    @property
    def settings(self) -> Mapping[str, Any]:
        """The backbone's kind, options and fingerprint, and the precision."""
        source = self.backbone.source
        precision = str(self.backbone.dtype).removeprefix("torch.")
        return {
            "method": self.method,
            "options": dict(source.options),
            "fingerprint": source.fingerprint,
            "dtype": precision,
        }

    def label(self, atoms: Atoms, target: Target = FULL) -> HessianRecord:
        """See `Labeller.label`.

        Raises:
            StructureError: the structure cannot be used.
            BackboneError: an element is unknown, a number is not finite, or a force beyond `LARGEST_FORCE`.
        """
        (found,) = self.label_many([atoms], [target])
        if isinstance(found, HipExtError):
            raise found
        return found

    def label_many(self, many: Sequence[Atoms], targets: Sequence[Target]) -> list[HessianRecord | HipExtError]:
        """See `Labeller.label_many`; structures with too large forces are left out after the first pass."""
        found: list[HessianRecord | HipExtError] = []
        start = 0
        for stop in range(1, len(many) + 1):
            if stop == len(many) or sum(map(len, many[start : stop + 1])) > self.atoms_at_once:
                found += self._checked(many[start:stop], targets[start:stop])
                start = stop
        return found

    def _checked(self, many: Sequence[Atoms], targets: Sequence[Target]) -> list[HessianRecord | HipExtError]:
        """One batch: what is refused for its forces stands in the place of its record."""
        structures = self._structures(many)
        found = self.backbone.evaluate(structures)
        sizes = structures.sizes
        energies, forces = found.energy.tolist(), np.split(found.forces.detach().cpu().numpy(), np.cumsum(sizes)[:-1])
        refused = {m: _too_large(atoms, forces[m]) for m, atoms in enumerate(many)}
        kept = [m for m, problem in refused.items() if problem is None]
        if kept:
            if len(kept) < len(many):
                structures = self._structures([many[m] for m in kept])
            bare = [replace(self._record(many[m]), energy=energies[m], forces=forces[m]) for m in kept]
            records = dict(zip(kept, self._with_rows(structures, bare, [targets[m] for m in kept]), strict=True))
        return [refused[m] or records[m] for m in range(len(many))]

    def _structures(self, many: Sequence[Atoms]) -> Structures:
        return Structures.from_ase(list(many), dtype=self.backbone.dtype, device=self.backbone.device)

    def _with_rows(
        self, structures: Structures, bare: Sequence[HessianRecord], targets: Sequence[Target]
    ) -> list[HessianRecord]:
        """Records of a batch with what is wanted of their Hessians."""
        bounds = structures.ptr.tolist()
        parts = [slice(a, b) for a, b in pairwise(bounds)]
        directions = [target.directions(len(record.numbers)) for record, target in zip(bare, targets, strict=True)]
        passes = np.zeros((max(map(len, directions)), structures.num_atoms, 3))
        for part, given in zip(parts, directions, strict=True):
            passes[: len(given), part] = given
        vectors = torch.as_tensor(passes, dtype=self.backbone.dtype, device=self.backbone.device)
        products = hessian_vector_product(self.backbone, structures, vectors).cpu().numpy()
        return [
            filled(record, target, products[: len(given), part])
            for record, part, given, target in zip(bare, parts, directions, targets, strict=True)
        ]

    def _record(self, atoms: Atoms) -> HessianRecord:
        bare = atoms.copy()
        bare.calc = None
        return HessianRecord.from_atoms(bare, method=self.method)


def _too_large(atoms: Atoms, forces: NDArray[np.floating[Any]]) -> BackboneError | None:
    """Why the structure is refused for its forces, eV/Å, [N, 3]."""
    largest = np.abs(forces).max()
    if largest < LARGEST_FORCE:
        return None
    return BackboneError(f"a force on {atoms.symbols} is {largest:.3g} eV/Å: beyond {LARGEST_FORCE} is no use")


def label(
    backbone: Backbone, many: Sequence[Atoms], labelled: Sequence[NDArray[np.integer[Any]]]
) -> list[HessianRecord]:
    """Energy, forces and the rows of chosen atoms of a batch, without the structures that cannot be labelled.

    Args:
        backbone: any conservative backbone.
        many: the structures.
        labelled: for each structure, the atoms whose three rows are wanted.

    Returns:
        A record for each structure whose forces and rows are finite and below `LARGEST_FORCE`, in their order.
    """
    labeller = BackboneLabeller(backbone, batch=len(many))
    targets = [Target(atoms=np.asarray(atoms)) for atoms in labelled]
    try:
        return [found for found in labeller.label_many(many, targets) if isinstance(found, HessianRecord)]
    except HipExtError:
        records = []
        for atoms, target in zip(many, targets, strict=True):
            try:
                records.append(labeller.label(atoms, target))
            except HipExtError:
                continue
        return records
