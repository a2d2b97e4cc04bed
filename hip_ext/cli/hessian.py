"""`hip-ext hessian`: the Hessian of every structure in a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from hip_ext.cli.reporting import ReportOption, check_page, name_of, provenance, write_page

if TYPE_CHECKING:
    from hip_ext.report import Part, Provenance

FIGURES = (
    ("mean_abs", "mean |H|", "eV/Å²"),
    ("min", "smallest entry", "eV/Å²"),
    ("max", "largest entry", "eV/Å²"),
    ("asymmetry", "max |H − Hᵀ|", "eV/Å²"),
    ("sum_rule_residual", "max |Σ H| over atoms", "eV/Å²"),
    ("products", "exact products", ""),
    ("mae", "MAE against the exact Hessian", "eV/Å²"),
    ("seconds", "time", "s"),
    ("exact_seconds", "time of the exact Hessian", "s"),
)
"""What a report says about a Hessian: key of its summary, name and unit."""


def hessian(
    file: FileArgument,
    model: ModelOption = DEFAULT_MODEL,
    trust_source: TrustOption = False,
    method: MethodOption = Method.direct,
    refine: RefineOption = None,
    compare: CompareOption = None,
    estimate_error: EstimateOption = 0,
    out: OutOption = None,
    report: ReportOption = None,
    as_json: JsonOption = False,
) -> None:
    """Predict the Hessian (3N × 3N, eV/Å²) of every structure in a file."""
    check_format(out)
    check_page(report)
    made = make_all(file, model, trust_source, method, compare is not None, refine, estimate_error)
    if out is not None:
        write_results(out, [one.atoms for one in made], [{"hessian": one.hessian} for one in made])
    summaries = [summary(one) for one in made]
    if report is not None:
        _report(report, file, made, summaries, provenance(file, model, method.value))
    if as_json:
        print_json(summaries)
    else:
        _print(summaries, str(file), [to for to in (out, report) if to is not None])


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


def _report(path: Path, file: Path, made: list[Made], summaries: list[dict[str, Any]], made_by: Provenance) -> None:
    from hip_ext.report import HessianMap, Section, Structure3D, Table

    frames, sections = [one.atoms for one in made], []
    for index, (one, said) in enumerate(zip(made, summaries, strict=True)):
        parts: list[Part] = [Structure3D(one.atoms), HessianMap(one.atoms, one.hessian)]
        if one.exact is not None:
            parts.append(HessianMap(one.atoms, one.hessian - one.exact, "Error: predicted − exact"))
        rows = [(name, f"{said[key]:.4g}", unit) for key, name, unit in FIGURES if key in said]
        sections.append(
            Section(name_of(frames, index), [*parts, Table("Figures", ("quantity", "value", "unit"), rows)])
        )
    write_page(path, f"Hessians of {file.name}", sections, made_by)


def _print(summaries: list[dict[str, Any]], title: str, written: list[Path]) -> None:
    refined = any("products" in one for one in summaries)
    columns = ["", "formula", "N", "mean |H|", "min", "max", "|H − Hᵀ|", "|Σ H|", "s"]
    compared = "mae" in summaries[0]
    estimated = "estimated_rms_error" in summaries[0]
    columns += ["products"] if refined else []
    columns += ["MAE", "exact s", "speed-up"] if compared else []
    rows = table(*columns, *(["RMS error ≈", "relative ≈"] if estimated else []))
    for index, one in enumerate(summaries):
        cells = [str(index), one["formula"], str(one["atoms"])]
        cells += [f"{one[name]:.4f}" for name in ("mean_abs", "min", "max")]
        cells += [f"{one[name]:.1e}" for name in ("asymmetry", "sum_rule_residual")]
        cells += [f"{one['seconds']:.3f}"]
        if refined:
            cells.append(str(one.get("products", 0)))
        if compared:
            cells += [f"{one['mae']:.4f}", f"{one['exact_seconds']:.3f}", f"{one['speed_up']:.1f}×"]
        if estimated:
            cells += [f"{one['estimated_rms_error']:.4f}", f"{one['estimated_relative_error']:.1%}"]
        rows.add_row(*cells)
    print_tables(f"{title}: Hessians, eV/Å²", rows, *(f"written to {to}" for to in written))
