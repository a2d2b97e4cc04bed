"""Which exact product to make next, so that the lowest eigenpairs of a symmetric matrix become exact soonest.

Let P predict A, let Y = AV be the products made so far, and P′ the prediction corrected by them
(`hip_ext.refinement.update`). Its i-th lowest eigenpair, P′u = λ′u, is the best present guess of that of A. The part of
u inside V is what is known of it exactly; the next product is made along the part outside of V:

    t = Q u,    Q = 1 − VVᵀ,    (QPQ − λ′) t = −Q A V Vᵀu.

The right-hand side is the residual, outside of V, of the vector that V holds, so that t is the correction of the
Jacobi–Davidson method with all of V deflated, the prediction as preconditioner, and its shift λ′ chosen by itself: no
linear system is solved, and none becomes singular when the shift meets an eigenvalue of P. A good prediction makes t
almost all that is missing; with P a multiple of the identity t is the residual itself, and the method is Lanczos'.

Two numbers enclose what is known. By the min–max theorem the i-th lowest Ritz value θ, an eigenvalue of VᵀAV, is never
below the i-th eigenvalue λ of A; by interlacing λ′ ≤ θ. Their difference θ − λ′ is what the prediction, where no
product has been made, still promises to gain: zero when the eigenpair is exact, and large when P has a soft mode in
store that A may not have. It is the measure of convergence: it finds modes that the prediction has in the wrong order,
since the next product always goes along the lowest direction that is not verified. Beside it stands the residual
‖Au − θu‖, which needs no prediction: some eigenvalue of A is within it of θ.

What neither can see is a soft mode of A that P believes stiff and that has no part in V; no method that makes fewer
than all products can.

E. R. Davidson, J. Comput. Phys. 17, 87 (1975), doi:10.1016/0021-9991(75)90065-0; G. L. G. Sleijpen and H. A. van der
Vorst, SIAM J. Matrix Anal. Appl. 17, 401 (1996), doi:10.1137/S0895479894270427.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hip_ext.refinement.update import Array, with_products

Multiply = Callable[[Array], Array]

TOLERANCE = 1e-3
"""An eigenvalue λ counts as exact when what may still be gained is below this part of |λ|."""

SOFT = 0.01
"""eV/(Å²·amu): smaller |λ| (52 cm⁻¹) are taken as this large, since a mode at zero has no relative error."""

NOTHING = 1e-6
"""A unit vector with less than this outside of what is known needs no product."""


@dataclass(frozen=True, eq=False)
class Search:
    """What the products made so far say.

    Attributes:
        directions: orthonormal V, [n, k].
        products: AV, [n, k].
        values: Ritz values θ in rising order, upper bounds of the k lowest eigenvalues of A, [k].
        vectors: Ritz vectors in columns, [n, k].
        residuals: ‖Au − θu‖ of each, [k].
        gains: θ − λ′ of each, what the prediction promises to be found still, [k].
        passes: how often A was asked, for one vector or several at a time.
    """

    directions: Array
    products: Array
    values: Array
    vectors: Array
    residuals: Array
    gains: Array
    passes: int

    def exact(self, tolerance: float) -> NDArray[np.bool_]:
        """Which eigenpairs are exact to a relative tolerance, [k]."""
        return np.asarray(self.gains <= tolerance * np.maximum(np.abs(self.values), SOFT))


def lowest_modes(
    predicted: Array,
    multiply: Multiply,
    *,
    products: int,
    modes: int | None = None,
    tolerance: float = TOLERANCE,
    block: int = 1,
) -> Search:
    """Makes exact products until the lowest eigenpairs are exact, lowest first.

    Args:
        predicted: P, symmetric, [n, n].
        multiply: A times the columns of a matrix, [n, b] → [n, b], b at most `block`.
        products: end after so many; n of them make A known altogether.
        modes: end when so many of the lowest eigenpairs are exact; by default go on until `products` are made.
        tolerance: see `Search.exact`.
        block: products of a pass. More than one is worth it where a pass of several costs little more than a pass of
            one, and several modes are wanted; in number of products it costs a little.
    """
    n = len(predicted)
    wanted = n if modes is None else min(modes, n)
    levels, guesses = np.linalg.eigh(predicted)
    found = _known(levels, np.zeros((n, 0)), np.zeros((n, 0)), 0)
    while (made := found.directions.shape[1]) < min(products, n):
        exact = np.zeros(n, dtype=bool)
        exact[:made] = found.exact(tolerance)
        if exact[:wanted].all():
            break
        new = _outside(guesses[:, :wanted][:, ~exact[:wanted]], found.directions, min(block, products - made))
        if new.shape[1] == 0:
            break
        directions = np.hstack((found.directions, new))
        images = np.hstack((found.products, multiply(new)))
        levels, guesses = np.linalg.eigh(with_products(predicted, directions, images))
        found = _known(levels, directions, images, found.passes + 1)
    return found


def _known(levels: Array, directions: Array, images: Array, passes: int) -> Search:
    inside = directions.T @ images
    values, mixing = np.linalg.eigh((inside + inside.T) / 2)
    vectors = directions @ mixing
    residuals = np.linalg.norm(images @ mixing - vectors * values, axis=0)
    return Search(directions, images, values, vectors, residuals, values - levels[: len(values)], passes)


def _outside(candidates: Array, known: Array, most: int) -> Array:
    """Up to `most` orthonormal columns: what the candidates, in their order, add to the known directions."""
    basis, start = known, known.shape[1]
    for vector in candidates.T:
        if basis.shape[1] - start == most:
            break
        new = vector - basis @ (basis.T @ vector)
        size = np.linalg.norm(new)
        if size > NOTHING:
            new = new / size
            # Once more, since the first subtraction leaves rounding errors of the size of what it took away.
            new = new - basis @ (basis.T @ new)
            basis = np.column_stack((basis, new / np.linalg.norm(new)))
    added: Array = basis[:, start:]
    return added
