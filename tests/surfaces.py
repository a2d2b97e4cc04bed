"""Potential energy surfaces with known saddles, as ASE calculators, without any model."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

BOND, STIFF = 1.0, 30.0
SIDE, SOFT = 1.6, 10.0


class Springs(Calculator):
    """Springs between atoms, E = Σ k/2 (r − r₀)²: three atoms around a fourth are a pyramid that turns inside out.

    Where the base of the pyramid would like to be wider than its edges allow in a plane, the planar structure is a
    saddle between two mirror images.
    """

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    pairs = ((0, 1), (0, 2), (0, 3), (1, 2), (2, 3), (1, 3))

    def __init__(self, fail_after: int | None = None, nan_after: int | None = None) -> None:
        super().__init__()
        self.calls, self.fail_after, self.nan_after = 0, fail_after, nan_after

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.calls += 1
        if self.fail_after is not None and self.calls > self.fail_after:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        x, energy, forces = self.atoms.positions, 0.0, np.zeros((len(self.atoms), 3))
        for i, j in self.pairs:
            k, length = (STIFF, BOND) if i == 0 else (SOFT, SIDE)
            arm = x[i] - x[j]
            r = np.linalg.norm(arm)
            energy += k / 2 * (r - length) ** 2
            pull = k * (r - length) * arm / r
            forces[i] -= pull
            forces[j] += pull
        if self.nan_after is not None and self.calls > self.nan_after:
            energy = float("nan")
        self.results = {"energy": energy, "forces": forces}


def pyramid(up: bool = True) -> Atoms:
    """The minimum of `Springs`: no spring is strained."""
    radius = SIDE / np.sqrt(3)
    height = np.sqrt(BOND**2 - radius**2) * (1 if up else -1)
    angles = 2 * np.pi / 3 * np.arange(3)
    base = np.stack((radius * np.cos(angles), radius * np.sin(angles), np.zeros(3)), axis=1)
    return Atoms("NH3", np.vstack(([0.0, 0.0, height], base)))


def planar_barrier() -> float:
    """Energy of the planar saddle in eV: three edges of length s and three sides of length √3 s, at the best s."""
    root = np.sqrt(3)
    s = (STIFF * BOND + SOFT * root * SIDE) / (STIFF + 3 * SOFT)
    return 1.5 * (STIFF * (s - BOND) ** 2 + SOFT * (root * s - SIDE) ** 2)


class LEPS(Calculator):
    """London–Eyring–Polanyi–Sato: an atom takes one of a molecule's two atoms, A + BC → AB + C, all of one element.

    E = Q₁ + Q₂ + Q₃ − √(J₁² + J₂² + J₃² − J₁J₂ − J₂J₃ − J₁J₃) with Q and J from Morse and anti-Morse curves. Its saddle
    is linear with two equal distances; far apart there is no force.
    """

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    depth, decay, length, sato = 4.746, 1.942, 0.7417, 0.05

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        x, pairs = self.atoms.positions, ((0, 1), (1, 2), (0, 2))
        r = np.array([np.linalg.norm(x[i] - x[j]) for i, j in pairs])
        e = np.exp(-self.decay * (r - self.length))
        scale = self.depth / 4 / (1 + self.sato)
        q = scale * ((3 + self.sato) * e**2 - (2 + 6 * self.sato) * e)
        j = scale * ((1 + 3 * self.sato) * e**2 - (6 + 2 * self.sato) * e)
        dq = -self.decay * scale * (2 * (3 + self.sato) * e**2 - (2 + 6 * self.sato) * e)
        dj = -self.decay * scale * (2 * (1 + 3 * self.sato) * e**2 - (6 + 2 * self.sato) * e)
        root = np.sqrt(max(j @ j - j[0] * j[1] - j[1] * j[2] - j[0] * j[2], 1e-300))
        slope = dq - dj * (3 * j - j.sum()) / 2 / root
        forces = np.zeros((3, 3))
        for (a, b), s, distance in zip(pairs, slope, r, strict=True):
            unit = (x[a] - x[b]) / distance
            forces[a] -= s * unit
            forces[b] += s * unit
        self.results = {"energy": float(q.sum() - root), "forces": forces}


def exchange(a: float, b: float) -> Atoms:
    """Three atoms on a line, a and b Å apart, bent by very little, as a search would meet them."""
    return Atoms("H3", [[-a, 0.0, 0.0], [0.0, 0.02, 0.0], [b, 0.0, 0.01]])
