"""A small equivariant potential in Cartesian form, and its adapter for hip-ext in `cartnet.hessian`."""

from cartnet.calculator import CartNetCalculator
from cartnet.model import CartNet, released

__all__ = ["CartNet", "CartNetCalculator", "released"]
