"""A direct Hessian for any equivariant interatomic potential.

    atoms → backbone → node features up to l = 2 → head → 3×3 blocks → Hessian (3N × 3N, eV/Å²)

The public names below are imported when they are first used, so that `import hip_ext` costs next to nothing and loads
neither torch nor any framework.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hip_ext.blocks import HessianBlocks
    from hip_ext.calculator import HessianCalculator
    from hip_ext.features import NodeFeatures
    from hip_ext.head import HeadConfig, HessianHead
    from hip_ext.model import HessianModel, attach_head, from_pretrained
    from hip_ext.structures import Structures

    __version__: str

__all__ = [
    "HeadConfig",
    "HessianBlocks",
    "HessianCalculator",
    "HessianHead",
    "HessianModel",
    "NodeFeatures",
    "Structures",
    "__version__",
    "attach_head",
    "from_pretrained",
]

_HOMES = {
    "HeadConfig": "hip_ext.head",
    "HessianBlocks": "hip_ext.blocks",
    "HessianCalculator": "hip_ext.calculator",
    "HessianHead": "hip_ext.head",
    "HessianModel": "hip_ext.model",
    "NodeFeatures": "hip_ext.features",
    "Structures": "hip_ext.structures",
    "attach_head": "hip_ext.model",
    "from_pretrained": "hip_ext.model",
}


def __getattr__(name: str) -> object:
    """Imports a public name from the module where it lives (PEP 562), once."""
    if name == "__version__":
        from hip_ext.version import version

        value: object = version()
    elif name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'hip_ext' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, imported or not, beside what is there already."""
    return sorted({*globals(), *__all__})
