"""Features of a frozen backbone, computed once where there is room for them.

Records are taken in pages of `PAGE` in the order of their numbers. The first pages, as many as fit, are cached in
memory and, if asked for, on disk; a page is always computed as a whole, and the features of the other records together
with the batch in which they are needed. So the last digits of a feature do not depend on what happens to be in a cache,
and a run that goes on gets the same numbers as one that was never stopped. Since every record is needed equally often,
no rule about which ones to keep would find more of them in the cache than this one.

On disk the features are in an LMDB file, by a digest of backbone, dtype and structures.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from hip_ext.backbones.base import Backbone
from hip_ext.data.record import HessianRecord
from hip_ext.errors import DataError, HipExtError
from hip_ext.features import NodeFeatures
from hip_ext.structures import Structures
from hip_ext.training.records import RecordSet

PAGE = 8
MB = 1 << 20


class FeatureStore:
    """Pages of features in one LMDB file that does not grow beyond a bound.

    Args:
        path: the file; made if it is not there. Several processes may use it at once.
        limit: bytes. When they are used up, nothing is added any more.
    """

    def __init__(self, path: Path, limit: int) -> None:
        import lmdb

        path.parent.mkdir(parents=True, exist_ok=True)
        self.limit = limit
        self._lmdb = lmdb
        self._full = False
        try:
            self._file = lmdb.open(str(path), subdir=False, map_size=max(limit, MB), readahead=False, sync=False)
        except lmdb.Error as error:
            raise DataError(f"{path} is no feature cache, or it is damaged: {error}; delete it") from None

    def get(self, key: bytes) -> dict[str, torch.Tensor] | None:
        """The tensors of a page, or None if it is not there or damaged."""
        with self._file.begin() as transaction:
            data = transaction.get(key)
        try:
            return None if data is None else load(data)
        except SafetensorError:
            return None

    def put(self, key: bytes, tensors: dict[str, torch.Tensor]) -> None:
        """Adds a page if there is room for it."""
        if self._full:
            return
        try:
            with self._file.begin(write=True) as transaction:
                transaction.put(key, save(tensors))
        except self._lmdb.Error:  # the bound is reached, or the disk is full: both are no reason to stop a training
            self._full = True

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class FeatureCache:
    """Features of the records of a set.

    Args:
        backbone: frozen; its fingerprint is part of the keys on disk.
        records: whose features are asked for, by number.
        memory: bytes of features that may be kept in memory.
        store: where pages are kept on disk, or None.
        beside: another cache with the same bounds and store; what is left of them is for this one.

    Attributes:
        bytes: what all of them may take in memory and on disk.
        kept, cached: how many pages may be in memory, and in memory or on disk.
        computed: of how many structures features were computed so far.
    """

    def __init__(
        self,
        backbone: Backbone,
        records: RecordSet,
        memory: int,
        store: FeatureStore | None = None,
        beside: FeatureCache | None = None,
    ) -> None:
        self.backbone, self.records, self.store = backbone, records, store
        scalars, vectors, tensors = backbone.widths
        per_atom = (scalars + 3 * vectors + 9 * tensors) * torch.finfo(backbone.dtype).bits // 8
        starts = np.arange(0, len(records), PAGE)
        used = np.add.reduceat(records.sizes, starts).cumsum() * per_atom
        taken: tuple[int, int] = beside.bytes if beside else (0, 0)
        disk = store.limit * 0.9 - taken[1] if store else 0.0
        self.kept, on_disk = int((used <= memory - taken[0]).sum()), int((used <= disk).sum())
        self.cached = max(self.kept, on_disk)
        ends = np.concatenate(([0], used))
        self.bytes: tuple[int, int] = taken[0] + int(ends[self.kept]), taken[1] + int(ends[on_disk])
        self._memory: dict[int, dict[int, NodeFeatures]] = {}
        self.computed = 0

    def __call__(self, indices: Sequence[int], structures: Structures) -> NodeFeatures:
        """Features of a batch, on the backbone's device.

        Args:
            indices: numbers of the records.
            structures: the same records.
        """
        own = [index // PAGE >= self.cached for index in indices]
        found: dict[int, NodeFeatures] = {}
        if any(own):
            chosen = [place for place, direct in enumerate(own) if direct]
            computed = self._computed(_part(structures, chosen) if len(chosen) < len(own) else structures)
            sizes = [structures.sizes[place] for place in chosen]
            found = dict(zip(chosen, _split(computed, sizes), strict=True))
        parts = [
            found[place] if place in found else self._page(index // PAGE)[index].to(self.backbone.device)
            for place, index in enumerate(indices)
        ]
        return NodeFeatures.concatenate(parts)

    def _page(self, number: int) -> dict[int, NodeFeatures]:
        page = self._memory.get(number)
        if page is None:
            page = self._read(number)
            if number < self.kept:
                self._memory[number] = page
        return page

    def _read(self, number: int) -> dict[int, NodeFeatures]:
        members: dict[int, HessianRecord] = {}
        for index in range(number * PAGE, min((number + 1) * PAGE, len(self.records))):
            try:
                members[index] = self.records[index]
            except HipExtError:
                continue
        records = list(members.values())
        key = self._key(records) if self.store else b""
        stored = self.store.get(key) if self.store else None
        if stored is None:
            structures = Structures.from_ase([r.atoms() for r in records], self.backbone.dtype, self.backbone.device)
            features = self._computed(structures).to("cpu")
            stored = {name: getattr(features, name).contiguous() for name in ("scalars", "vectors", "tensors")}
            if self.store:
                self.store.put(key, stored)
        features = NodeFeatures(**stored, parity=self.backbone.parity)
        return dict(zip(members, _split(features, [len(r.numbers) for r in records]), strict=True))

    @torch.no_grad()
    def _computed(self, structures: Structures) -> NodeFeatures:
        self.computed += structures.num_systems
        return self.backbone.features(self.backbone.prepare(structures))

    def _key(self, records: Sequence[HessianRecord]) -> bytes:
        source = self.backbone.source
        what: list[Any] = [source.kind, source.fingerprint, dict(source.options), str(self.backbone.dtype)]
        digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode())
        for record in records:
            for array in (record.numbers, record.positions, record.cell, record.pbc):
                digest.update(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
            digest.update(f"{record.charge}|{record.unpaired}".encode())
        return digest.digest()


def _split(features: NodeFeatures, sizes: list[int]) -> list[NodeFeatures]:
    """The features of each structure."""
    parts = (features.scalars.split(sizes), features.vectors.split(sizes), features.tensors.split(sizes))
    return [NodeFeatures(s, v, t, features.parity) for s, v, t in zip(*parts, strict=True)]


def _part(structures: Structures, chosen: Sequence[int]) -> Structures:
    """Some of the structures of a batch, in rising order."""
    device = structures.ptr.device
    systems = torch.as_tensor(chosen, device=device)
    atoms = torch.nonzero(torch.isin(structures.batch, systems)).squeeze(1)
    sizes = (structures.ptr[1:] - structures.ptr[:-1])[systems]
    return Structures(
        numbers=structures.numbers[atoms],
        positions=structures.positions[atoms],
        cell=structures.cell[systems],
        pbc=structures.pbc[systems],
        charge=structures.charge[systems],
        unpaired=structures.unpaired[systems],
        ptr=torch.cat((sizes.new_zeros(1), sizes.cumsum(0))),
        batch=torch.repeat_interleave(torch.arange(len(chosen), device=device), sizes),
    )
