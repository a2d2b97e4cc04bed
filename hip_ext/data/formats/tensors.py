"""Arrays from the tensors in a pickle that `read_pickle` has read; torch is not asked to load anything.

A tensor is `torch._utils._rebuild_tensor_v2(storage, offset, size, stride, ...)`, its storage
`torch.storage._load_from_bytes(data)`, and `data` what torch.save of a storage writes in its older format: pickles of a
magic number, a version, the machine's sizes, a reference to the storage, and its key; then the number of elements as
eight bytes, and the elements.
"""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hip_ext.data.formats.pickles import External, Made, Name, read_pickle
from hip_ext.errors import DataError

MAGIC = 0x1950A86A20F9469CFC6C
REBUILD, LOAD = "torch._utils._rebuild_tensor_v2", "torch.storage._load_from_bytes"
NAMES = {REBUILD, LOAD, "collections.OrderedDict"}
"""What a pickle of tensors names."""

_DTYPES = {
    "torch.DoubleStorage": "<f8",
    "torch.FloatStorage": "<f4",
    "torch.HalfStorage": "<f2",
    "torch.LongStorage": "<i8",
    "torch.IntStorage": "<i4",
    "torch.ShortStorage": "<i2",
    "torch.CharStorage": "<i1",
    "torch.ByteStorage": "<u1",
    "torch.BoolStorage": "?",
}


def as_array(value: Any, name: str) -> NDArray[Any]:
    """The array of a tensor, or of a plain number, in a pickle.

    Args:
        value: from `read_pickle`.
        name: of the field, for errors.

    Raises:
        DataError: it is no tensor, or one whose size and storage do not go together.
    """
    if type(value) in (int, float):
        return np.asarray(value)
    if not isinstance(value, Made) or value.name != REBUILD or len(value.arguments) < 4:
        raise DataError(f"{name} is no tensor but {type(value).__name__}")
    storage, offset, size, stride = value.arguments[:4]
    if not (isinstance(storage, Made) and storage.name == LOAD and len(storage.arguments) == 1):
        raise DataError(f"{name} is a tensor whose storage is not in the pickle")
    elements = _storage(storage.arguments[0], name)
    if not (_sizes(size) and _sizes(stride) and _sizes((offset,)) and len(size) == len(stride)):
        raise DataError(f"{name} is a tensor of impossible size and stride")
    count, last = math.prod(size), offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if count and (last >= len(elements) or count > len(elements)):
        raise DataError(f"{name} is a tensor of {count} numbers in a storage of {len(elements)}")
    if not count:
        return np.zeros(size, dtype=elements.dtype)
    steps = tuple(step * elements.itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(elements[offset:], shape=size, strides=steps).copy()


def _storage(data: Any, name: str) -> NDArray[Any]:
    if not isinstance(data, bytes):
        raise DataError(f"{name} is a tensor without data")
    stream = io.BytesIO(data)
    magic, _, machine = (read_pickle(stream, ()) for _ in range(3))
    if magic != MAGIC or not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise DataError(f"{name} is a tensor in a format that is not known")
    reference = read_pickle(stream, _DTYPES)
    read_pickle(stream, ())
    identity = reference.identity if isinstance(reference, External) else None
    if not isinstance(identity, tuple) or len(identity) < 5 or not isinstance(identity[1], Name):
        raise DataError(f"{name} is a tensor whose storage is not described")
    if len(identity) > 5 and identity[5] is not None:
        raise DataError(f"{name} is a tensor in a part of another storage")
    dtype = np.dtype(_DTYPES[identity[1].path])
    claimed = int.from_bytes(stream.read(8), "little", signed=True)
    elements = stream.read()
    if claimed != identity[4] or len(elements) != claimed * dtype.itemsize:
        raise DataError(f"{name} is a tensor of {claimed} numbers with {len(elements)} bytes of data")
    return np.frombuffer(elements, dtype=dtype)


def _sizes(value: Any) -> bool:
    """Whether this is a tuple of whole numbers that are not negative, and not beyond any array."""
    return isinstance(value, tuple) and len(value) <= 8 and all(type(n) is int and 0 <= n < 1 << 40 for n in value)
