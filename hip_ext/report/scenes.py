"""What the 3D view shows: frames of one set of atoms, or modes of one frame, packed for the script.

Positions travel as float32, displacements as 16-bit integers in units of the largest of their mode, both in base64:
a fifth of what the same numbers take as text.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.data.colors import jmol_colors
from numpy.typing import NDArray

from hip_ext.report.markup import number, wavenumber
from hip_ext.report.parts import Array, EnergyProfile, Modes, Structure3D, list_frames, numbers

MOST_DISPLACEMENTS = 1_500_000
"""Components of modes in one report: 4 MB of it. Beyond, the highest modes are listed and not animated."""

MOST_FRAMES = 1_500_000
"""Coordinates of frames in one report: 8 MB of it. Beyond, frames are left out evenly."""

KCAL = 23.0605478
"""kcal/mol in an eV."""


@dataclass(frozen=True)
class Scene:
    """One thing to look at.

    Attributes:
        title: its name in the list of scenes.
        count: frames or modes that can be chosen.
        animated: whether the choice is one of modes.
        start: which one is shown first.
        data: what the script reads.
    """

    title: str
    count: int
    animated: bool
    start: int
    data: dict[str, Any]


def frames_scene(part: Structure3D) -> Scene:
    """The frames of a structure."""
    frames = list_frames(part.frames, part.title)
    captions = part.captions
    if captions is None:
        formula = frames[0].get_chemical_formula()
        captions = [formula] if len(frames) == 1 else [f"{formula}, frame {k + 1}" for k in range(len(frames))]
    kept = _kept(len(frames), 3 * len(frames[0]))
    return _scene(part.title, [frames[k] for k in kept], [str(captions[k]) for k in kept])


def profile_scene(part: EnergyProfile) -> Scene:
    """The frames along an energy profile, the highest first."""
    frames = list_frames(part.frames or [], part.title)
    energies = relative(part)
    captions = [
        ", ".join([*([str(part.labels[k])] if part.labels[k] else [f"point {k + 1}"]), energy_text(energies[k])])
        for k in range(len(frames))
    ]
    top = int(np.nanargmax(energies)) if np.isfinite(energies).any() else 0
    return _scene(part.title, frames, captions, top)


def modes_scene(part: Modes) -> Scene:
    """The modes of a structure, as many of the lowest as a report holds."""
    frequencies = numbers(part.frequencies_cm, part.title, (None,))
    moves = numbers(part.displacements, part.title, (None, len(part.atoms), 3))
    if not len(moves):
        return frames_scene(Structure3D(part.atoms, part.title))
    moves = moves[: max(1, MOST_DISPLACEMENTS // (3 * len(part.atoms)))]
    largest = np.sqrt((moves**2).sum(axis=2)).max(axis=1, initial=0.0)
    units = np.divide(moves, largest[:, None, None], out=np.zeros_like(moves), where=largest[:, None, None] > 0)
    captions = [f"Mode {k + 1}: {wavenumber(frequencies[k])} cm⁻¹" for k in range(len(moves))]
    if part.intensities is not None:
        strengths = numbers(part.intensities, part.title, (len(frequencies),))
        captions = [f"{said}, {number(strengths[k], 1)} km/mol" for k, said in enumerate(captions)]
    data = {"vectors": _packed(np.round(32767 * units), "<i2"), "captions": captions}
    return _scene(part.title, [part.atoms], captions, 0, data)


def relative(part: EnergyProfile) -> Array:
    """Energies above the first that is finite, eV, [K]."""
    energies = numbers(part.energies_eV, part.title, (None,))
    finite = energies[np.isfinite(energies)]
    return energies - (finite[0] if len(finite) else 0.0)


def energy_text(energy: float) -> str:
    """A relative energy in the two units that people read."""
    if not np.isfinite(energy):
        return "energy unknown"
    return f"{number(energy, 3)} eV ({number(KCAL * energy, 1)} kcal/mol)"


def atom_names(atoms: Atoms) -> list[str]:
    """Element and number of each atom, counted from 1, [N]."""
    return [f"{symbol}{k + 1}" for k, symbol in enumerate(atoms.get_chemical_symbols())]


def _scene(
    title: str, frames: Sequence[Atoms], captions: Sequence[str], start: int = 0, modes: dict[str, Any] | None = None
) -> Scene:
    atoms = frames[0]
    positions = np.array([frame.positions for frame in frames])
    corners = _cell_edges(atoms)
    around = np.concatenate([positions.reshape(-1, 3), corners.reshape(-1, 3)])
    axes, centre, extent = _orientation(around)
    radii = np.clip(covalent_radii[atoms.numbers], 0.3, 2.5)
    colours = np.round(255 * jmol_colors[np.minimum(atoms.numbers, len(jmol_colors) - 1)])
    data = {
        "n": len(atoms),
        "frames": len(frames),
        "names": atom_names(atoms),
        "radii": radii.round(2).tolist(),
        "colours": colours.astype(int).tolist(),
        "positions": _packed(positions, "<f4"),
        "cell": corners.reshape(-1).round(4).tolist() if len(corners) else None,
        "turn": axes.reshape(-1).round(6).tolist(),
        "centre": centre.round(4).tolist(),
        "extent": extent.round(3).tolist(),
        "captions": list(captions),
        "start": start,
    } | (modes or {})
    return Scene(title, len(captions), modes is not None, start, data)


def _orientation(points: Array) -> tuple[Array, Array, Array]:
    """Principal axes as rows, the longest first; the middle; and half the extent along each axis."""
    middle = points.mean(axis=0)
    _, vectors = np.linalg.eigh((points - middle).T @ (points - middle))
    axes = vectors.T[::-1].copy()
    for row in axes[:2]:  # the same side up for the same structure, whatever the sign that the algebra gave
        row *= np.sign(row[np.abs(row).argmax()]) or 1.0
    axes[2] = np.cross(axes[0], axes[1])
    along = (points - middle) @ axes.T
    low, high = along.min(axis=0), along.max(axis=0)
    return axes, middle + (low + high) / 2 @ axes, (high - low) / 2


def _cell_edges(atoms: Atoms) -> Array:
    """End points of the twelve edges of the cell of a periodic structure, [24, 3]; or none."""
    if not atoms.pbc.any() or not np.isfinite(atoms.cell.array).all():
        return np.zeros((0, 3))
    corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)], dtype=float)
    edges = [(a, b) for a in range(8) for b in range(a + 1, 8) if np.abs(corners[a] - corners[b]).sum() == 1]
    return np.asarray(corners[np.array(edges).reshape(-1)] @ atoms.cell.array)


def _kept(count: int, size: int) -> NDArray[np.int64]:
    """Indices of the frames that a report holds: all, or as many as fit, evenly, with both ends."""
    most = max(2, MOST_FRAMES // size)
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def _packed(values: Array, kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype=np.dtype(kind)).tobytes()).decode()
