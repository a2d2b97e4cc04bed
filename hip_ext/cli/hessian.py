"""`hip-ext hessian`: the Hessian of every structure in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hip_ext.cli.making import Made, make_all
from hip_ext.cli.options import (
    DEFAULT_MODEL,
    CompareOption,
    EstimateOption,
    FileArgument,
    JsonOption,
    Method,
    MethodOption,
    ModelOption,
    OutOption,
    RefineOption,
    TrustOption,
)
from hip_ext.cli.output import check_format, print_json, print_tables, table, write_results


def hessian(
    file: FileArgument,
    model: ModelOption = DEFAULT_MODEL,
    trust_source: TrustOption = False,
    method: MethodOption = Method.direct,
    refine: RefineOption = None,
    compare: CompareOption = None,
    estimate_error: EstimateOption = 0,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Predict the Hessian (3N × 3N, eV/Å²) of every structure in a file."""
    check_format(out)
    made = make_all(file, model, trust_source, method, compare is not None, refine, estimate_error)
    if out is not None:
        write_results(out, [one.atoms for one in made], [{"hessian": one.hessian} for one in made])
    summaries = [summary(one) for one in made]
    if as_json:
        print_json(summaries)
    else:
        _print(summaries, str(file), out)


def summary(made: Made) -> dict[str, Any]:
    """What is said about a Hessian: sizes in eV/Å², times in seconds.

    `asymmetry` is max |H − Hᵀ|; `sum_rule_residual` is max |Σ_j H_ij|, zero where a translation costs nothing.
    """
    import numpy as np

    matrix, n = made.hessian, len(made.atoms)
    size = np.abs(matrix)
    found = {
        "formula": made.atoms.get_chemical_formula(),
        "atoms": n,
        "mean_abs": float(size.mean()),
        "min": float(matrix.min()),
        "max": float(matrix.max()),
        "asymmetry": float(np.abs(matrix - matrix.T).max()),
        "sum_rule_residual": float(np.abs(matrix.reshape(3 * n, n, 3).sum(axis=1)).max()),
        "seconds": made.seconds,
    }
    if made.exact is not None and made.exact_seconds is not None:
        found |= {
            "mae": float(np.abs(matrix - made.exact).mean()),
            "exact_mean_abs": float(np.abs(made.exact).mean()),
            "exact_seconds": made.exact_seconds,
            "speed_up": made.exact_seconds / made.seconds,
        }
    if made.products:
        found["products"] = made.products
    if made.estimate is not None:
        found |= {"estimated_rms_error": made.estimate.rms, "estimated_relative_error": made.estimate.relative}
    return found


def _print(summaries: list[dict[str, Any]], title: str, out: Path | None) -> None:
    columns = ["", "formula", "N", "mean |H|", "min", "max", "|H − Hᵀ|", "|Σ H|", "s"]
    compared = "mae" in summaries[0]
    estimated = "estimated_rms_error" in summaries[0]
    columns += ["MAE", "exact s", "speed-up"] if compared else []
    rows = table(*columns, *(["RMS error ≈", "relative ≈"] if estimated else []))
    for index, one in enumerate(summaries):
        cells = [str(index), one["formula"], str(one["atoms"])]
        cells += [f"{one[name]:.4f}" for name in ("mean_abs", "min", "max")]
        cells += [f"{one[name]:.1e}" for name in ("asymmetry", "sum_rule_residual")]
        cells += [f"{one['seconds']:.3f}"]
        if compared:
            cells += [f"{one['mae']:.4f}", f"{one['exact_seconds']:.3f}", f"{one['speed_up']:.1f}×"]
        if estimated:
            cells += [f"{one['estimated_rms_error']:.4f}", f"{one['estimated_relative_error']:.1%}"]
        rows.add_row(*cells)
    print_tables(f"{title}: Hessians, eV/Å²", rows, *([f"written to {out}"] if out is not None else []))
