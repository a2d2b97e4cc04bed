"""Hessian labels on their way through MACE's data classes.

MACE keeps every property that it does not know: the label of a structure of N atoms is there as `item.hessian`, 9N²
numbers in eV/Å², and missing where a structure has none. In a batch, `hessian` holds the labels of all labelled
structures one after the other, [Σ 9n²], and `hessian_labelled` says which these are, bool [B].
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from hip_ext.backbones.mace_models import import_mace
from hip_ext.errors import DataError


def flat_label(value: object, atoms: int, where: str) -> NDArray[np.float64] | None:
    """A label as 9N² numbers, or None where there is none.

    Args:
        value: what a file holds: a flat list, a 3N × 3N matrix, or None.
        atoms: N.
        where: the structure's name in an error.

    Raises:
        DataError: it is no list of numbers, has a wrong length, or a number that is not finite.
    """
    if value is None:
        return None
    try:
        flat = np.asarray(value, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        raise DataError(f"{where}: the Hessian is no list of numbers but {str(value)[:40]!r}") from None
    if len(flat) != 9 * atoms * atoms:
        raise DataError(
            f"{where}: the Hessian has {len(flat)} numbers, expected {9 * atoms * atoms} for its {atoms} atoms"
        )
    if not np.isfinite(flat).all():
        bad = int(np.count_nonzero(~np.isfinite(flat)))
        raise DataError(f"{where}: {bad} numbers of the Hessian are not finite; leave the label out if there is none")
    return flat


def check_configurations(configurations: Sequence[Any], name: str) -> None:
    """Checks the labels of MACE's Configurations and flattens them.

    Raises:
        DataError: as `flat_label`.
    """
    for index, one in enumerate(configurations):
        where = f"{name} structure {index} ({len(one.atomic_numbers)} atoms)"
        one.properties["hessian"] = flat_label(one.properties.get("hessian"), len(one.atomic_numbers), where)


def labelled_indices(dataset: Any, name: str) -> list[int]:
    """Which structures of a data set have a label, with every label checked.

    Raises:
        DataError: as `flat_label`.
    """
    found = []
    for index in range(len(dataset)):
        item = dataset[index]  # from an HDF5 file it is read and given its neighbours here
        label = label_of(item)
        if label is not None:
            flat_label(label.numpy(), int(item.num_nodes), f"{name} structure {index}")
            found.append(index)
    return found


def label_of(item: Any) -> Tensor | None:
    """The label of one of MACE's AtomicData, [9N²], or None."""
    label: Tensor | None = item["hessian"] if "hessian" in item.keys else None
    return None if label is None else label.reshape(-1)


def label_loader(dataset: Any, **options: Any) -> DataLoader[Any]:
    """MACE's loader with labels in its batches; the options are those of torch's DataLoader."""
    batch_class = import_mace("mace.tools.torch_geometric").Batch
    return DataLoader(dataset, collate_fn=partial(_collate, batch_class), **options)


def _collate(batch_class: Any, items: Sequence[Any]) -> Any:
    labels = [label_of(item) for item in items]
    # MACE would take the names of the first structure for those of all.
    batch = batch_class.from_data_list(items, exclude_keys=["hessian"])
    empty = items[0].positions.new_zeros(0)
    batch["hessian"] = torch.cat([empty, *(label for label in labels if label is not None)])
    batch["hessian_labelled"] = torch.tensor([label is not None for label in labels])
    return batch
