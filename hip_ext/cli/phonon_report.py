"""The report of `hip-ext phonons`: bands, wavenumbers at the special points, the cell."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hip_ext.cli.reporting import write_page

if TYPE_CHECKING:
    import numpy as np
    from ase import Atoms
    from numpy.typing import NDArray

    from hip_ext.report import Part, Provenance

STATIONARY = 0.05
"""eV/Å: with a larger force a structure is not at rest."""

SOFT = -1.0
"""cm⁻¹: a lower band is imaginary, and not an acoustic one at Γ that rounding has moved."""


def report(
    path: Path, atoms: Atoms, found: dict[str, Any], arrays: dict[str, NDArray[np.float64]], made_by: Provenance
) -> None:
    """Writes the page.

    Args:
        path: where to.
        atoms: the primitive cell.
        found: what is said about the phonons, see `hip_ext.cli.phonons.bands`; with `labels`.
        arrays: their numbers.
        made_by: where they come from.
    """
    from hip_ext.report import Bands, Flags, Section, Structure3D, Table
    from hip_ext.report.markup import number, wavenumber

    dos = (arrays["dos_wavenumbers"], arrays["dos"]) if "dos" in arrays else None
    columns = [str(band + 1) for band in range(3 * found["atoms"])]
    rows = [[label, *map(wavenumber, lines.tolist())] for label, lines in found["special_points"].items()]
    checks = [
        (
            "residual force",
            found["largest_force"] <= STATIONARY,
            f"{found['largest_force']:.2g} eV/Å, limit {STATIONARY}",
        ),
        ("stability", found["lowest"] >= SOFT, f"the lowest band reaches {wavenumber(found['lowest'])} cm⁻¹"),
    ]
    parts: list[Part] = [
        Structure3D(_shown(atoms), "Cells", [f"{found['formula']}, 2 × 2 × 2 cells"]),
        Flags(checks),
        Bands(
            arrays["distance"], arrays["wavenumbers"], found["labels"], arrays["label_distance"], dos,
            arrays.get("displaced_wavenumbers"), f"Phonons along {found['path']}",
        ),
        Table("Wavenumbers at the special points, cm⁻¹", ["point", *columns], rows),
    ]  # fmt: skip
    if "band_mae" in found:
        said = [
            ("mean absolute error", number(found["band_mae"], 2)),
            ("largest error", number(found["band_largest_error"], 2)),
        ]
        parts.append(Table("Against finite displacements, cm⁻¹", ("quantity", "value"), said))
    write_page(path, f"Phonons of {found['formula']}", [Section("", parts)], made_by)


def _shown(atoms: Atoms) -> Atoms:
    """Two cells in each periodic direction, so that bonds can be seen; the box stays that of one cell."""
    shown = atoms.repeat([2 if periodic else 1 for periodic in atoms.pbc])
    shown.set_cell(atoms.cell, scale_atoms=False)
    return shown
