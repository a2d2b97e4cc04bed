"""`hip-ext frequencies`: harmonic vibrations of every structure in a file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hip_ext.cli.inputs import named
from hip_ext.cli.making import Made, make_all
from hip_ext.cli.options import (
    DEFAULT_MODEL,
    CompareOption,
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

if TYPE_CHECKING:
    from rich.table import Table

STATIONARY = 0.05
"""eV/Å: beyond this largest force a reader is told that the frequencies are not those of a stationary point."""

ThresholdOption = Annotated[
    float, typer.Option(min=0.0, help="cm⁻¹ beyond which a negative eigenvalue counts as an imaginary mode.")
]


def frequencies(
    file: FileArgument,
    model: ModelOption = DEFAULT_MODEL,
    trust_source: TrustOption = False,
    method: MethodOption = Method.direct,
    refine: RefineOption = None,
    compare: CompareOption = None,
    threshold: ThresholdOption = 10.0,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Harmonic frequencies (cm⁻¹), zero-point energy and imaginary modes of every structure in a file.

    Translations and rotations are projected out. In JSON and in files an imaginary frequency is a negative number.
    """
    check_format(out)
    made = make_all(file, model, trust_source, method, compare is not None, refine)
    found = []
    for index, one in enumerate(made):
        with named(file, index, len(made)):
            found.append(vibrations(one, threshold))
    if out is not None:
        kept = ("hessian", "frequencies", "zero_point_energy")
        results = [{"hessian": one.hessian} | values for one, values in zip(made, found, strict=True)]
        write_results(out, [one.atoms for one in made], [{name: result[name] for name in kept} for result in results])
    if as_json:
        print_json(found)
    else:
        tables = [item for index, one in enumerate(found) for item in _tables(one, f"{file}, frame {index}")]
        print_tables(*tables, *([f"written to {out}"] if out is not None else []))


def vibrations(made: Made, threshold: float) -> dict[str, Any]:
    """What is said about the vibrations of a frame: cm⁻¹, eV, seconds; imaginary frequencies are negative.

    Raises:
        HipExtError: as `hip_ext.vibrations.analyse`.
    """
    import numpy as np

    from hip_ext.vibrations import analyse

    modes = analyse(made.atoms, made.hessian)
    found: dict[str, Any] = {
        "formula": made.atoms.get_chemical_formula(),
        "atoms": len(made.atoms),
        "frequencies": modes.frequencies,
        "zero_point_energy": modes.zero_point_energy,
        "imaginary_modes": int((modes.frequencies < -threshold).sum()),
        "largest_force": made.largest_force,
        "seconds": made.seconds,
    }
    if made.exact is not None and made.exact_seconds is not None:
        exact = analyse(made.atoms, made.exact)
        gaps = np.abs(modes.frequencies - exact.frequencies)
        found |= {
            "hessian_mae": float(np.abs(made.hessian - made.exact).mean()),
            "frequency_mae": float(gaps.mean()) if len(gaps) else 0.0,
            "exact_frequencies": exact.frequencies,
            "exact_zero_point_energy": exact.zero_point_energy,
            "exact_imaginary_modes": int((exact.frequencies < -threshold).sum()),
            "exact_seconds": made.exact_seconds,
            "speed_up": made.exact_seconds / made.seconds,
        }
    return found


def wavenumber(value: float) -> str:
    """A frequency as text: 1234.5, or 123.4i for an imaginary one, which is given as a negative number."""
    return f"{-value:.1f}i" if value < 0 else f"{value:.1f}"


def frequency_rows(one: dict[str, Any], modes: Iterable[int]) -> Table:
    """A table of the modes with these indices: predicted, and exact and error where there is an exact one."""
    compared = "exact_frequencies" in one
    rows = table("mode", *(["predicted", "exact", "error"] if compared else ["cm⁻¹"]))
    for mode in modes:
        value = float(one["frequencies"][mode])
        cells = [str(mode + 1), wavenumber(value)]
        if compared:
            exact = float(one["exact_frequencies"][mode])
            cells += [wavenumber(exact), f"{value - exact:+.1f}"]
        rows.add_row(*cells)
    return rows


def energies(one: dict[str, Any]) -> str:
    """Zero-point energy, imaginary modes, time, and the same of the exact Hessian, as a line or two of text."""
    lines = [_line("", one)]
    if "exact_frequencies" in one:
        exact = {name.removeprefix("exact_"): value for name, value in one.items() if name.startswith("exact_")}
        lines[0] = _line("predicted: ", one)
        lines += [_line("exact:     ", exact)]
        lines += [
            f"MAE of the Hessian {one['hessian_mae']:.4f} eV/Å², of the frequencies {one['frequency_mae']:.1f} cm⁻¹; "
            f"speed-up {one['speed_up']:.1f}×"
        ]
    return "\n".join(lines)


def _line(name: str, one: dict[str, Any]) -> str:
    return (
        f"{name}ZPE {one['zero_point_energy']:.4f} eV, imaginary modes {one['imaginary_modes']}, {one['seconds']:.3f} s"
    )


def _tables(one: dict[str, Any], place: str) -> list[Table | str]:
    title = f"{place}: {one['formula']}, {one['atoms']} atoms; frequencies, cm⁻¹"
    lines: list[Table | str] = [title, frequency_rows(one, range(len(one["frequencies"]))), energies(one)]
    if one["largest_force"] > STATIONARY:
        lines.append(f"note: the largest force is {one['largest_force']:.3f} eV/Å, this is not a stationary point")
    return lines
