"""A symmetric matrix corrected by some exact products.

Let P be a prediction of the symmetric matrix A, and let Y = AV be known for k orthonormal columns V. With Q = 1 − VVᵀ,

    P′ = QPQ + YVᵀ + VYᵀ − V(VᵀY)Vᵀ

is symmetric, has P′V = Y exactly, and of all such matrices is closest to P in the Frobenius norm: it is Powell's
symmetric Broyden (PSB) update with k secants at once. In the basis (V, V⊥) it replaces every block that the products
say something about and keeps the one that they do not:

    P′ = [ VᵀAV    VᵀAV⊥  ]
         [ V⊥ᵀAV   V⊥ᵀPV⊥ ]

Since A itself is one of those matrices, ‖A − P′‖² = ‖A − P‖² − ‖P′ − P‖²: a product never makes the error larger, and
the order of the products does not matter. Rules of the form PU = W that both P and the products keep are kept.

M. J. D. Powell, in Nonlinear Programming, 31 (1970), doi:10.1016/B978-0-12-597050-1.50006-3;
R. B. Schnabel, Quasi-Newton methods using multiple secant equations, CU-CS-247-83 (1983).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hip_ext.errors import DataError

Array = NDArray[np.float64]

DEPENDENT = 1e-9
"""Directions of which one has less than this part outside of the others are refused: rounding would be all of it."""


def with_products(matrix: Array, directions: Array, products: Array) -> Array:
    """The symmetric matrix closest to a given one that has given products (this module's P′).

    Args:
        matrix: symmetric, [n, n].
        directions: k linearly independent columns X, not necessarily orthonormal, [n, k].
        products: AX for a symmetric A, [n, k]. The antisymmetric part of XᵀAX is rounding noise, and is dropped.

    Returns:
        [n, n], exactly symmetric, whose product with X is AX.

    Raises:
        DataError: the shapes do not fit, a number is not finite, or the directions are not independent.
    """
    n = len(matrix)
    fits = matrix.shape == (n, n) and directions.ndim == 2 and len(directions) == n
    if not fits or products.shape != directions.shape:
        raise DataError(
            f"a matrix [n, n] with directions and products [n, k] expected, found {matrix.shape}, "
            f"{directions.shape} and {products.shape}"
        )
    if not all(np.isfinite(each).all() for each in (matrix, directions, products)):
        raise DataError("matrix, directions and products must be finite numbers")
    if directions.shape[1] == 0:
        return (matrix + matrix.T) / 2
    norms = np.linalg.norm(directions, axis=0)
    basis, upper = np.linalg.qr(directions / np.where(norms > 0, norms, 1.0))
    if directions.shape[1] > n or np.abs(np.diag(upper)).min() < DEPENDENT:
        raise DataError(f"the {directions.shape[1]} directions are not independent: leave out those that repeat others")
    return _with_orthonormal(matrix, basis, np.linalg.solve(upper.T, (products / norms).T).T)


def _with_orthonormal(matrix: Array, basis: Array, products: Array) -> Array:
    inside = basis.T @ products
    outside = products - basis @ inside
    left = matrix - basis @ (basis.T @ matrix)
    kept = left - (left @ basis) @ basis.T
    found = kept + (outside @ basis.T + basis @ outside.T) + basis @ inside @ basis.T
    symmetric: Array = (found + found.T) / 2
    return symmetric
