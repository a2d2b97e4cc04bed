"""What `hip-ext frequencies` finds out about one frame: plain values for JSON and tables, and the vibrations."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from hip_ext.cli.making import Made
from hip_ext.cli.vibration_options import Request
from hip_ext.errors import StructureError

if TYPE_CHECKING:
    import numpy as np
    from ase import Atoms
    from numpy.typing import NDArray

    from hip_ext.model import HessianModel
    from hip_ext.vibrations import Flag, PointGroup, ThermoState, Vibrations
    from hip_ext.vibrations.verified import Method


@dataclass(frozen=True)
class Frame:
    """A frame and what was found.

    Attributes:
        vibrations: scaled, of the Hessian that holds in the end.
        hessian: that Hessian, eV/Å², [3N, 3N].
        values: the plain values of the result.
        energy: eV, 0 where it is not known.
        group: point group, where it was asked for.
        state: harmonic thermochemistry at the first temperature and pressure, where there is any.
        refused: why there is no thermochemistry though it was asked for; empty otherwise.
    """

    vibrations: Vibrations
    hessian: NDArray[np.float64]
    values: dict[str, Any]
    energy: float = 0.0
    group: PointGroup | None = None
    state: ThermoState | None = None
    refused: str = ""


def examine(model: HessianModel, made: Made, method: Method, request: Request) -> Frame:
    """Vibrations of a Hessian that was made of a model, checked against the model's backbone.

    Raises:
        HipExtError: as `hip_ext.vibrations.verified.verified_vibrations`.
    """
    from hip_ext.vibrations import analyse
    from hip_ext.vibrations.verified import verified_vibrations

    masses = _masses(made.atoms, request)
    found = verified_vibrations(
        model,
        made.atoms,
        method=method,
        fallback=request.exact,
        masses=masses,
        indices=request.free,
        infrared=request.infrared,
        hessian=made.hessian,
        forces=made.forces,
    )
    modes = found.vibrations.scaled(request.scale)
    exact = None
    if made.exact is not None:
        exact = analyse(made.atoms, made.exact, masses=masses, indices=request.free).scaled(request.scale)
    values = described(made, modes, exact, request.threshold)
    values |= _judged(modes, found.flags, request) | {
        "method": found.method,
        "replaced": [flag.text for flag in found.replaced],
        "energy": made.energy,
    }
    return _with_thermo(Frame(modes, found.hessian, values, made.energy), request)


def examine_given(atoms: Atoms, hessian: NDArray[np.float64], request: Request) -> Frame:
    """Vibrations of a Hessian from a file: neither forces nor the energy are known.

    Raises:
        HipExtError: as `hip_ext.vibrations.analyse`.
    """
    from hip_ext.vibrations import analyse, consistency

    modes = analyse(atoms, hessian, masses=_masses(atoms, request), indices=request.free)
    flags = consistency(modes)
    modes = modes.scaled(request.scale)
    values = _basic(atoms, modes, request.threshold) | _judged(modes, flags, request) | {"method": "file"}
    return _with_thermo(Frame(modes, hessian, values), request)


def compared(made: Made, threshold: float) -> dict[str, Any]:
    """The vibrations of a frame, and of its exact Hessian where there is one, without any check.

    Raises:
        HipExtError: as `hip_ext.vibrations.analyse`.
    """
    from hip_ext.vibrations import analyse

    exact = None if made.exact is None else analyse(made.atoms, made.exact)
    return described(made, analyse(made.atoms, made.hessian), exact, threshold)


def described(made: Made, modes: Vibrations, exact: Vibrations | None, threshold: float) -> dict[str, Any]:
    """Frequencies and zero-point energy in cm⁻¹ and eV, imaginary ones negative; errors where there is an exact one.

    `products` of the backbone's Hessian is there where they refined the prediction.
    """
    import numpy as np

    found = _basic(made.atoms, modes, threshold) | {"largest_force": made.largest_force, "seconds": made.seconds}
    if made.products:
        found["products"] = made.products
    if exact is not None and made.exact is not None and made.exact_seconds is not None:
        gaps = np.abs(modes.frequencies - exact.frequencies)
        found |= {
            "hessian_mae": float(np.abs(made.hessian - made.exact).mean()),
            "frequency_mae": float(gaps.mean()) if len(gaps) else 0.0,
            "exact_frequencies": exact.frequencies,
            "exact_zero_point_energy": exact.zero_point_energy,
            "exact_imaginary_modes": int((exact.frequencies < -threshold).sum()),
            "exact_seconds": made.exact_seconds,
            "speed_up": made.exact_seconds / made.seconds,
        }
    return found


def _basic(atoms: Atoms, modes: Vibrations, threshold: float) -> dict[str, Any]:
    return {
        "formula": atoms.get_chemical_formula(),
        "atoms": len(atoms),
        "frequencies": modes.frequencies,
        "zero_point_energy": modes.zero_point_energy,
        "imaginary_modes": int((modes.frequencies < -threshold).sum()),
    }


def _judged(modes: Vibrations, flags: tuple[Flag, ...], request: Request) -> dict[str, Any]:
    from hip_ext.vibrations import stationary_point

    point = stationary_point(modes, threshold=request.threshold)
    # Where atoms are fixed, the forces on these are no matter.
    known = {} if point.largest_force is None else {"largest_force": point.largest_force}
    return known | {
        "kind": point.kind,
        "order": point.order,
        "threshold": point.threshold,
        "force_limit": point.force_limit,
        "intensities": modes.intensities,
        "flags": [asdict(flag) for flag in flags],
        "ok": all(flag.ok for flag in flags),
    }


def _masses(atoms: Atoms, request: Request) -> NDArray[np.float64] | None:
    from hip_ext.vibrations import isotope_masses

    return isotope_masses(atoms, request.isotopes) if request.isotopes else None


def _with_thermo(frame: Frame, request: Request) -> Frame:
    """The frame with thermochemistry, or with the reason why there is none."""
    if not request.temperatures:
        return frame
    from dataclasses import replace

    from hip_ext.structures import unpaired_electrons
    from hip_ext.vibrations import PointGroup, point_group, thermochemistry

    modes, group = frame.vibrations, None
    multiplicity = request.multiplicity or round(unpaired_electrons(modes.atoms)) + 1
    try:
        if modes.geometry is not None:
            group = point_group(modes.atoms) if request.symmetry_number is None else None
            group = group or PointGroup("C1", int(request.symmetry_number or 1))
        remaining = int((modes.frequencies < -max(request.invert, request.threshold)).sum())
        number = request.symmetry_number if group is None else group.symmetry_number

        def states(low_modes: Any, temperatures: list[float], pressures: list[float]) -> list[ThermoState]:
            return thermochemistry(
                modes,
                frame.energy,
                symmetry_number=number,
                spin=(multiplicity - 1) / 2,
                temperatures=temperatures,
                pressures=pressures,
                low_modes=low_modes,
                cutoff=request.cutoff,
                invert_below=request.invert,
                transition_state=remaining == 1,
            )

        found = states(request.low_modes.value, request.temperatures, request.pressures)
        plain = states("harmonic", request.temperatures[:1], request.pressures[:1])[0]
    except StructureError as error:
        values = frame.values | {"thermochemistry": [], "thermochemistry_refused": str(error)}
        return replace(frame, values=values, refused=str(error))
    values = frame.values | {
        "thermochemistry": [asdict(state) for state in found],
        "low_modes": request.low_modes.value,
        "point_group": None if request.symmetry_number is not None or group is None else group.name,
        "symmetry_number": number,
        "multiplicity": multiplicity,
        "transition_state": remaining == 1,
        "scale": request.scale,
    }
    return replace(frame, values=values, group=group, state=None if plain.pressure is None else plain)
