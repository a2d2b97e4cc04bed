"""How wrong a predicted Hessian is, from a few exact products along random directions.

With E = P − H the unknown error and v a vector of independent random signs ±1, the mean of vvᵀ is the identity, so that

    mean of ‖Ev‖² = trace EᵀE = ‖E‖²,      mean of (Ev)_i² = Σ_j E_ij²

is an estimate of the squared Frobenius norm without a bias, whatever E is, and of every row of it; Hv is one exact
product (M. F. Hutchinson, Commun. Stat. Simul. Comput. 19, 433 (1990), doi:10.1080/03610919008812866). The same
products estimate ‖H‖, hence the relative error. With p products the relative spread of ‖Ev‖² is at most √(2/p), and
smaller the more independent parts E has; `benchmarks/refinement.py` measures it.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np
import torch
from ase import Atoms

from hip_ext.errors import ConfigError
from hip_ext.reference import HessianProducts
from hip_ext.refinement.update import Array
from hip_ext.vibrations.eckart import checked_hessian

if TYPE_CHECKING:
    from hip_ext.model import HessianModel


@dataclass(frozen=True, eq=False)
class ErrorEstimate:
    """An estimate of the error of a matrix of (3N)² entries.

    Attributes:
        rms: root mean square of the error of an entry, eV/Å².
        relative: the same as a part of the root mean square entry of the exact Hessian.
        atoms: root mean square of the error of an entry in the three rows of each atom, eV/Å², [N].
        products: exact products that were made.
    """

    rms: float
    relative: float
    atoms: Array
    products: int


def estimate_error(
    model: HessianModel, atoms: Atoms, products: int = 2, seed: int = 0, *, hessian: Array | None = None
) -> ErrorEstimate:
    """Estimates the error of a model's direct Hessian against its own backbone's exact one.

    Args:
        model: a backbone with a head.
        atoms: one structure.
        products: how many exact products; one to three are enough to tell good predictions from bad ones.
        seed: of the random directions.
        hessian: the matrix to be judged where it is another one, e.g. a refined one, eV/Å², [3N, 3N].

    Raises:
        ConfigError: `products` is not a positive whole number.
        DataError: `hessian` is no Hessian of this structure.
        StructureError: the structure cannot be used.
        BackboneError: the backbone does not know an element, or its energy cannot be differentiated twice.
    """
    structures = model.structures(atoms)
    vectors = random_signs(len(atoms), products, seed)
    if hessian is None:
        hessian = model.hessian(structures).dense().double().cpu().numpy()
    exact = HessianProducts(model.backbone, structures)(torch.as_tensor(vectors))
    return error_from_products(checked_hessian(hessian, len(atoms)), vectors, exact.double().cpu().numpy())


def random_signs(atoms: int, products: int, seed: int = 0) -> Array:
    """Directions with entries ±1, [p, N, 3].

    Raises:
        ConfigError: `products` is not a positive whole number.
    """
    if isinstance(products, bool) or not isinstance(products, Integral) or products < 1:
        raise ConfigError(f"products is {products!r}, expected a whole number from 1")
    return np.random.default_rng(seed).choice([-1.0, 1.0], size=(products, atoms, 3))


def error_from_products(predicted: Array, vectors: Array, exact: Array) -> ErrorEstimate:
    """The estimate for any matrix and products that are there already.

    Args:
        predicted: eV/Å², [3N, 3N].
        vectors: from `random_signs`, [p, N, 3].
        exact: exact H·v of each, eV/Å², [p, N, 3].
    """
    p, n, _ = vectors.shape
    flat = vectors.reshape(p, 3 * n)
    errors = (flat @ predicted.T).reshape(p, n, 3) - exact
    squares = (errors**2).mean(axis=(0, 2)) / (3 * n)
    size = (exact**2).mean() / (3 * n)
    rms = float(np.sqrt(squares.mean()))
    return ErrorEstimate(rms, rms / float(np.sqrt(size)) if size > 0 else 0.0, np.sqrt(squares), p)
