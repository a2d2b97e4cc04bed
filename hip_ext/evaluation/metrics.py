"""Metrics of one predicted Hessian H′ against the exact one H, and their summary over many structures.

Whatever is named `raw` belongs to H itself (eV/Å²), whatever is named `eckart` to the mass-weighted matrix without
rigid motions (eV/(Å²·amu)); see `hip_ext.evaluation.spectra`. The definitions of HIP (arXiv 2509.21624) are kept where
there is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from hip_ext.errors import StructureError
from hip_ext.evaluation.spectra import Spectrum

Array = NDArray[np.float64]

DEGENERATE = 10.0
"""Modes within so many cm⁻¹ of the lowest one count as one subspace with it."""


@dataclass(frozen=True)
class HessianMetrics:
    """One structure; what does not exist (a second mode of a diatomic) is NaN. Units and titles: `QUANTITIES`.

    Attributes:
        atoms: number of atoms.
        mean_abs: mean |H_ab| of the exact matrix.
        hessian_mae: mean |H′_ab − H_ab|.
        hessian_relative: ‖H′ − H‖ / ‖H‖, Frobenius norms.
        hessian_mre: mean of |H′_ab − H_ab| / (|H_ab| + 1e−8 eV/Å²), HIP's relative error; nearly zero entries rule it.
        asymmetry: mean |H′ − H′ᵀ|; all that follows is that of (H′ + H′ᵀ)/2.
        eigenvalue_mae_raw: mean |λ′_k − λ_k| in rising order.
        lambda1_mae_raw: that of the lowest.
        lambda2_mae_raw: that of the second.
        cos1_raw: |v₁′·v₁|.
        cos2_raw: |v₂′·v₂|.
        overlap_error_raw: ‖|QᵀQ′| − 1‖, eigenvectors in the columns of Q, Frobenius norm.
        eigenvalue_mae_eckart: as above.
        lambda1_mae_eckart: as above.
        lambda2_mae_eckart: as above.
        cos1_eckart: |cos| between the lowest modes; ill-defined where `lowest_subspace_size` is above 1.
        cos2_eckart: that of the second.
        overlap_error_eckart: as above.
        lowest_subspace_size: m, exact modes within `DEGENERATE` of the lowest one, itself included.
        lowest_subspace_overlap: √(Σ (q_k·q_l′)² / m) over k, l ≤ m; equal to `cos1_eckart` for m = 1.
        negative_count: negative Eckart eigenvalues of H′.
        negative_count_reference: of H.
        negative_agrees: whether both are equal.
        minimum_agrees: whether both or neither have none.
        ts_agrees: whether both or neither have exactly one.
        class_agrees: whether both are minima, transition states or of higher order.
        frequency_mae: mean |ν′_k − ν_k| over all modes in rising order, imaginary ones as negative numbers.
        zpe: ½ Σ hcν over the real modes of H′.
        zpe_reference: of H.
        zpe_mae: absolute difference of the two.
        zpe_error: the same divided by the exact one.
        free_energy_mae: |F′ − F|, see `vibrational_free_energy`.
    """

    atoms: int
    mean_abs: float
    hessian_mae: float
    hessian_relative: float
    hessian_mre: float
    asymmetry: float
    eigenvalue_mae_raw: float
    lambda1_mae_raw: float
    lambda2_mae_raw: float
    cos1_raw: float
    cos2_raw: float
    overlap_error_raw: float
    eigenvalue_mae_eckart: float
    lambda1_mae_eckart: float
    lambda2_mae_eckart: float
    cos1_eckart: float
    cos2_eckart: float
    overlap_error_eckart: float
    lowest_subspace_size: int
    lowest_subspace_overlap: float
    negative_count: int
    negative_count_reference: int
    negative_agrees: bool
    minimum_agrees: bool
    ts_agrees: bool
    class_agrees: bool
    frequency_mae: float
    zpe: float
    zpe_reference: float
    zpe_mae: float
    zpe_error: float
    free_energy_mae: float


class Quantity(NamedTuple):
    """How a number is called in tables, and its unit."""

    title: str
    unit: str = ""


RAW, ECKART = "eV/Å²", "eV/(Å²·amu)"
QUANTITIES = {
    "atoms": Quantity("atoms"),
    "mean_abs": Quantity("mean |H|", RAW),
    "hessian_mae": Quantity("Hessian MAE", RAW),
    "hessian_relative": Quantity("Hessian, relative (Frobenius)"),
    "hessian_mre": Quantity("Hessian, relative by entry (HIP)"),
    "asymmetry": Quantity("asymmetry", RAW),
    "eigenvalue_mae_raw": Quantity("λ MAE, raw", RAW),
    "lambda1_mae_raw": Quantity("λ1 MAE, raw", RAW),
    "lambda2_mae_raw": Quantity("λ2 MAE, raw", RAW),
    "cos1_raw": Quantity("|cos v1|, raw"),
    "cos2_raw": Quantity("|cos v2|, raw"),
    "overlap_error_raw": Quantity("eigenvector overlap error, raw"),
    "eigenvalue_mae_eckart": Quantity("λ MAE, Eckart", ECKART),
    "lambda1_mae_eckart": Quantity("λ1 MAE, Eckart", ECKART),
    "lambda2_mae_eckart": Quantity("λ2 MAE, Eckart", ECKART),
    "cos1_eckart": Quantity("|cos v1|, Eckart"),
    "cos2_eckart": Quantity("|cos v2|, Eckart"),
    "overlap_error_eckart": Quantity("eigenvector overlap error, Eckart"),
    "lowest_subspace_size": Quantity("modes in the lowest subspace"),
    "lowest_subspace_overlap": Quantity("overlap of the lowest subspace, Eckart"),
    "negative_count": Quantity("negative modes"),
    "negative_count_reference": Quantity("negative modes, reference"),
    "negative_agrees": Quantity("negative count agrees"),
    "minimum_agrees": Quantity("minimum or not agrees"),
    "ts_agrees": Quantity("transition state or not agrees"),
    "class_agrees": Quantity("minimum, transition state or higher agrees"),
    "frequency_mae": Quantity("frequency MAE", "cm⁻¹"),
    "zpe": Quantity("ZPE", "eV"),
    "zpe_reference": Quantity("ZPE, reference", "eV"),
    "zpe_mae": Quantity("ZPE MAE", "eV"),
    "zpe_error": Quantity("ZPE, relative"),
    "free_energy_mae": Quantity("vibrational free energy MAE, 298.15 K", "eV"),
    "energy_mae": Quantity("energy MAE", "eV"),
    "forces_mae": Quantity("force MAE", "eV/Å"),
    "delta_zpe_mae": Quantity("ΔZPE MAE", "eV"),
    "delta_energy_mae": Quantity("ΔE MAE", "eV"),
}
"""Title and unit of every number: the fields of `HessianMetrics`, energies and forces, and differences of pairs."""


def compare(atoms: Atoms, predicted: NDArray[np.floating], exact: NDArray[np.floating]) -> HessianMetrics:
    """Compares two Hessians of one structure, eV/Å², [3N, 3N].

    Raises:
        DataError: a Hessian has another shape or is not finite.
        StructureError: the structure cannot be used, or is a single atom, which has no mode.
    """
    return compare_spectra(Spectrum.of(atoms, predicted), Spectrum.of(atoms, exact))


def compare_spectra(ours: Spectrum, theirs: Spectrum) -> HessianMetrics:
    """Compares the Hessians of two spectra of one structure; see `compare`."""
    if len(theirs.values) == 0:
        raise StructureError("a single atom has no vibration to compare: leave it out")
    error, size = np.abs(ours.hessian - theirs.hessian), np.abs(theirs.hessian)
    negative, expected = ours.negative_count, theirs.negative_count
    zpe, exact_zpe = ours.vibrations.zero_point_energy, theirs.vibrations.zero_point_energy
    raw, eckart = np.abs(ours.raw_values - theirs.raw_values), np.abs(ours.values - theirs.values)
    # Rounding may take a product of unit vectors a little beyond 1.
    raw_cos = np.minimum(np.abs(theirs.raw_vectors.T @ ours.raw_vectors), 1)
    cos = np.minimum(np.abs(theirs.vectors.T @ ours.vectors), 1)
    frequencies = theirs.vibrations.frequencies
    m = int((frequencies <= frequencies[0] + DEGENERATE).sum())
    return HessianMetrics(
        atoms=len(ours.hessian) // 3,
        mean_abs=float(size.mean()),
        hessian_mae=float(error.mean()),
        hessian_relative=_ratio(float(np.linalg.norm(error)), float(np.linalg.norm(size))),
        hessian_mre=float((error / (size + 1e-8)).mean()),
        asymmetry=float(np.abs(ours.hessian - ours.hessian.T).mean()),
        eigenvalue_mae_raw=float(raw.mean()),
        lambda1_mae_raw=_at(raw, 0),
        lambda2_mae_raw=_at(raw, 1),
        cos1_raw=_at(np.diag(raw_cos), 0),
        cos2_raw=_at(np.diag(raw_cos), 1),
        overlap_error_raw=float(np.linalg.norm(raw_cos - np.eye(len(raw)))),
        eigenvalue_mae_eckart=float(eckart.mean()),
        lambda1_mae_eckart=_at(eckart, 0),
        lambda2_mae_eckart=_at(eckart, 1),
        cos1_eckart=_at(np.diag(cos), 0),
        cos2_eckart=_at(np.diag(cos), 1),
        overlap_error_eckart=float(np.linalg.norm(cos - np.eye(len(cos)))),
        lowest_subspace_size=m,
        lowest_subspace_overlap=min(float(np.linalg.norm(cos[:m, :m])) / m**0.5, 1.0),
        negative_count=negative,
        negative_count_reference=expected,
        negative_agrees=negative == expected,
        minimum_agrees=(negative == 0) == (expected == 0),
        ts_agrees=(negative == 1) == (expected == 1),
        class_agrees=min(negative, 2) == min(expected, 2),
        frequency_mae=float(np.abs(ours.vibrations.frequencies - frequencies).mean()),
        zpe=zpe,
        zpe_reference=exact_zpe,
        zpe_mae=abs(zpe - exact_zpe),
        zpe_error=_ratio(abs(zpe - exact_zpe), exact_zpe),
        free_energy_mae=abs(ours.free_energy - theirs.free_energy),
    )


def summarise(metrics: Sequence[HessianMetrics]) -> dict[str, float]:
    """The few means and medians over structures that a training run and a checkpoint's card report."""
    table = {name: np.array([asdict(m)[name] for m in metrics], dtype=float) for name in asdict(metrics[0])}
    return {
        "structures": len(metrics),
        "atoms_least": int(table["atoms"].min()),
        "atoms_most": int(table["atoms"].max()),
        "hessian_mae": float(table["hessian_mae"].mean()),
        "hessian_mae_median": float(np.median(table["hessian_mae"])),
        "mean_abs": float(table["mean_abs"].mean()),
        "mae_over_mean_abs": float(table["hessian_mae"].mean() / table["mean_abs"].mean()),
        "mode_overlap_median": float(np.median(table["cos1_eckart"])),
        "mode_overlap_mean": float(table["cos1_eckart"].mean()),
        "negative_agreement": float(table["negative_agrees"].mean()),
        "frequency_mae": float(table["frequency_mae"].mean()),
        "frequency_mae_median": float(np.median(table["frequency_mae"])),
        "zpe_error_median": float(np.median(table["zpe_error"])),
    }


def _at(values: Array, index: int) -> float:
    return float(values[index]) if index < len(values) else float("nan")


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else float("nan")
