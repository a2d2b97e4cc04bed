"""Metrics of one predicted Hessian against the exact one, and their summary over many structures.

Eigenvalues, modes, frequencies and counts are those of the mass-weighted, Eckart-projected matrices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from hip_ext.vibrations import analyse, mode_overlap


@dataclass(frozen=True)
class HessianMetrics:
    """One structure.

    Attributes:
        atoms: number of atoms.
        hessian_mae: mean |ΔH|, eV/Å².
        mean_abs: mean |H| of the exact matrix, eV/Å².
        mode_overlap: |cos| between the lowest Eckart modes.
        negative_agrees: whether both matrices have the same number of negative eigenvalues.
        frequency_mae: mean |Δν| over all modes in rising order, imaginary ones as negative numbers, cm⁻¹.
        zpe_error: |ΔZPE| divided by the exact zero-point energy.
    """

    atoms: int
    hessian_mae: float
    mean_abs: float
    mode_overlap: float
    negative_agrees: bool
    frequency_mae: float
    zpe_error: float


def compare(atoms: Atoms, predicted: NDArray[np.float64], exact: NDArray[np.float64]) -> HessianMetrics:
    """Compares two Hessians of one molecule, both symmetric, eV/Å², [3N, 3N]."""
    ours, theirs = analyse(atoms, predicted), analyse(atoms, exact)
    return HessianMetrics(
        atoms=len(atoms),
        hessian_mae=float(np.abs(predicted - exact).mean()),
        mean_abs=float(np.abs(exact).mean()),
        mode_overlap=float(mode_overlap(ours, theirs)),
        negative_agrees=bool((ours.eigenvalues < 0).sum() == (theirs.eigenvalues < 0).sum()),
        frequency_mae=float(np.abs(ours.frequencies - theirs.frequencies).mean()),
        zpe_error=abs(ours.zero_point_energy / theirs.zero_point_energy - 1.0),
    )


def summarise(metrics: Sequence[HessianMetrics]) -> dict[str, float]:
    """Means and medians over structures."""
    table = {name: np.array([asdict(m)[name] for m in metrics], dtype=float) for name in asdict(metrics[0])}
    return {
        "structures": len(metrics),
        "atoms_least": int(table["atoms"].min()),
        "atoms_most": int(table["atoms"].max()),
        "hessian_mae": float(table["hessian_mae"].mean()),
        "hessian_mae_median": float(np.median(table["hessian_mae"])),
        "mean_abs": float(table["mean_abs"].mean()),
        "mae_over_mean_abs": float(table["hessian_mae"].mean() / table["mean_abs"].mean()),
        "mode_overlap_median": float(np.median(table["mode_overlap"])),
        "mode_overlap_mean": float(table["mode_overlap"].mean()),
        "negative_agreement": float(table["negative_agrees"].mean()),
        "frequency_mae": float(table["frequency_mae"].mean()),
        "frequency_mae_median": float(np.median(table["frequency_mae"])),
        "zpe_error_median": float(np.median(table["zpe_error"])),
    }
