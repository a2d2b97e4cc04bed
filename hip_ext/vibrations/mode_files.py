"""Files that show modes: Molden, Jmol's XYZ, ASE trajectories, and ASE's own `VibrationsData` as JSON.

Modes are numbered from 1 in the names of files, by rising eigenvalue, and imaginary wavenumbers are negative numbers.
"""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms, units
from ase.io.jsonio import encode

from hip_ext.atomic import atomic_path, write_text
from hip_ext.errors import DataError
from hip_ext.vibrations.eckart import Array
from hip_ext.vibrations.modes import Vibrations

AMPLITUDE = 0.5
"""Å: largest displacement of an atom in a trajectory."""


def unit_modes(vibrations: Vibrations) -> Array:
    """The modes scaled to unit length, Σ_i x_i·x_i = 1, [M, N, 3]."""
    scaled: Array = vibrations.modes * np.sqrt(vibrations.reduced_masses)[:, None, None]
    return scaled


def molden(vibrations: Vibrations) -> str:
    """A Molden file with geometry, wavenumbers, modes of unit length and, where known, intensities (km/mol)."""
    atoms = vibrations.atoms
    places = [f"{s:2s} {_row(x / units.Bohr)}" for s, x in zip(atoms.symbols, atoms.positions, strict=True)]
    lines = ["[Molden Format]", "[FREQ]", *(f"{value:12.4f}" for value in vibrations.frequencies)]
    if vibrations.intensities is not None:
        lines += ["[INT]", *(f"{value:12.4f}" for value in vibrations.intensities)]
    lines += ["[FR-COORD]", *places, "[FR-NORM-COORD]"]
    for number, mode in enumerate(unit_modes(vibrations), 1):
        lines += [f"vibration {number}", *(_row(x) for x in mode)]
    return "\n".join(lines) + "\n"


def jmol_xyz(vibrations: Vibrations) -> str:
    """One frame a mode: symbol, position (Å) and displacement of unit length, as Jmol and its kin read it."""
    lines = []
    atoms = vibrations.atoms
    for number, (mode, wavenumber) in enumerate(zip(unit_modes(vibrations), vibrations.frequencies, strict=True), 1):
        lines += [str(len(atoms)), f"mode {number}, {wavenumber:.2f} cm^-1"]
        lines += [f"{s:2s} {_row(x)} {_row(d)}" for s, x, d in zip(atoms.symbols, atoms.positions, mode, strict=True)]
    return "\n".join(lines) + "\n"


def mode_frames(vibrations: Vibrations, mode: int, *, frames: int = 24, amplitude: float = AMPLITUDE) -> list[Atoms]:
    """One period of a mode.

    Args:
        vibrations: M modes.
        mode: which, from 0.
        frames: structures in a period.
        amplitude: Å, of the atom that moves most.
    """
    shape = vibrations.modes[mode]
    shape = shape * (amplitude / np.linalg.norm(shape, axis=1).max())
    found = []
    for phase in 2 * np.pi * np.arange(frames) / frames:
        moved = vibrations.atoms.copy()
        moved.set_constraint()
        moved.positions = vibrations.atoms.positions + np.sin(phase) * shape
        moved.info["frequency"] = float(vibrations.frequencies[mode])
        found.append(moved)
    return found


def write_modes(folder: Path, vibrations: Vibrations) -> list[Path]:
    """Writes modes.molden, modes.xyz, vibrations.json and one trajectory a mode, mode_001.traj and so on.

    Args:
        folder: made where it is missing; files of these names in it are replaced.
        vibrations: M modes.

    Returns:
        The files.

    Raises:
        DataError: they cannot be written.
    """
    trajectories = [folder / f"mode_{k + 1:03d}.traj" for k in range(len(vibrations.modes))]
    texts = {folder / "modes.molden": molden(vibrations), folder / "modes.xyz": jmol_xyz(vibrations)}
    data = folder / "vibrations.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in texts.items():
            write_text(path, text)
        write_text(data, encode(vibrations.to_vibrations_data()))
        for mode, path in enumerate(trajectories):
            with atomic_path(path) as temporary:
                ase.io.write(temporary, mode_frames(vibrations, mode), format="traj")
    except OSError as error:
        raise DataError(f"cannot write modes into {folder}: {error.strerror or error}") from None
    return [*texts, data, *trajectories]


def _row(values: Array) -> str:
    return " ".join(f"{value:14.8f}" for value in values)
