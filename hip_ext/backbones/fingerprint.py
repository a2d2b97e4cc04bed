"""What makes a model recognisable: a digest over everything that it computes with."""

import hashlib

import torch
from torch import nn


def fingerprint(model: nn.Module) -> str:
    """sha256 over the names, types, shapes and bytes of a model's parameters and buffers, in the order of names.

    It does not depend on the device, on hooks, or on how the file was written; it does depend on the dtype, since a
    float32 and a float64 copy of a model give different numbers.
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if not isinstance(value, torch.Tensor):
            continue
        digest.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
