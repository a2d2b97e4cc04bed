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

ATOMS_AT_ONCE = 256
"""Atoms of a batch: a pass of more is not faster on a CPU, and its graph takes much memory."""


class BackboneLabeller(Labeller):
    """Any conservative backbone; periodic structures too.

    Args:
        backbone: gives energy, forces and, by automatic differentiation, the Hessian.
        batch: structures at a time; a batch of more than `ATOMS_AT_ONCE` atoms is cut.
    """

    def __init__(self, backbone: Backbone, batch: int = 16) -> None:
        self.backbone, self.batch = backbone, batch
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
        return self.label_many([atoms], [target])[0]

    def label_many(self, many: Sequence[Atoms], targets: Sequence[Target]) -> list[HessianRecord]:
        """See `Labeller.label_many`."""
        records: list[HessianRecord] = []
        start = 0
        for stop in range(1, len(many) + 1):
            if stop == len(many) or sum(map(len, many[start : stop + 1])) > ATOMS_AT_ONCE:
                records += self._label(many[start:stop], targets[start:stop])
                start = stop
        return records

    def _label(self, many: Sequence[Atoms], targets: Sequence[Target]) -> list[HessianRecord]:
        structures = Structures.from_ase(list(many), dtype=self.backbone.dtype, device=self.backbone.device)
        found = self.backbone.evaluate(structures)
        energy, forces = found.energy.tolist(), found.forces.detach().cpu().numpy()
        bounds = structures.ptr.tolist()
        parts = [slice(a, b) for a, b in pairwise(bounds)]
        for atoms, part in zip(many, parts, strict=True):
            largest = np.abs(forces[part]).max()
            if not largest < LARGEST_FORCE:
                raise BackboneError(
                    f"a force on {atoms.symbols} is {largest:.3g} eV/Å: beyond {LARGEST_FORCE} is no use"
                )
        directions = [target.directions(len(atoms)) for atoms, target in zip(many, targets, strict=True)]
        passes = np.zeros((max(map(len, directions)), structures.num_atoms, 3))
        for part, given in zip(parts, directions, strict=True):
            passes[: len(given), part] = given
        vectors = torch.as_tensor(passes, dtype=self.backbone.dtype, device=self.backbone.device)
        products = hessian_vector_product(self.backbone, structures, vectors).cpu().numpy()
        return [
            filled(
                replace(self._record(atoms), energy=energy[m], forces=forces[part]),
                target,
                products[: len(given), part],
            )
            for m, (atoms, part, given, target) in enumerate(zip(many, parts, directions, targets, strict=True))
        ]

    def _record(self, atoms: Atoms) -> HessianRecord:
        bare = atoms.copy()
        bare.calc = None
        return HessianRecord.from_atoms(bare, method=self.method)


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
        return labeller.label_many(many, targets)
    except HipExtError:
        records = []
        for atoms, target in zip(many, targets, strict=True):
            try:
                records.append(labeller.label(atoms, target))
            except HipExtError:
                continue
        return records
