"""What kind of point of the energy surface a structure is, with the thresholds that decide it.

A point is stationary where the forces vanish, and its order is the number of directions in which it is a maximum: 0 for
a minimum, 1 for a transition state. Neither is sharp in numbers, so both thresholds belong to the answer.
"""

from __future__ import annotations

from dataclasses import dataclass

from hip_ext.vibrations.modes import IMAGINARY_THRESHOLD, Vibrations

FORCE_LIMIT = 0.05
"""eV/Å: with a larger force on any free atom a structure is no stationary point, and its frequencies mean little."""


@dataclass(frozen=True)
class StationaryPoint:
    """The order of a stationary point, and whether it is one.

    Attributes:
        order: imaginary modes beyond `threshold`.
        threshold: cm⁻¹ beyond which a negative eigenvalue counts.
        largest_force: eV/Å, on a free atom; None where forces are not known.
        force_limit: eV/Å up to which a point counts as stationary.
    """

    order: int
    threshold: float
    largest_force: float | None
    force_limit: float

    @property
    def is_stationary(self) -> bool | None:
        """Whether no force exceeds the limit; None where forces are not known."""
        return None if self.largest_force is None else self.largest_force <= self.force_limit

    @property
    def kind(self) -> str:
        """In words: "minimum", "saddle point of order k", or "not stationary"."""
        if self.is_stationary is False:
            return "not stationary"
        return "minimum" if self.order == 0 else f"saddle point of order {self.order}"


def stationary_point(
    vibrations: Vibrations, *, threshold: float = IMAGINARY_THRESHOLD, force_limit: float = FORCE_LIMIT
) -> StationaryPoint:
    """Tells minima, saddle points and other points apart.

    Args:
        vibrations: an analysis, best with forces; without them only the curvature is known.
        threshold: cm⁻¹ beyond which a negative eigenvalue counts as an imaginary mode.
        force_limit: eV/Å up to which a point counts as stationary.
    """
    order = int((vibrations.frequencies < -threshold).sum())
    return StationaryPoint(order, threshold, vibrations.force_residual, force_limit)
