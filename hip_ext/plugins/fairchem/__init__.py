"""The Hessian head inside fairchem-core: its registry, its YAML, its command line, its calculator.

Nothing here is imported by `hip_ext`; importing one of the names below imports fairchem, which takes many seconds.

unit = load_predict_unit("checkpoint.pt"); attach(unit, head)    # fairchem.core and this package
DirectHessianCalculator(unit, task_name="omol").get_hessian(atoms)
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch

# Beside MACE there is e3nn 0.4, whose tables hold slices; with these allowed, torch's safe loading reads them.
torch.serialization.add_safe_globals([slice])

_PLACES = {
    "DirectHessianCalculator": "calculator",
    "DirectHessianHead": "head",
    "HessianDataset": "dataset",
    "HessianHydraModel": "model",
    "HessianTrainEvalUnit": "unit",
    "add_hessian_head": "finetune",
    "attach": "attachment",
    "hessian_model": "attachment",
    "unpadded": "layout",
    "write_database": "database",
}

__all__ = sorted(_PLACES)


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
