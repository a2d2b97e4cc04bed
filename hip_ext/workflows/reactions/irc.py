"""The steepest-descent path from a saddle in mass-weighted coordinates, both ways: the intrinsic reaction coordinate.

With q = M^½ x, g and H the gradient and Hessian there, a step of length s solves dq/dt = −g − H (q − q₀) exactly and
follows it until the arc has length s (the local quadratic approximation of Page and McIver, J. Chem. Phys. 88, 922,
1988):

    q(t) = q₀ − U [(1 − e^(−λt)) / λ] Uᵀ g,    H = U λ Uᵀ

One gradient a step. The Hessian is the exact one of the saddle, updated by the gradients of the path (Bofill), or made
anew at every step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from ase import Atoms

from hip_ext.errors import ConfigError
from hip_ext.vibrations import mass_weighted, rigid_modes
from hip_ext.workflows.reactions.surface import Array, HessianMethod, Surface

PathHessian = Literal["updated", "direct", "autograd", "finite_difference"]
UPHILL = 1e-4
"""eV by which the energy may rise in a step: the noise of float32 energies of some thousand eV."""

SHORTEST = 1 / 16
"""Fraction of the step length below which steps are not halved any further."""


@dataclass(frozen=True)
class PathSettings:
    """How to follow the path.

    Attributes:
        step: length of a step, Å √amu.
        steps: at most so many each way.
        fmax: largest force at the foot of the path, eV/Å.
        hessian: "updated" from the one of the saddle, or made anew at every step.
    """

    step: float = 0.15
    steps: int = 120
    fmax: float = 0.05
    hessian: PathHessian = "updated"

    def __post_init__(self) -> None:
        if not (self.step > 0 and self.fmax > 0) or self.steps < 1:
            raise ConfigError(f"step {self.step}, steps {self.steps}, fmax {self.fmax}: all must be positive")


@dataclass(frozen=True, eq=False)
class Branch:
    """One way down from a saddle.

    Attributes:
        frames: structures from the first step on.
        coordinate: arc length at each of them, Å √amu, [K].
        energies: eV, [K].
        reached: whether the forces have vanished at the last.
    """

    frames: list[Atoms]
    coordinate: Array
    energies: Array
    reached: bool


def descend(saddle: Atoms, hessian: Array, sign: int, surface: Surface, settings: PathSettings | None = None) -> Branch:
    """Follows the path down one way.

    Args:
        saddle: a stationary point with one negative mode.
        hessian: there, exact, eV/Å², [3N, 3N].
        sign: +1 or −1 along its lowest mode, whose sign is fixed by its largest component being positive.
        surface: energies and forces.
        settings: as they are by default.

    Raises:
        BackboneError: the surface fails.
    """
    settings = settings or PathSettings()
    walk = _Walk(surface, saddle, hessian)
    mode = _lowest(walk.hessian)
    walk.move(sign * settings.step * mode)
    frames, coordinate, energies = [walk.frame()], [settings.step], [walk.energy]
    length, reached = settings.step, False
    while len(frames) < settings.steps:
        if settings.hessian != "updated":
            walk.renew(settings.hessian)
        before = walk.state()
        shift = _quadratic_step(walk.gradient, walk.hessian, length)
        walk.move(shift)
        if walk.energy > before.energy + UPHILL:
            walk.restore(before)
            if length > SHORTEST * settings.step:
                length /= 2
                continue
            break
        frames.append(walk.frame())
        coordinate.append(coordinate[-1] + float(np.linalg.norm(shift)))
        energies.append(walk.energy)
        if walk.largest_force < settings.fmax:
            reached = True
            break
        length = min(settings.step, 1.5 * length)
    return Branch(frames, np.asarray(coordinate), np.asarray(energies), reached)


@dataclass(frozen=True)
class _State:
    positions: Array
    energy: float
    gradient: Array
    hessian: Array
    largest_force: float


class _Walk:
    """A point on the way down in mass-weighted coordinates, with gradient and Hessian."""

    def __init__(self, surface: Surface, atoms: Atoms, hessian: Array) -> None:
        self.surface = surface
        self.atoms = surface.on(atoms)
        self.masses = self.atoms.get_masses()
        self.root = np.sqrt(np.repeat(self.masses, 3))
        self.hessian = self._projected(hessian)
        self._look()

    def move(self, shift: Array) -> None:
        """Goes by `shift` in mass-weighted coordinates, and learns from the change of the gradient."""
        old = self.gradient
        self.atoms.positions += (shift / self.root).reshape(-1, 3)
        self._look()
        self.hessian = _bofill(self.hessian, shift, self.gradient - old)

    def renew(self, method: HessianMethod) -> None:
        self.hessian = self._projected(self.surface.hessian(self.atoms, method))

    def state(self) -> _State:
        return _State(self.atoms.positions.copy(), self.energy, self.gradient, self.hessian, self.largest_force)

    def restore(self, state: _State) -> None:
        """Goes back, but keeps what the step has taught about the curvature."""
        self.atoms.positions = state.positions
        self.energy, self.gradient, self.largest_force = state.energy, state.gradient, state.largest_force

    def frame(self) -> Atoms:
        bare = self.atoms.copy()
        bare.calc = None
        return bare

    def _look(self) -> None:
        forces = self.atoms.get_forces()
        self.energy = float(self.atoms.get_potential_energy())
        self.gradient = -forces.ravel() / self.root
        self.largest_force = float(np.linalg.norm(forces, axis=1).max())

    def _projected(self, hessian: Array) -> Array:
        """Mass-weighted, with the rigid motions taken out."""
        rigid = rigid_modes(self.atoms.positions, self.masses)
        keep = np.eye(len(self.root)) - rigid @ rigid.T
        return np.asarray(keep @ mass_weighted((hessian + hessian.T) / 2, self.masses) @ keep)


def _lowest(hessian: Array) -> Array:
    mode: Array = np.linalg.eigh(hessian)[1][:, 0]
    return mode * np.sign(mode[np.argmax(np.abs(mode))])


def _quadratic_step(gradient: Array, hessian: Array, length: float) -> Array:
    """The displacement after an arc of the given length on the steepest-descent path of the quadratic surface."""
    values, vectors = np.linalg.eigh(hessian)
    along = vectors.T @ gradient
    # Times dense near zero and reaching far beyond the slowest decay; a growth is cut off long before the last.
    scale = length / max(float(np.linalg.norm(along)), 1e-12)
    times = scale * np.concatenate(([0.0], np.geomspace(1e-3, 1e3, 2000)))
    with np.errstate(over="ignore"):
        decay = np.exp(np.clip(-np.outer(times, values), -700, 50))
    speed = np.linalg.norm(decay * along, axis=1)
    arc = np.concatenate(([0.0], np.cumsum((speed[1:] + speed[:-1]) / 2 * np.diff(times))))
    time = times[-1] if arc[-1] < length else float(np.interp(length, arc, times))
    flat = np.abs(values * time) < 1e-8
    safe = np.where(flat, 1.0, values)
    factor = np.where(flat, time, -np.expm1(np.clip(-safe * time, -700, 50)) / safe)
    return np.asarray(-vectors @ (factor * along))


def _bofill(hessian: Array, step: Array, change: Array) -> Array:
    """Bofill's mixture of the symmetric rank-one and the Powell update, which may keep negative eigenvalues."""
    miss = change - hessian @ step
    square, product = float(step @ step), float(miss @ step)
    if square < 1e-16 or float(miss @ miss) < 1e-20:
        return hessian
    weight = product**2 / (square * float(miss @ miss))
    powell = (np.outer(miss, step) + np.outer(step, miss)) / square - product * np.outer(step, step) / square**2
    rank_one = np.outer(miss, miss) / product if weight > 1e-12 else 0.0
    return np.asarray(hessian + weight * rank_one + (1 - weight) * powell)
