"""Predicted Hessians, corrected and checked by a few exact products H·v.

refined = refine(model, atoms, modes=1)         # the lowest mode, exact to 1e-3, after a handful of products
refined.hessian                                 # [3N, 3N], eV/Å², agrees with every product that was made
estimate_error(model, atoms, products=2).rms    # root mean square error of the predicted entries, eV/Å²

A prediction is cheap and wrong by a few per cent, a product exact and as dear as two or three forces, the whole exact
matrix 3N products. Used together, the prediction says along which v a product is worth its price:

- `update`: what a matrix becomes when some of its products are known: the closest symmetric matrix that has them;
- `search`: which product to make next, so that the lowest eigenpairs become exact, and when to stop;
- `space`: mass-weighted coordinates, and the rigid motions, whose products are known for nothing;
- `refined`: the three together, for a model and a structure;
- `error`: the size of the error of the whole matrix from random products.
"""

from hip_ext.refinement.error import ErrorEstimate, estimate_error
from hip_ext.refinement.refined import Refinement, refine, refine_matrix
from hip_ext.refinement.request import Refine, limits
from hip_ext.refinement.search import SOFT, TOLERANCE
from hip_ext.refinement.update import with_products

__all__ = [
    "SOFT",
    "TOLERANCE",
    "ErrorEstimate",
    "Refine",
    "Refinement",
    "estimate_error",
    "limits",
    "refine",
    "refine_matrix",
    "with_products",
]
