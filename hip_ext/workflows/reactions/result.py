"""What is known of a reaction in the end: plain data, for tables, files and reports."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from ase import Atoms

from hip_ext.vibrations import Vibrations
from hip_ext.workflows.reactions.ends import Minimum
from hip_ext.workflows.reactions.saddle import Saddle
from hip_ext.workflows.reactions.surface import Array, Cost


@dataclass(frozen=True, eq=False)
class ReactionPath:
    """The path through a saddle, from the reactant's side to the product's.

    Attributes:
        frames: K structures, the saddle among them.
        coordinate: arc length in mass-weighted coordinates, 0 at the saddle, Å √amu, [K].
        energies: eV, [K].
        saddle: the index of the saddle.
        reached: whether the forces have vanished at the first and at the last frame.
    """

    frames: list[Atoms]
    coordinate: Array
    energies: Array
    saddle: int
    reached: tuple[bool, bool]


@dataclass(frozen=True, eq=False)
class End:
    """The minimum at one end of a path.

    Attributes:
        minimum: relaxed from the foot of the path.
        molecules: by their formulas, such as "C2H4 + H2O".
        vibrations: exact; None where it is no minimum.
    """

    minimum: Minimum
    molecules: str
    vibrations: Vibrations | None


@dataclass(frozen=True)
class Barrier:
    """From one end up to the saddle, at one temperature and pressure.

    Attributes:
        energy: difference of the potential energies, eV.
        zero_point: the same with zero-point energies, eV.
        gibbs: ΔG‡ of the ideal gas, rigid rotor and harmonic oscillator, eV; None where an end has no such energy.
        rate: Eyring's, without tunnelling, 1/s; None as `gibbs`.
    """

    energy: float
    zero_point: float
    gibbs: float | None
    rate: float | None


@dataclass(frozen=True, eq=False)
class TransitionState:
    """A reaction.

    Attributes:
        saddle: the end of the search and its exact vibrations, the first of which is the mode that reacts.
        guess: what the search started from.
        path: None if there is no saddle, or the path could not be followed.
        reactant: the end on the side of the intended reactant, or of the first half of the path; None as `path`.
        product: the other.
        match: "both", "one" or "none" of the intended ends were found; "" where none were given.
        changes: bonds that break and form from reactant to product.
        forward: the barrier from the reactant; None without both ends.
        reverse: the barrier from the product.
        wigner: factor by which tunnelling speeds both rates up.
        temperature: K.
        pressure: Pa.
        cost: passes of all this.
        notes: what is to be known about the result, a line each.
    """

    saddle: Saddle
    guess: Atoms
    temperature: float
    pressure: float
    path: ReactionPath | None = None
    reactant: End | None = None
    product: End | None = None
    match: str = ""
    changes: str = ""
    forward: Barrier | None = None
    reverse: Barrier | None = None
    wigner: float | None = None
    cost: Cost = field(default_factory=Cost)
    notes: tuple[str, ...] = ()

    @property
    def problem(self) -> str:
        """Why there is no saddle of first order, one line; empty if there is one."""
        return self.saddle.problem

    @property
    def reacting_mode(self) -> Array:
        """The displacements of the lowest mode of the saddle, scaled so that the fastest atom moves by 1, [N, 3]."""
        mode = self.saddle.vibrations.lowest_mode
        return np.asarray(mode / np.linalg.norm(mode, axis=1).max())

    def numbers(self) -> dict[str, str | float | int | None]:
        """All that fits into a row of a table: eV, cm⁻¹, 1/s; an imaginary wavenumber is negative."""
        modes = self.saddle.vibrations
        row: dict[str, str | float | int | None] = {
            "formula": self.guess.get_chemical_formula(),
            "atoms": len(self.guess),
            "energy": self.saddle.energy,
            "largest_force": self.saddle.largest_force,
            "imaginary_modes": modes.num_imaginary,
            "imaginary_wavenumber": float(modes.frequencies[0]) if modes.num_imaginary else None,
            "reactant": self.reactant.molecules if self.reactant else None,
            "product": self.product.molecules if self.product else None,
            "changes": self.changes,
            "match": self.match,
        }
        for name, barrier in (("forward", self.forward), ("reverse", self.reverse)):
            row |= {
                f"{name}_barrier": barrier.energy if barrier else None,
                f"{name}_barrier_zpe": barrier.zero_point if barrier else None,
                f"{name}_gibbs": barrier.gibbs if barrier else None,
                f"{name}_rate": barrier.rate if barrier else None,
            }
        return row | {
            "wigner": self.wigner,
            "temperature": self.temperature,
            "steps": self.saddle.steps,
            "gradients": self.cost.gradients,
            "direct_hessians": self.cost.direct,
            "exact_hessians": self.cost.exact,
        }
