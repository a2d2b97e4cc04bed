"""The options of `hip-ext frequencies` that no other command has, and what they ask for."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from hip_ext.errors import ConfigError

ROOM, ATMOSPHERE = 298.15, 101325.0


class Verify(StrEnum):
    """What happens to a prediction that fails a check against the backbone."""

    mark = "mark"
    exact = "exact"


class LowModes(StrEnum):
    """Entropies of modes of low wavenumber; see `hip_ext.vibrations.low_modes`."""

    harmonic = "harmonic"
    grimme = "grimme"
    truhlar = "truhlar"


@dataclass(frozen=True)
class Request:
    """What is asked of every frame beside its frequencies.

    Attributes:
        threshold: cm⁻¹ beyond which a negative eigenvalue counts as an imaginary mode.
        exact: replace predictions that fail a check.
        isotopes: see `hip_ext.vibrations.isotopes`; empty for the masses of the structure.
        scale: factor of all frequencies.
        free: the atoms that move, rising; None for those that no constraint fixes.
        infrared: whether intensities are wanted.
        temperatures: K; none for no thermochemistry.
        pressures: Pa.
        low_modes: which entropies.
        cutoff: cm⁻¹.
        invert: cm⁻¹ below which an imaginary mode is taken for a real one.
        symmetry_number: None to find it.
        multiplicity: 2S + 1; None for that of the structure.
    """

    threshold: float
    exact: bool
    isotopes: str
    scale: float
    free: list[int] | None
    infrared: bool
    temperatures: list[float]
    pressures: list[float]
    low_modes: LowModes
    cutoff: float
    invert: float
    symmetry_number: int | None
    multiplicity: int | None


def indices(text: str) -> list[int]:
    """Atoms written as "4-6,9": 4, 5, 6 and 9.

    Raises:
        ConfigError: it is written otherwise.
    """
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not (first.isdigit() and (last or first).isdigit()):
            raise ConfigError(f"--free {text}: write atoms, counted from 0, like 4-6,9")
        found.update(range(int(first), int(last or first) + 1))
    return sorted(found)


def check_range(option: str, values: list[float]) -> None:
    """Raises ConfigError for a value that is not a positive number."""
    for value in values:
        if not 0 < value < float("inf"):
            raise ConfigError(f"{option} must be a positive number, found {value:g}")


def output_path(path: Path | None, index: int, count: int) -> Path | None:
    """Where the file of a frame goes: `path` itself, or with _k before the extension where there are several."""
    if path is None or count == 1:
        return path
    return path.with_name(f"{path.stem}_{index}{path.suffix}")


def check_folder(option: str, path: Path | None) -> None:
    """Raises ConfigError for a file that could not be written in the end, before the work begins."""
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise ConfigError(f"{option} {path}: {'it is a folder' if path.is_dir() else 'its folder does not exist'}")


ThresholdOption = Annotated[
    float, typer.Option(min=0.0, help="cm⁻¹ beyond which a negative eigenvalue counts as an imaginary mode.")
]
VerifyOption = Annotated[
    Verify,
    typer.Option(help="mark: say which checks a prediction fails. exact: also replace it by the exact Hessian."),
]
HessianFileOption = Annotated[
    Path | None,
    typer.Option("--hessian", help="Take Hessians (eV/Å²) from .npz, .json, .npy or .txt, without a model."),
]
IsotopesOption = Annotated[
    str, typer.Option(help='Isotopes, e.g. "D", "common,2=D", "0=13C" or "H=2.014" (amu); atoms count from 0.')
]
ScaleOption = Annotated[float, typer.Option(help="Factor of all frequencies, for every result.")]
FreeOption = Annotated[
    str | None, typer.Option(help="Atoms that move, e.g. 4-6,9; by default those that no constraint of the file fixes.")
]
InfraredOption = Annotated[bool, typer.Option("--infrared", "--ir", help="Infrared intensities, km/mol.")]
TemperatureOption = Annotated[
    list[float] | None, typer.Option("--temperature", "-T", help="K: thermochemistry; may be given several times.")
]
PressureOption = Annotated[
    list[float] | None,
    typer.Option("--pressure", "-P", help=f"Pa, default {ATMOSPHERE:g}; may be given several times."),
]
LowModesOption = Annotated[
    LowModes, typer.Option(help="Entropy of low modes: as harmonic, or quasi-RRHO after Grimme or Truhlar.")
]
CutoffOption = Annotated[float, typer.Option(help="cm⁻¹ below which --low-modes acts.")]
InvertOption = Annotated[
    float, typer.Option(min=0.0, help="cm⁻¹: weaker imaginary modes are taken for real ones in thermochemistry.")
]
SymmetryNumberOption = Annotated[
    int | None, typer.Option(min=1, help="Rotations that map the molecule onto itself; by default found by pymsym.")
]
MultiplicityOption = Annotated[
    int | None, typer.Option(min=1, help="2S + 1 for the electronic entropy; by default that of the structure.")
]
GaussianLogOption = Annotated[
    Path | None, typer.Option(help="Write a log file in Gaussian's layout, for GoodVibes, cclib, viewers.")
]
MoldenOption = Annotated[Path | None, typer.Option(help="Write the modes as a Molden file.")]
ModesOption = Annotated[
    Path | None, typer.Option(help="Folder for Molden, Jmol and ASE files of the modes, one trajectory each.")
]
