"""The last look at a predicted Hessian before it leaves a model: finite, and of a size that a Hessian can have.

A head extrapolates as a polynomial in its backbone's features. Where two atoms are much closer than in any structure
that either was taught, those features grow a thousandfold, and a high power of that is no prediction but overflow.
Training does not pass here: the look waits for the device.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii
from torch import Tensor

from hip_ext.blocks import HessianBlocks
from hip_ext.errors import StructureError
from hip_ext.pairs import PairGraph, pair_graph
from hip_ext.structures import Structures

LARGEST = 1e6
"""eV/Å². The stiffest bonds have some 150; the bare nuclei of two carbon atoms reach this, 2·Z²·14.4 eV·Å/r³, at 0.1 Å,
where the pair graph takes them for one atom."""

CLOSE = 0.6
"""Of the sum of two covalent radii: no bond is shorter, and no data set has structures with atoms that close."""


def checked_blocks(blocks: HessianBlocks, structures: Structures) -> HessianBlocks:
    """The blocks, as they are.

    Args:
        blocks: of the structures.
        structures: named by their place in the batch where there are several.

    Raises:
        StructureError: an entry is not finite, or larger than `LARGEST`.
    """
    if _largest(blocks.pair, blocks.diagonal) <= LARGEST:
        return blocks
    count = structures.num_systems
    for index, (start, stop) in enumerate(pairwise(structures.ptr.tolist())):
        mine = (blocks.graph.first >= start) & (blocks.graph.first < stop)
        largest = _largest(blocks.pair[mine], blocks.diagonal[start:stop])
        if not largest <= LARGEST:
            name = f"structure {index}: " if count > 1 else ""
            raise StructureError(name + _refusal(largest, structures, blocks.graph, start, stop))
    raise AssertionError("a block belongs to no structure")


def check_matrix(matrix: Tensor, atoms: Atoms) -> None:
    """The same for one structure's matrix, eV/Å², [3N, 3N].

    Raises:
        StructureError: as `checked_blocks`.
    """
    largest = _largest(matrix)
    if not largest <= LARGEST:
        structures = Structures.from_ase(atoms)
        raise StructureError(_refusal(largest, structures, pair_graph(structures, 5.0), 0, len(atoms)))


def _largest(*tensors: Tensor) -> float:
    """The largest absolute value, NaN if any is."""
    ends = [end for tensor in tensors if tensor.numel() for end in torch.aminmax(tensor.detach())]
    return float(torch.stack(ends).abs().max()) if ends else 0.0


def _refusal(largest: float, structures: Structures, graph: PairGraph, start: int, stop: int) -> str:
    size = f"has entries of {largest:.0e} eV/Å²" if math.isfinite(largest) else "is not finite"
    return f"the predicted Hessian {size} and means nothing: {_reason(structures, graph, start, stop)}"


def _reason(structures: Structures, graph: PairGraph, start: int, stop: int) -> str:
    """What is unusual about the atoms from `start` to `stop`: the pair that is closest for its elements."""
    rows = torch.nonzero((graph.first >= start) & (graph.first < stop)).squeeze(1)
    radii = torch.as_tensor(covalent_radii, device=graph.distance.device)
    first, second, distance = (x[rows].detach() for x in (graph.first, graph.second, graph.distance))
    bonds = radii[structures.numbers[first]] + radii[structures.numbers[second]]
    if len(rows) and float((distance / bonds).min()) < CLOSE:
        worst = int((distance / bonds).argmin())
        pair = " and ".join(_atom(structures, int(ends[worst]), start) for ends in (first, second))
        return f"{pair} are {float(distance[worst]):.2f} Å apart, closer than heads and backbones are taught"
    return "the structure is far from what the head was taught: check elements, units, charge and spin"


def _atom(structures: Structures, index: int, start: int) -> str:
    return f"atom {index - start} ({chemical_symbols[int(structures.numbers[index])]})"
