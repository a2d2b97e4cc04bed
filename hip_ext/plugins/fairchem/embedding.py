"""From fairchem's batches and node embeddings to the head's input.

The features of the eSCN family turn with rotations only: under x → −x they are neither even nor odd. Those of the
inverted structure, from a second pass, take the part without parity out (`hip_ext.inversion`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from fairchem.core.datasets.atomic_data import AtomicData
from torch import Tensor

from hip_ext.features import NodeFeatures, tensor_from_e3nn_l2
from hip_ext.structures import Structures


def structures_of(data: AtomicData, dtype: torch.dtype) -> Structures:
    """The structures of a batch; fairchem's spin is the multiplicity, 0 where it does not matter."""
    natoms = data["natoms"]
    return Structures(
        numbers=data["atomic_numbers"].long(),
        positions=data["pos"].detach().to(dtype),
        cell=data["cell"].detach().to(dtype),
        pbc=data["pbc"],
        charge=data["charge"].to(dtype),
        unpaired=(data["spin"] - 1).clamp(min=0).to(dtype),
        ptr=torch.cat((natoms.new_zeros(1), natoms.cumsum(0))),
        batch=data["batch"],
    )


def features_of(embedding: Tensor, dtype: torch.dtype) -> NodeFeatures:
    """Features from a node embedding [N, (l_max + 1)², C], l_max ≥ 2, in e3nn's order."""
    channels_first = embedding[:, :9].transpose(1, 2).to(dtype)
    scalars, vectors, tensors = channels_first.split([1, 3, 5], dim=-1)
    return NodeFeatures(scalars.squeeze(-1), vectors, tensor_from_e3nn_l2(tensors), "so3")


def inverted(data: AtomicData) -> AtomicData:
    """The batch with x → −x, the cell included; without labels and without what a backbone has left in it."""
    return AtomicData(
        pos=-data["pos"].detach(),
        atomic_numbers=data["atomic_numbers"],
        cell=-data["cell"].detach(),
        pbc=data["pbc"],
        natoms=data["natoms"],
        edge_index=data["edge_index"],
        cell_offsets=data["cell_offsets"],
        nedges=data["nedges"],
        charge=data["charge"],
        spin=data["spin"],
        fixed=data["fixed"],
        tags=data["tags"],
        batch=data["batch"],
        sid=data["sid"],
        dataset=data.get("dataset", None),
    )


@contextmanager
def unnoticed(backbone: Any, device: torch.device) -> Iterator[None]:
    """Lets a backbone run once more without a trace: forces off, the global random state and its own globals put back.

    A conservative backbone switches gradients on even inside `no_grad`, unless it is told that nobody wants forces;
    every backbone of the family draws random roll angles; a mixture of experts keeps the batch's routing in globals
    that a checkpointed backward pass of the first run still reads.
    """
    holders = [backbone.regress_config, getattr(backbone, "global_mole_tensors", None)]
    before = [dict(vars(holder)) if holder is not None else {} for holder in holders]
    backbone.regress_config.forces = backbone.regress_config.stress = backbone.regress_config.hessian = False
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        for holder, values in zip(holders, before, strict=True):
            if holder is not None:
                vars(holder).update(values)
