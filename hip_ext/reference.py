"""Exact Hessians of a backbone: what a predicted Hessian is trained on and measured against.

With E the energy and g = ∂E/∂x its gradient, one backward pass of g gives one row of H = ∂g/∂x or, since H is
symmetric, one product H·v. The structures of a batch do not see each other, so that one pass gives the same row of
every one of them. In a periodic structure an atom moves together with all its images: H is the Hessian at the Γ point
of the given cell.

    structures = Structures.from_ase(atoms)
    hessian = autograd_hessian(backbone, structures)  # [3N, 3N], eV/Å²
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import BaseCalculator
from numpy.typing import NDArray
from torch import Tensor

from hip_ext.backbones.base import Backbone
from hip_ext.errors import BackboneError, ConfigError, StructureError
from hip_ext.structures import Structures

Method = Literal["auto", "loop", "vmap"]
ForceFunction = Callable[[NDArray[np.float64]], NDArray[np.float64]]

SMALL = 5
"""Up to so many atoms most of the time of a pass on a CPU is overhead."""

CPU_ROW_ATOMS, CUDA_ROW_ATOMS = 256, 1024
"""Rows times atoms of one vectorised pass; each needs 0.5 MB (SO3LR) to 2 MB (MACE, 64 channels) in float32."""


def autograd_hessian(
    backbone: Backbone, structures: Structures, method: Method = "auto", chunk: int | None = None
) -> Tensor:
    """The exact Hessian of one structure by automatic differentiation; also inside `torch.no_grad()`.

    Args:
        backbone: gives the energy; its parameters, their gradients and their flags are left alone.
        structures: a batch of one.
        method: see `autograd_hessians`.
        chunk: see `autograd_hessians`.

    Returns:
        [3N, 3N] in eV/Å², symmetric, in the backbone's dtype and on its device.

    Raises:
        StructureError: there is not exactly one structure, or it cannot be used.
        BackboneError: an element is unknown, the energy cannot be differentiated twice, the Hessian is not finite, or
            the model does not support method="vmap".
        ConfigError: `method` or `chunk` is out of range.
    """
    if structures.num_systems != 1:
        raise StructureError(
            f"one structure expected, found {structures.num_systems}: use autograd_hessians for a batch"
        )
    return autograd_hessians(backbone, structures, method, chunk)[0]


def autograd_hessians(
    backbone: Backbone, structures: Structures, method: Method = "auto", chunk: int | None = None
) -> list[Tensor]:
    """The exact Hessian of every structure of a batch, from 3·max(n) backward passes for all of them together.

    Which method is faster depends on the model. CPU seconds of one thread in float32, for alkanes; SO3LR, and a MACE of
    64 channels, l ≤ 1 and two layers; the last column is a batch of eight by the loop, for one structure of it:

        atoms    SO3LR: loop  vmap  of 8     MACE: loop  vmap  of 8
        5               0.27  0.07  0.05           0.55  0.78  0.15
        8               0.42  0.13  0.11           0.78  1.40  0.45
        20              1.46  0.82  0.93           3.79  9.65  4.31
        41              3.95  3.13                 16.5  34.5

    In float64 vmap loses more: 1.40 against 0.64 s for MACE at 5 atoms. So on a CPU "auto" is vmap for up to 5 atoms in
    the batch, where the overhead of a pass is most of its time, and otherwise the loop, which needs no more memory than
    the forces; batches pay for small structures. On a CUDA device, where every pass is overhead for longer, it is vmap;
    this was not measured. The choice depends on nothing else, so that a result can be repeated bit for bit.

    Args:
        backbone: as in `autograd_hessian`.
        structures: B structures of any sizes.
        method: "loop" makes one backward pass a row, "vmap" one vectorised pass for `chunk` rows, "auto" chooses, and
            goes back to the loop with a warning where a model does not support vmap.
        chunk: rows of a vectorised pass; by default so many that it needs about 2 GB for that MACE on a CUDA device,
            whatever the number of atoms, and a quarter of that on a CPU.

    Returns:
        B matrices [3n, 3n] as `autograd_hessian` returns them.

    Raises:
        StructureError, BackboneError, ConfigError: as `autograd_hessian`.
    """
    gradient = _gradient(backbone, structures)
    starts, device = structures.ptr.tolist(), gradient.value.device
    sizes = structures.sizes
    local = torch.cat([torch.arange(size, device=device) for size in sizes])
    axes = torch.eye(3).to(gradient.value)

    def unit_vectors(start: int, stop: int) -> Tensor:
        row = torch.arange(start, stop, device=device)
        return (local == (row // 3)[:, None])[:, :, None] * axes[row % 3][:, None, :]

    rows = _products(gradient, unit_vectors, 3 * max(sizes), method, chunk)
    blocks = [rows[: 3 * n, start : start + n].reshape(3 * n, 3 * n) for start, n in zip(starts, sizes, strict=False)]
    return [(block + block.T) / 2 for block in blocks]


def hessian_vector_product(backbone: Backbone, structures: Structures, vectors: Tensor) -> Tensor:
    """H·v for all structures of a batch at once without making H: two backward passes, K + 1 for K vectors.

    Args:
        backbone: as in `autograd_hessian`.
        structures: a batch with N atoms in all.
        vectors: [N, 3] or [K, N, 3].

    Returns:
        H·v in the shape of `vectors`, eV/Å² times their unit, in the backbone's dtype and on its device.

    Raises:
        StructureError: the vectors do not fit the atoms.
        BackboneError: as in `autograd_hessian`.
    """
    return HessianProducts(backbone, structures)(vectors)


class HessianProducts:
    """H·v for one vector after another, where each is chosen by what the last ones gave.

    The gradient is made once, with its graph, which stays in memory as long as this object: K products cost K + 1
    backward passes, in however many calls.

    Args:
        backbone: as in `autograd_hessian`.
        structures: a batch with N atoms in all.

    Raises:
        StructureError, BackboneError: as in `autograd_hessian`.
    """

    def __init__(self, backbone: Backbone, structures: Structures) -> None:
        self._gradient = _gradient(backbone, structures)

    @property
    def gradient(self) -> Tensor:
        """∂E/∂x, eV/Å, [N, 3]."""
        return self._gradient.value.detach()

    def __call__(self, vectors: Tensor) -> Tensor:
        """See `hessian_vector_product`."""
        n = len(self._gradient.value)
        if vectors.ndim not in (2, 3) or vectors.shape[-2:] != (n, 3):
            raise StructureError(f"vectors have shape {list(vectors.shape)}, expected [{n}, 3] or [K, {n}, 3]")
        many = vectors.detach().to(self._gradient.value).reshape(-1, n, 3)

        def given(start: int, stop: int) -> Tensor:
            return many[start:stop]

        return _products(self._gradient, given, len(many), "auto", None).reshape(vectors.shape)


class FiniteDifferenceHessian(NamedTuple):
    """A Hessian from central differences of forces, and how far to trust it.

    Attributes:
        hessian: the symmetrised matrix, [3N, 3N], eV/Å².
        error: root mean square over i ≠ j of (A − Aᵀ)/2, A the matrix before symmetrisation, eV/Å². As far as the
            errors of A_ij and A_ji are independent, this is also the error of an element of the symmetrised matrix. It
            sees noise of the forces well, and an error of the step only in part: compare two steps for that.
    """

    hessian: NDArray[np.float64]
    error: float


def finite_difference_hessian(
    forces: ForceFunction | BaseCalculator, atoms: Atoms, step: float = 0.005
) -> FiniteDifferenceHessian:
    """Central differences of forces, H_ij = −(F_j(x + h e_i) − F_j(x − h e_i)) / 2h, with 6N evaluations.

    Args:
        forces: a function from positions [N, 3] in Å to forces [N, 3] in eV/Å, or an ASE calculator.
        atoms: the structure; it is not changed, and its constraints are not applied.
        step: h in Å.

    Raises:
        StructureError: the structure cannot be used.
        ConfigError: the step is not a positive number.
        BackboneError: the forces have a wrong shape or are not finite.
    """
    Structures.from_ase(atoms)
    if not (np.isfinite(step) and step > 0):
        raise ConfigError(f"step is {step}, expected a positive length in Å such as 0.005")
    n = len(atoms)
    rows = np.empty((3 * n, 3 * n))
    for row in range(3 * n):
        displaced = []
        for sign in (1.0, -1.0):
            moved = atoms.copy()
            moved.positions[row // 3, row % 3] += sign * step
            displaced.append(_forces_at(forces, moved))
        rows[row] = (displaced[1] - displaced[0]).ravel() / (2 * step)
    asymmetry = (rows - rows.T) / 2
    error = float(np.sqrt((asymmetry**2).sum() / (3 * n * (3 * n - 1))))
    return FiniteDifferenceHessian((rows + rows.T) / 2, error)


class _Gradient(NamedTuple):
    """∂E/∂x with the graph that leads back to the positions x, both [N, 3]."""

    positions: Tensor
    value: Tensor
    kind: str


def _gradient(backbone: Backbone, structures: Structures) -> _Gradient:
    with torch.inference_mode(False), torch.enable_grad():
        # Copies, because a tensor made in inference mode cannot enter a graph.
        fields = {name: getattr(structures, name).clone() for name in Structures.__dataclass_fields__}
        inputs = backbone.prepare(Structures(**fields).to(backbone.device))
        positions = inputs["positions"].detach().requires_grad_(True)
        energy = backbone.energy({**inputs, "positions": positions}).sum()
        if energy.requires_grad:
            (gradient,) = torch.autograd.grad(energy, positions, create_graph=True, allow_unused=True)
            if gradient is not None and gradient.requires_grad:
                return _Gradient(positions, gradient, backbone.kind)
        if max(structures.sizes) > 1:
            raise BackboneError(
                f"the energy of the {backbone.kind} backbone cannot be differentiated twice: every step from "
                'inputs["positions"] to the result of `energy` must be differentiable'
            )
        # The energy of lone atoms need not depend on where they are.
        return _Gradient(positions, 0.0 * positions, backbone.kind)


def _products(
    gradient: _Gradient, vectors: Callable[[int, int], Tensor], count: int, method: Method, chunk: int | None
) -> Tensor:
    """H·v for `count` vectors [N, 3], of which `vectors(a, b)` makes a to b; [count, N, 3]."""
    rows_at_once = _rows_at_once(gradient.positions, count, method, chunk)
    with torch.inference_mode(False):
        result = gradient.value.new_empty(count, *gradient.value.shape)
        try:
            _fill(result, gradient, vectors, rows_at_once)
        except RuntimeError as error:
            if rows_at_once == 1:
                raise
            reason = f"the {gradient.kind} backbone cannot do vectorised backward passes ({str(error).splitlines()[0]})"
            if method == "vmap":
                raise BackboneError(f'{reason}: use method="loop"') from error
            warnings.warn(f"{reason}: going row by row", stacklevel=3)
            _fill(result, gradient, vectors, 1)
    if not bool(torch.isfinite(result).all()):
        raise BackboneError(f"the {gradient.kind} backbone gives second derivatives that are not finite here")
    return result


def _fill(result: Tensor, gradient: _Gradient, vectors: Callable[[int, int], Tensor], rows_at_once: int) -> None:
    for start in range(0, len(result), rows_at_once):
        many = vectors(start, min(start + rows_at_once, len(result)))
        batched = rows_at_once > 1
        (result[start : start + len(many)],) = torch.autograd.grad(
            gradient.value,
            gradient.positions,
            many if batched else many[0],
            retain_graph=True,
            is_grads_batched=batched,
            materialize_grads=True,
        )


def _rows_at_once(positions: Tensor, count: int, method: Method, chunk: int | None) -> int:
    """Rows of one backward pass; 1 means the loop."""
    if method not in get_args(Method):
        raise ConfigError(f"method is {method!r}, expected one of {', '.join(get_args(Method))}")
    if chunk is not None and chunk < 1:
        raise ConfigError(f"chunk is {chunk}, expected at least one row")
    n = len(positions)
    # The three rows of a lone atom are not worth a vectorised pass, and some models cannot do one without edges.
    if method == "loop" or count <= 3 or (method == "auto" and not positions.is_cuda and n > SMALL):
        return 1
    budget = CUDA_ROW_ATOMS if positions.is_cuda else CPU_ROW_ATOMS
    return min(count, max(1, budget // n) if chunk is None else chunk)


def _forces_at(forces: ForceFunction | BaseCalculator, atoms: Atoms) -> NDArray[np.float64]:
    # A copy, because some calculators hand out their own array and fill it again at the next call.
    computed = forces.get_forces(atoms) if isinstance(forces, BaseCalculator) else forces(atoms.positions)
    found = np.array(computed, dtype=np.float64)
    if found.shape != atoms.positions.shape:
        raise BackboneError(f"the forces have shape {found.shape}, expected {atoms.positions.shape}")
    if not np.isfinite(found).all():
        raise BackboneError("the forces at a displaced geometry are not finite: check the structure and the calculator")
    return found
