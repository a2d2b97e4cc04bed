"""A report with every kind of part, on numbers made up for it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.build import molecule

from hip_ext.report import (
    Bands,
    EnergyProfile,
    Flags,
    HessianMap,
    Modes,
    Note,
    Part,
    Provenance,
    Section,
    Structure3D,
    Table,
)

POINTS = 9


def ethanol() -> Atoms:
    return molecule("CH3CH2OH")


def modes(atoms: Atoms | None = None, intensities: bool = True, title: str = "Vibrations") -> Modes:
    """3N − 6 modes, the first imaginary, evenly up to 3700 cm⁻¹."""
    atoms = ethanol() if atoms is None else atoms
    count = 3 * len(atoms) - 6
    rng = np.random.default_rng(0)
    frequencies = np.linspace(100, 3700, count)
    frequencies[0] = -512.3
    strengths = np.linspace(5, 100, count) if intensities else None
    return Modes(atoms, frequencies, rng.normal(size=(count, len(atoms), 3)), strengths, title)


def hessian(atoms: Atoms | None = None) -> HessianMap:
    atoms = ethanol() if atoms is None else atoms
    half = np.random.default_rng(1).normal(size=(3 * len(atoms), 3 * len(atoms)))
    return HessianMap(atoms, half + half.T)


def path(title: str = "Reaction path") -> EnergyProfile:
    """The hydroxyl hydrogen moves away; the highest point is the middle one."""
    along = np.linspace(-2, 2, POINTS)
    frames = []
    for shift in along:
        frame = ethanol()
        frame.positions[3] += [0, 0, 0.2 * shift + 0.4]
        frames.append(frame)
    labels = ["" for _ in along]
    labels[0], labels[POINTS // 2], labels[-1] = "reactant", "saddle", "product"
    return EnergyProfile(labels, along, 0.8 - 0.2 * along**2, frames, title, "s, Å √amu")


def levels() -> EnergyProfile:
    return EnergyProfile(["A", "saddle", "B"], None, [0.0, 0.9, -0.2], title="Free energies")


def bands() -> Bands:
    q = np.linspace(0, 2, 40)
    lines = np.stack([100 * np.sin(np.pi * q / 2), 300 - 20 * np.cos(np.pi * q)], axis=1)
    grid = np.linspace(-5, 330, 60)
    return Bands(q, lines, ["G", "X", "K", "G"], [0, 1, 1, 2], (grid, np.exp(-(((grid - 150) / 60) ** 2))), lines + 5)


def texts() -> list[Part]:
    return [
        Flags(
            [("forces", True, "0.003 eV/Å"), ("index", False, "2 imaginary modes"), ("exact", None, "not asked for")]
        ),
        Table("Thermochemistry", ["T, K", "G, eV"], [["298.15", "−0.512"], ["500.00", "−1.204"]]),
        Provenance({"model": "hip-so3lr-organic", "version": "0.1.0"}),
        Note("A note."),
    ]


def full() -> list[Part | Section]:
    """Two sections with a view, and one without."""
    first = [*texts()[:1], modes(), hessian(), *texts()[1:]]
    second: Sequence[Part] = [path(), levels(), Structure3D(ethanol(), "Product"), modes(title="Modes of the saddle")]
    return [Section("Ethanol", first), Section("A reaction", second), Section("A crystal", [bands()])]
