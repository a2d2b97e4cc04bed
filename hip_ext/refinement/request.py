"""How a refinement is asked for in one word: a number of exact products, or "lowest"."""

from __future__ import annotations

from numbers import Integral
from typing import Literal

from hip_ext.errors import ConfigError

Refine = int | Literal["lowest"]


def limits(refine: Refine) -> dict[str, int]:
    """The same as arguments of `hip_ext.refinement.refine`; nothing where no product is to be made.

    Raises:
        ConfigError: neither a whole number from 0 nor "lowest".
    """
    if refine == "lowest":
        return {"modes": 1}
    if isinstance(refine, bool) or not isinstance(refine, Integral) or refine < 0:
        raise ConfigError(f'refine is {refine!r}, expected a number of exact products, or "lowest"')
    return {"products": int(refine)} if refine else {}
