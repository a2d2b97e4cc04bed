"""`hip-ext demo`: predicted against exact vibrations of the molecules that ship with the package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hip_ext.cli.inputs import load_model, read_frames, untaught
from hip_ext.cli.making import make, progress
from hip_ext.cli.options import DEFAULT_MODEL, JsonOption, Method, ModelOption
from hip_ext.cli.output import print_json, print_tables, table
from hip_ext.cli.vibrating import compared
from hip_ext.cli.vibration_text import energies, frequency_rows, wavenumber
from hip_ext.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

MOLECULES = ("water", "ethanol", "carbamic_acid_dimer_ts", "caffeine", "cholesterol")
"""By rising size; the third is the transition state of a double proton transfer."""

IN_TRAINING = {"water": "yes", "ethanol": "isomer", "caffeine": "isomers"}
"""Which of them the default model met in training: the molecule itself, or others of the same formula."""

SHOWN, THRESHOLD = 4, 10.0
"""Lowest and highest frequencies to show; cm⁻¹ beyond which a mode counts as imaginary."""

PlotOption = Annotated[
    Path | None, typer.Option(help="Write a figure, predicted against exact: .png, .pdf or .svg.", show_default=False)
]


def demo(
    molecules: Annotated[
        list[str] | None, typer.Argument(help=f"Some of {', '.join(MOLECULES)}; all by default.", show_default=False)
    ] = None,
    model: ModelOption = DEFAULT_MODEL,
    plot: PlotOption = None,
    as_json: JsonOption = False,
) -> None:
    """Predicted against exact frequencies, Hessians and times for five molecules, on this machine."""
    names = tuple(dict.fromkeys(molecules or MOLECULES))
    for name in names:
        if name not in MOLECULES:
            raise ConfigError(f"the demo has no molecule {name!r}: it has {', '.join(MOLECULES)}")
    if plot is not None:
        from hip_ext.cli.figure import check_figure

        check_figure(plot)
    found = _run(names, model)
    if plot is not None:
        from hip_ext.cli.figure import draw

        draw(plot, found, model)
    if as_json:
        print_json(found)
    else:
        print_tables(*(item for one in found for item in _molecule(one)), *_summary(found, model))


def _run(names: tuple[str, ...], model_name: str) -> list[dict[str, Any]]:
    from hip_ext.shipped import molecules_folder

    folder = molecules_folder()
    with progress(len(names), "molecules") as advance:
        model = load_model(model_name)
        found = []
        for name in names:
            (atoms,) = read_frames(folder / f"{name}.xyz")
            # Every size is run once before: the first pass at a new size also pays for memory and for torch's caches.
            made = make(model, atoms, Method.direct, compare=True, warm=True)
            seen = IN_TRAINING.get(name, "no") if model_name == DEFAULT_MODEL else None
            note = untaught(model, [atoms])
            found.append({"name": name, "in_training": seen, "note": note} | compared(made, THRESHOLD))
            advance()
    return found


def _molecule(one: dict[str, Any]) -> list[Table | str]:
    count = len(one["frequencies"])
    shown = sorted({*range(min(SHOWN, count)), *range(max(count - SHOWN, 0), count)})
    title = f"{one['name']}: {one['formula']}, {one['atoms']} atoms; lowest and highest of {count} frequencies, cm⁻¹"
    return [title, frequency_rows(one, shown), energies(one), ""]


def _summary(found: list[dict[str, Any]], model: str) -> list[Table | str]:
    columns = ["N", "in training", "MAE H", "MAE ν", "lowest", "exact", "ZPE", "exact", "s", "exact s", "speed-up"]
    rows = table("molecule", *columns)
    for one in found:
        rows.add_row(
            one["name"],
            str(one["atoms"]),
            one["in_training"] or "–",
            f"{one['hessian_mae']:.4f}",
            f"{one['frequency_mae']:.1f}",
            wavenumber(float(one["frequencies"][0])),
            wavenumber(float(one["exact_frequencies"][0])),
            f"{one['zero_point_energy']:.4f}",
            f"{one['exact_zero_point_energy']:.4f}",
            f"{one['seconds']:.3f}",
            f"{one['exact_seconds']:.3f}",
            f"{one['speed_up']:.0f}×",
        )
    notes = [f"note: {note}" for note in dict.fromkeys(one["note"] for one in found) if note]
    title = f"{model}: Hessian eV/Å², frequencies ν cm⁻¹, ZPE eV, times in seconds"
    return [title, rows, "exact: second derivatives of the backbone's own energy, by automatic differentiation", *notes]
