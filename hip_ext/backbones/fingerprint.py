"""What makes a model recognisable: a digest over everything that it computes with."""

import hashlib

import torch
from torch import nn

LISTED_IN_COPIES = "_tensor_constant"
"""Constants of TorchScript code: a state dict has them only after the code has been copied or pickled."""


def fingerprint(model: nn.Module) -> str:
    """sha256 over the names, shapes and values of a model's parameters and buffers, in the order of names.

    Real numbers are rounded to float32 first, so that a model and its float64 copy are one and the same; device,
    hooks, and how the file was written make no difference either.
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if not isinstance(value, torch.Tensor) or LISTED_IN_COPIES in name:
            continue
        stored = value.detach().cpu()
        stored = stored.float() if stored.is_floating_point() else stored
        digest.update(f"{name}|{stored.dtype}|{tuple(stored.shape)}|".encode())
        digest.update(stored.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
