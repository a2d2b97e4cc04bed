"""The Hessian of a structure, predicted, then corrected along the modes that matter.

The prediction first gets what is known for nothing, the products of the rigid motions, then those that a search for its
lowest modes makes (`hip_ext.refinement.search`). The matrix that comes out

- has every one of these products, to rounding: HX is exact for all X asked about, and all rigid motions;
- has the lowest eigenpairs of the exact Hessian, as far as they converged;
- is no further from the exact one than the prediction was (Frobenius norm, mass-weighted), whatever the prediction;
- turns with the structure and obeys the sum rules, since everything that enters does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from hip_ext.errors import ConfigError
from hip_ext.reference import HessianProducts
from hip_ext.refinement.search import TOLERANCE, Search, lowest_modes
from hip_ext.refinement.space import MotionSpace
from hip_ext.refinement.update import Array, with_products
from hip_ext.vibrations.eckart import checked_hessian

if TYPE_CHECKING:
    from hip_ext.model import HessianModel

Products = Callable[[Array], Array]


@dataclass(frozen=True, eq=False)
class Refinement:
    """A corrected Hessian and how far it can be trusted.

    Attributes:
        hessian: eV/Å², symmetric, [3N, 3N].
        products: exact products H·v that were made.
        passes: in how many passes; as many as products, unless several were made at a time.
        eigenvalues: of the lowest modes within what the products span, eV/(Å²·amu), rising, [k]. Upper bounds of the k
            lowest eigenvalues of the exact matrix.
        residuals: ‖Aq − λq‖ of each with A the exact mass-weighted matrix, eV/(Å²·amu), [k]; some eigenvalue of A lies
            within it of λ.
        gains: how far each may still fall, by the prediction, eV/(Å²·amu), [k].
        modes: the displacements that belong to them, orthonormal when multiplied by √m, amu^(−½), [k, N, 3].
        exact: which of them are exact to the tolerance, [k].
        converged: whether all modes that were asked for are; without a number of modes, whether the lowest one is.
    """

    hessian: Array
    products: int
    passes: int
    eigenvalues: Array
    residuals: Array
    gains: Array
    modes: Array
    exact: NDArray[np.bool_]
    converged: bool


def refine(
    model: HessianModel,
    atoms: Atoms,
    products: int | None = None,
    *,
    modes: int | None = None,
    tolerance: float = TOLERANCE,
    block: int = 1,
) -> Refinement:
    """Predicts the Hessian of a structure and corrects it with exact products, by automatic differentiation.

    A product costs one backward pass, and the first one an energy and its gradient besides. They are exact in the
    backbone's dtype.

    Args:
        model: a backbone with a head.
        atoms: one structure; modes are those of its masses, with atoms of `FixAtoms` at rest.
        products: at most so many; by default as many as the modes need. As many as there are modes make an exact
            Hessian.
        modes: stop when so many of the lowest are exact; by default one, or as many as `products` allow where those
            are given.
        tolerance: relative, of an eigenvalue: half of it is that of a frequency; see `Search.exact`.
        block: products of a pass; see `lowest_modes`.

    Raises:
        ConfigError: a number is out of range.
        StructureError: the structure cannot be used.
        BackboneError: the backbone does not know an element, or its energy cannot be differentiated twice.
    """
    _check(products, modes, tolerance, block)
    structures = model.structures(atoms)
    predicted = model.hessian(structures).dense().double().cpu().numpy()
    exact = HessianProducts(model.backbone, structures)

    def multiply(vectors: Array) -> Array:
        return exact(torch.as_tensor(vectors)).double().cpu().numpy()

    gradient = exact.gradient.double().cpu().numpy()
    return refine_matrix(atoms, predicted, multiply, gradient, products, modes=modes, tolerance=tolerance, block=block)


def refine_matrix(
    atoms: Atoms,
    predicted: Array,
    multiply: Products,
    gradient: Array,
    products: int | None = None,
    *,
    modes: int | None = None,
    tolerance: float = TOLERANCE,
    block: int = 1,
) -> Refinement:
    """Corrects any approximate Hessian with exact products from anywhere, e.g. a guess with differences of DFT forces.

    Args:
        atoms: N atoms.
        predicted: eV/Å², symmetric, [3N, 3N].
        multiply: exact H·v of displacements [b, N, 3], in the same shape; b at most `block`.
        gradient: ∂E/∂x of the same energy, eV/Å, [N, 3].
        products: see `refine`, like what follows.
        modes: see `refine`.
        tolerance: see `refine`.
        block: see `refine`.

    Raises:
        ConfigError: a number is out of range.
        DataError: the prediction has another shape, is not finite or not symmetric.
        StructureError: the structure cannot be used.
    """
    _check(products, modes, tolerance, block)
    space = MotionSpace.of(atoms, gradient)
    prediction = space.weighted(checked_hessian(predicted, len(atoms)))
    corrected = with_products(prediction, space.rigid, space.rigid_products)
    asked: list[Array] = []
    found: list[Array] = []

    def weighted_products(reduced: Array) -> Array:
        motions = space.basis @ reduced
        displacements = (motions / space.root[:, None]).T.reshape(-1, len(atoms), 3)
        images = multiply(displacements).reshape(len(displacements), len(space.root)).T / space.root[:, None]
        images = space.consistent(motions, images)
        asked.append(motions)
        found.append(images)
        return np.asarray(space.basis.T @ images)

    size = space.basis.shape[1]
    search = lowest_modes(
        space.basis.T @ corrected @ space.basis,
        weighted_products,
        products=size if products is None else products,
        modes=1 if products is None and modes is None else modes,
        tolerance=tolerance,
        block=block,
    )
    if asked:
        corrected = with_products(prediction, *space.with_rigid(np.hstack(asked), np.hstack(found)))
    return _result(space, corrected, search, tolerance, modes)


def _result(space: MotionSpace, matrix: Array, search: Search, tolerance: float, modes: int | None) -> Refinement:
    exact = search.exact(tolerance)
    wanted = min(1 if modes is None else modes, space.basis.shape[1])
    displacements = (space.basis @ search.vectors) / space.root[:, None]
    return Refinement(
        hessian=space.cartesian(matrix),
        products=len(search.values),
        passes=search.passes,
        eigenvalues=search.values,
        residuals=search.residuals,
        gains=search.gains,
        modes=displacements.T.reshape(-1, len(space.root) // 3, 3),
        exact=exact,
        converged=len(exact) >= wanted and bool(exact[:wanted].all()),
    )


def _check(products: int | None, modes: int | None, tolerance: float, block: int) -> None:
    for name, value, least in (("products", products, 0), ("modes", modes, 1), ("block", block, 1)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, Integral) or value < least):
            raise ConfigError(f"{name} is {value!r}, expected a whole number from {least}")
    if not (np.isfinite(tolerance) and tolerance > 0):
        raise ConfigError(f"tolerance is {tolerance}, expected a positive number such as {TOLERANCE}")
