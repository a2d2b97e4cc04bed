"""Iterative ways to the lowest eigenpair of a symmetric matrix, with the Ritz pair after every product.

Each function takes a `Case` and a generator for random starts and returns a list with (θ, |cos|) after 1, 2, …
products: the Ritz value, and the overlap of its vector with the exact lowest eigenvector.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

from hip_ext.labelling.probes import elastic_network
from hip_ext.refinement.search import lowest_modes
from hip_ext.refinement.space import MotionSpace

Array = NDArray[np.float64]
History = list[tuple[float, float]]

BOND = 30.0
"""eV/Å²: stiffness of a bond in the elastic network."""

GAMMA = 1e-3
"""Relative residual at which Sella's iteration ends; its eigenvalue is then good to much better than 1e-3."""

FINAL = 1e-6
"""Relative error of an eigenvalue beyond which nobody counts products."""

TINY = 1e-12
"""A vector that is zero."""


@dataclass(frozen=True, eq=False)
class Case:
    """A structure's matrices in mass-weighted coordinates without rigid motions, eV/(Å²·amu), [n, n].

    Attributes:
        exact: the exact Hessian A.
        predicted: the head's.
        network: that of an elastic network, a model Hessian without a potential.
        value: lowest eigenvalue of A.
        vector: its eigenvector, [n].
    """

    exact: Array
    predicted: Array
    network: Array
    value: float
    vector: Array

    @classmethod
    def of(cls, atoms: Atoms, exact: Array, predicted: Array) -> Case:
        """Projects the matrices, eV/Å², [3N, 3N]."""
        space = MotionSpace.of(atoms, np.zeros((len(atoms), 3)))

        def reduced(hessian: Array) -> Array:
            return np.asarray(space.basis.T @ space.weighted(hessian) @ space.basis)

        matrix = reduced(exact)
        values, vectors = np.linalg.eigh(matrix)
        network = reduced(BOND * elastic_network(atoms))
        return cls(matrix, reduced(predicted), network, float(values[0]), vectors[:, 0])


def corrected(case: Case, rng: np.random.Generator) -> History:
    """This package: the lowest unverified mode of the corrected prediction."""
    return _search(case, case.predicted)


def model_hessian(case: Case, rng: np.random.Generator) -> History:
    """The same with the elastic network as the prediction."""
    return _search(case, case.network)


def lanczos(case: Case, rng: np.random.Generator) -> History:
    """Lanczos with full orthogonalisation from a random start."""
    return _lanczos(case, rng.normal(size=len(case.exact)))


def lanczos_from_prediction(case: Case, rng: np.random.Generator) -> History:
    """Lanczos from the predicted lowest mode: the prediction as a start, and nothing more."""
    return _lanczos(case, np.linalg.eigh(case.predicted)[1][:, 0])


def lobpcg(case: Case, rng: np.random.Generator) -> History:
    """LOBPCG of one vector from a random start, without a preconditioner."""
    return _lobpcg(case, rng.normal(size=len(case.exact)), lambda residual: residual)


def lobpcg_with_prediction(case: Case, rng: np.random.Generator) -> History:
    """LOBPCG from the predicted lowest mode with |P|⁻¹ as preconditioner."""
    values, vectors = np.linalg.eigh(case.predicted)
    size = np.maximum(np.abs(values), 1e-2)
    return _lobpcg(case, vectors[:, 0], lambda residual: vectors @ ((vectors.T @ residual) / size))


def sella_plain(case: Case, rng: np.random.Generator) -> History:
    """Sella's Jacobi–Davidson iteration as it begins without a Hessian: identity, random start.

    Its correction is then the residual, so that it makes the products of `lanczos`; slow, and not among `METHODS`.
    """
    return _sella(case, np.eye(len(case.exact)), rng.normal(size=len(case.exact)))


def sella_with_prediction(case: Case, rng: np.random.Generator) -> History:
    """Sella's Jacobi–Davidson iteration with the prediction as its approximate Hessian."""
    return _sella(case, case.predicted, None)


METHODS: dict[str, Callable[[Case, np.random.Generator], History]] = {
    "corrected prediction (this package)": corrected,
    "Sella's Jacobi–Davidson, with the prediction": sella_with_prediction,
    "LOBPCG, with the prediction": lobpcg_with_prediction,
    "Lanczos from the predicted mode": lanczos_from_prediction,
    "the same search with an elastic network": model_hessian,
    "Lanczos": lanczos,
    "LOBPCG": lobpcg,
}


def products_needed(case: Case, history: History, relative: float, overlap: float = 0.0) -> int:
    """The first number of products with |θ − λ| ≤ relative·|λ| and the overlap, or one more than there were."""
    for made, (value, cosine) in enumerate(history, 1):
        if abs(value - case.value) <= relative * abs(case.value) and cosine >= overlap:
            return made
    return len(history) + 1


def _pairs(case: Case, directions: Array, products: Array) -> History:
    """Lowest Ritz pairs in the spans of the first 1, 2, … directions."""
    basis, upper = np.linalg.qr(directions)  # its first columns span the first directions
    images = np.linalg.solve(upper.T, products.T).T
    inside = basis.T @ images
    history = []
    for made in range(1, directions.shape[1] + 1):
        values, mixing = np.linalg.eigh((inside + inside.T)[:made, :made] / 2)
        history.append((float(values[0]), float(abs(case.vector @ basis[:, :made] @ mixing[:, 0]))))
        if abs(history[-1][0] - case.value) < FINAL * abs(case.value) and history[-1][1] > 1 - FINAL:
            break
    return history


def _search(case: Case, predicted: Array) -> History:
    size = len(case.exact)
    found = lowest_modes(predicted, lambda v: case.exact @ v, products=size, modes=1, tolerance=FINAL)
    return _pairs(case, found.directions, found.products)


def _lanczos(case: Case, start: Array) -> History:
    basis = np.zeros((len(start), 0))
    images = np.zeros((len(start), 0))
    new = start
    for _ in range(len(start)):
        for _ in range(2):
            new = new - basis @ (basis.T @ new)
            new = new / np.linalg.norm(new)
        basis = np.column_stack((basis, new))
        images = np.column_stack((images, case.exact @ new))
        new = images[:, -1] - basis @ (basis.T @ images[:, -1])
        if np.linalg.norm(new) < TINY * np.linalg.norm(images[:, -1]):
            break
    return _pairs(case, basis, images)


def _lobpcg(case: Case, start: Array, precondition: Callable[[Array], Array], most: int = 250) -> History:
    vector = start / np.linalg.norm(start)
    image, step = case.exact @ vector, None
    value = float(vector @ image)
    history = [(value, float(abs(case.vector @ vector)))]
    while len(history) < most:
        residual = precondition(image - value * vector)
        if np.linalg.norm(residual) < TINY:
            break
        columns, images = [vector, residual], [image, case.exact @ residual]
        if step is not None:
            columns, images = [*columns, step[0]], [*images, step[1]]
        basis, upper = np.linalg.qr(np.column_stack(columns))
        kept = np.linalg.solve(upper.T, np.column_stack(images).T).T
        inside = basis.T @ kept
        values, mixing = np.linalg.eigh((inside + inside.T) / 2)
        value, weights = float(values[0]), mixing[:, 0]
        # What the new vector has besides the old one is the direction that LOBPCG remembers.
        beside = weights - (vector @ basis @ weights) * (basis.T @ vector)
        step = (basis @ beside, kept @ beside) if np.linalg.norm(beside) > TINY else None
        vector, image = basis @ weights, kept @ weights
        history.append((value, float(abs(case.vector @ vector))))
    return history


def _sella(case: Case, predicted: Array, start: Array | None) -> History:
    from sella.eigensolvers import rayleigh_ritz

    size = len(case.exact)
    asked: list[Array] = []

    def multiply(vectors: Array) -> Array:
        asked.extend(np.atleast_2d(vectors.T))
        return np.asarray(case.exact @ vectors)

    operator = LinearOperator((size, size), matvec=multiply, matmat=multiply, dtype=np.float64)
    rayleigh_ritz(operator, GAMMA, predicted, v0=start, method="jd0", maxiter=size)
    directions = np.column_stack([vector.ravel() for vector in asked])[:, :size]
    return _pairs(case, directions, case.exact @ directions)
