"""How Hessians of different sizes travel through fairchem's batches.

Predictions are one tensor a batch, [B, 3n_max, 3n_max], zero beyond each structure's own 3n × 3n: fairchem takes a
prediction of level "system" apart along its first dimension, so a flat one would be cut into single numbers. Labels are
one flat tensor a batch, (3n)² numbers for a labelled structure and one infinity for an unlabelled one, which is also
what fairchem's collater puts in for structures of data sets without this task.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from hip_ext.errors import DataError

DIRECT = "direct_hessian"
"""Names of our tasks end so, and it is the property of a direct Hessian that gave up the name `hessian`."""
HESSIAN = "hessian"
ERROR = "direct_hessian_error"
"""Property under which the head gives the error of each structure, where a batch has labels."""
LABELS = "direct_hessian_labels"
"""Where a batch carries its labels, a list with a matrix or None for each structure."""


def padded(matrices: Sequence[Tensor]) -> Tensor:
    """Stacks square matrices of different sizes to [B, M, M], M the largest; zeros fill the smaller ones up."""
    largest = max(matrix.shape[0] for matrix in matrices)
    missing = [largest - matrix.shape[0] for matrix in matrices]
    return torch.stack([pad(matrix, (0, m, 0, m)) for matrix, m in zip(matrices, missing, strict=True)])


def unpadded(prediction: Tensor, natoms: Sequence[int] | Tensor) -> list[Tensor]:
    """The matrix of every structure, [3n, 3n] each, from a padded prediction.

    Args:
        prediction: [B, 3n_max, 3n_max], what `predict` gives under the task's property.
        natoms: atoms of each structure, [B].

    Raises:
        DataError: the shapes do not belong together.
    """
    sizes = [3 * int(n) for n in natoms]
    expected = (len(sizes), max(sizes, default=0), max(sizes, default=0))
    if tuple(prediction.shape) != expected:
        raise DataError(f"Hessians of shape {expected} expected for these atoms, found {tuple(prediction.shape)}")
    return [matrix[:size, :size] for matrix, size in zip(prediction, sizes, strict=True)]


def labels_of(data: Any, name: str) -> list[Tensor | None]:
    """The labels of a batch that fairchem has collated, [3n, 3n] each, None where a structure has none.

    Args:
        data: an `AtomicData` batch.
        name: the key of the flat labels, which is the name of the task.

    Raises:
        DataError: a label has the wrong length.
    """
    flat, slices = data[name], data.get_batch_stats()[0]
    bounds = [0, len(flat)] if slices is None else slices[name]
    labels: list[Tensor | None] = []
    for index, n in enumerate(data.natoms.tolist()):
        part = flat[bounds[index] : bounds[index + 1]]
        if not bool(torch.isfinite(part).all()):
            labels.append(None)
        elif len(part) != 9 * n * n:
            raise DataError(f"a Hessian of {n} atoms has {9 * n * n} entries, found {len(part)} in {name!r}")
        else:
            labels.append(part.view(3 * n, 3 * n))
    return labels
