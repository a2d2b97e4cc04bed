"""How far a result can be trusted: each check is a number beside a stated limit.

    residual force     the largest force; away from a stationary point frequencies mean little
    translations       |H·t| of the unit translations, zero for every exact Hessian
    rotations          |H·r − w × g| of the unit rotations r, w × g being how the gradient turns: zero likewise
    lowest mode        wavenumber of the lowest mode x by the Hessian that made it, against xᵀH x with the exact H

The last needs one exact Hessian-vector product, two backward passes, whatever the size of the molecule. xᵀHx is never
below the lowest exact eigenvalue, so a mode found imaginary in this way is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from hip_ext.errors import DataError
from hip_ext.vibrations.eckart import as_numbers
from hip_ext.vibrations.modes import IMAGINARY_THRESHOLD, INVERSE_CM, Vibrations
from hip_ext.vibrations.stationary import FORCE_LIMIT

TRANSLATION_LIMIT = 0.02
"""eV/Å²; float32 leaves some 1e-4."""

ROTATION_LIMIT = 0.2
"""eV/Å²: about the force constant of a mode of 100 cm⁻¹."""

LOWEST_MODE_LIMIT = 20.0
"""cm⁻¹ by which the lowest mode may differ from the exact wavenumber along the same direction."""


@dataclass(frozen=True)
class Flag:
    """One check of a result.

    Attributes:
        name: which check.
        ok: whether it was passed.
        text: the finding in one line, with its limit.
        concerns: what is at fault where it fails: the geometry, or the Hessian.
        value: the number found, in `unit`; None where the check could not be made.
        limit: the largest that passes.
        unit: of both.
    """

    name: str
    ok: bool
    text: str
    concerns: Literal["geometry", "hessian"]
    value: float | None
    limit: float
    unit: str


@dataclass(frozen=True)
class LowestMode:
    """The lowest mode x (xᵀMx = 1) and what the exact Hessian H says about it.

    Attributes:
        predicted: cm⁻¹, of the Hessian that made the mode; imaginary as a negative number.
        exact: cm⁻¹, of xᵀHx.
        residual: |M^(−½) (H − λM) x| in eV/Å²/amu: an exact eigenvalue lies this near the predicted one, λ.
    """

    predicted: float
    exact: float
    residual: float


def lowest_mode_check(vibrations: Vibrations, product: ArrayLike) -> LowestMode:
    """Compares the lowest mode with one exact Hessian-vector product.

    Args:
        vibrations: before any scaling of frequencies.
        product: exact H·x for x = `vibrations.lowest_mode`, [N, 3] in eV/Å²/amu^½.

    Raises:
        DataError: the product has another shape or is not finite.
        StructureError: there is no mode.
    """
    x, image = vibrations.lowest_mode, as_numbers(product, "H·x", DataError)
    if image.shape != x.shape or not np.isfinite(image).all():
        raise DataError(f"H·x must be {len(x)} × 3 finite numbers, found shape {image.shape}")
    eigenvalue = float(vibrations.eigenvalues[0])
    left = (image - eigenvalue * vibrations.masses[:, None] * x)[vibrations.indices]
    left = left / np.sqrt(vibrations.masses[vibrations.indices, None])
    return LowestMode(
        predicted=float(vibrations.frequencies[0]),
        exact=_wavenumber(float(np.sum(x * image))),
        residual=float(np.linalg.norm(left)),
    )


def consistency(vibrations: Vibrations, lowest: LowestMode | str | None = None) -> tuple[Flag, ...]:
    """The flags of a result: those that can be made of what is known.

    Args:
        vibrations: the result; its forces decide on the residual force.
        lowest: the check of the lowest mode; a text says why it could not be made, which counts as failed; None where
            there is nothing to check, as with an exact Hessian.
    """
    flags = []
    if vibrations.force_residual is not None:
        flags.append(_flag("residual force", "geometry", vibrations.force_residual, FORCE_LIMIT, "eV/Å"))
    if len(vibrations.residuals):
        # Without forces nothing is known but |H·r|, which vanishes at a stationary point alone.
        found = vibrations.residuals if vibrations.defects is None else vibrations.defects
        moved, turned = found[:3], found[3:]
        flags.append(_flag("translations", "hessian", float(moved.max()), TRANSLATION_LIMIT, "eV/Å²"))
        if len(turned):
            flags.append(_flag("rotations", "hessian", float(turned.max()), ROTATION_LIMIT, "eV/Å²"))
    if isinstance(lowest, str):
        text = f"lowest mode: not checked: {lowest}"
        flags.append(Flag("lowest mode", False, text, "hessian", None, LOWEST_MODE_LIMIT, "cm⁻¹"))
    elif lowest is not None:
        flags.append(_lowest_flag(lowest))
    return tuple(flags)


def _flag(name: str, concerns: Literal["geometry", "hessian"], value: float, limit: float, unit: str) -> Flag:
    ok = value <= limit
    text = f"{name}: {value:.2g} {unit}, {'within' if ok else 'beyond'} {limit:g}"
    return Flag(name, ok, text, concerns, value, limit, unit)


def _lowest_flag(lowest: LowestMode) -> Flag:
    """Fails too where one of the two is imaginary beyond the threshold and the other is not."""
    gap = abs(lowest.predicted - lowest.exact)
    same = (lowest.predicted < -IMAGINARY_THRESHOLD) == (lowest.exact < -IMAGINARY_THRESHOLD)
    ok = gap <= LOWEST_MODE_LIMIT and same
    text = (
        f"lowest mode: {_text(lowest.predicted)} cm⁻¹, exactly {_text(lowest.exact)} along it, "
        f"{'within' if ok else 'beyond'} {LOWEST_MODE_LIMIT:g}{'' if same else ' or of another sign'}"
    )
    return Flag("lowest mode", ok, text, "hessian", gap, LOWEST_MODE_LIMIT, "cm⁻¹")


def _wavenumber(eigenvalue: float) -> float:
    return float(INVERSE_CM * np.sign(eigenvalue) * np.sqrt(abs(eigenvalue)))


def _text(wavenumber: float) -> str:
    return f"{-wavenumber:.1f}i" if wavenumber < 0 else f"{wavenumber:.1f}"
