"""What a report can hold: plain data, checked when it is made, with no word about how it is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike, NDArray

from hip_ext.errors import DataError, StructureError

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Structure3D:
    """One structure to turn about, or several frames to step through.

    Attributes:
        frames: a structure, or K frames of the same atoms in the same order.
        title: what they are.
        captions: a line for each frame, [K]; by default their numbers.
    """

    frames: Atoms | Sequence[Atoms]
    title: str = "Structure"
    captions: Sequence[str] | None = None

    def __post_init__(self) -> None:
        frames = list_frames(self.frames, self.title)
        if self.captions is not None and len(self.captions) != len(frames):
            raise DataError(f"{self.title}: {len(frames)} frames but {len(self.captions)} captions")


@dataclass(frozen=True, eq=False)
class Modes:
    """M normal modes of N atoms, with their spectrum.

    Attributes:
        atoms: the structure.
        frequencies_cm: cm⁻¹, imaginary ones negative, [M]; one that is not finite is listed and not drawn.
        displacements: Cartesian, of any length, [K, N, 3]: of the first K ≤ M modes; only these can be animated.
        intensities: infrared, km/mol, [M]; None draws all lines equally high.
        title: what they are.
    """

    atoms: Atoms
    frequencies_cm: ArrayLike
    displacements: ArrayLike
    intensities: ArrayLike | None = None
    title: str = "Vibrations"

    def __post_init__(self) -> None:
        (atoms,) = list_frames(self.atoms, self.title)
        count = len(numbers(self.frequencies_cm, f"{self.title}: frequencies", (None,)))
        moves = numbers(self.displacements, f"{self.title}: displacements", (None, len(atoms), 3))
        if len(moves) > count:
            raise DataError(f"{self.title}: {count} frequencies but displacements of {len(moves)} modes")
        if not np.isfinite(moves).all():
            raise DataError(f"{self.title}: the displacements are not all finite")
        if self.intensities is not None:
            numbers(self.intensities, f"{self.title}: intensities", (count,))


@dataclass(frozen=True, eq=False)
class EnergyProfile:
    """Energies along a path, or of a few named states.

    Attributes:
        labels: names of the K points, empty for those without one, [K].
        coordinate: rising or falling, [K], which draws a curve; None draws K levels side by side.
        energies_eV: eV, on any zero, [K]; one that is not finite leaves a gap.
        frames: the structures at the points, of the same atoms in the same order, [K]; or None.
        title: what it is.
        coordinate_label: name and unit of the coordinate.
    """

    labels: Sequence[str]
    coordinate: ArrayLike | None
    energies_eV: ArrayLike
    frames: Sequence[Atoms] | None = None
    title: str = "Energy profile"
    coordinate_label: str = "reaction coordinate"

    def __post_init__(self) -> None:
        count = len(numbers(self.energies_eV, f"{self.title}: energies", (None,)))
        if len(self.labels) != count:
            raise DataError(f"{self.title}: {count} energies but {len(self.labels)} labels")
        if self.coordinate is not None:
            along = numbers(self.coordinate, f"{self.title}: coordinate", (count,))
            if not np.isfinite(along).all():
                raise DataError(f"{self.title}: the coordinate is not finite everywhere")
        if self.frames is not None and len(list_frames(self.frames, self.title)) != count:
            raise DataError(f"{self.title}: {count} energies but {len(self.frames)} frames")


@dataclass(frozen=True, eq=False)
class Bands:
    """Phonon bands along a path of wave vectors, perhaps with their density of states.

    Attributes:
        distance: along the path, [Q].
        wavenumbers_cm: cm⁻¹, imaginary ones negative, [Q, B].
        labels: names of the special points.
        label_distance: where these are.
        dos: wavenumbers in cm⁻¹ and states per cm⁻¹, two arrays of one length; or None.
        compared_cm: the same bands from elsewhere, [Q, B], drawn behind; or None.
        title: what they are.
        compared_label: where the others come from.
    """

    distance: ArrayLike
    wavenumbers_cm: ArrayLike
    labels: Sequence[str]
    label_distance: ArrayLike
    dos: tuple[ArrayLike, ArrayLike] | None = None
    compared_cm: ArrayLike | None = None
    title: str = "Phonons"
    compared_label: str = "finite displacements"

    def __post_init__(self) -> None:
        points = len(numbers(self.distance, f"{self.title}: distance", (None,)))
        shape = numbers(self.wavenumbers_cm, f"{self.title}: wavenumbers", (points, None)).shape
        numbers(self.label_distance, f"{self.title}: label_distance", (len(self.labels),))
        if self.compared_cm is not None:
            numbers(self.compared_cm, f"{self.title}: compared wavenumbers", shape)
        if self.dos is not None:
            grid = numbers(self.dos[0], f"{self.title}: wavenumbers of the states", (None,))
            numbers(self.dos[1], f"{self.title}: density of states", grid.shape)


@dataclass(frozen=True, eq=False)
class HessianMap:
    """A Hessian as a map of its blocks.

    Attributes:
        atoms: the structure, N atoms.
        matrix: eV/Å², [3N, 3N]; entries that are not finite are counted and left blank.
        title: what it is.
    """

    atoms: Atoms
    matrix: ArrayLike
    title: str = "Hessian"

    def __post_init__(self) -> None:
        (atoms,) = list_frames(self.atoms, self.title)
        numbers(self.matrix, f"{self.title}: matrix", (3 * len(atoms), 3 * len(atoms)))


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of text.

    Attributes:
        title: above it.
        header: one name a column.
        rows: cells; numbers are written in full, so round them before.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[object]]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise DataError(f"{self.title}: a row of {len(row)} cells under {len(self.header)} names")


@dataclass(frozen=True, eq=False)
class Flags:
    """Checks that a result passed or failed.

    Attributes:
        checks: name, whether it passed (None: not done), and a sentence with the figure and the limit.
        title: above them.
    """

    checks: Sequence[tuple[str, bool | None, str]]
    title: str = "Checks"


@dataclass(frozen=True, eq=False)
class Provenance:
    """Where a result comes from.

    Attributes:
        values: names and values, shown as text in this order.
        title: above them.
    """

    values: Mapping[str, object]
    title: str = "Provenance"


@dataclass(frozen=True, eq=False)
class Note:
    """A paragraph of text."""

    text: str


@dataclass(frozen=True, eq=False)
class Section:
    """Parts that belong to one structure or one reaction, and share one 3D view.

    Attributes:
        title: above them.
        parts: in the order shown.
    """

    title: str
    parts: Sequence[Part]


Part = Structure3D | Modes | EnergyProfile | Bands | HessianMap | Table | Flags | Provenance | Note


def list_frames(frames: Atoms | Sequence[Atoms], name: str) -> list[Atoms]:
    """The frames as a list.

    Raises:
        StructureError: there is none, one has no atoms or positions that are not finite, or they differ in their atoms.
    """
    listed = [frames] if isinstance(frames, Atoms) else list(frames)
    if not listed or not len(listed[0]):
        raise StructureError(f"{name}: there is no structure to show, found {len(listed)} frames without atoms")
    for index, frame in enumerate(listed):
        if not np.array_equal(frame.numbers, listed[0].numbers):
            raise StructureError(f"{name}: frame {index} has other atoms, or another order of them, than frame 0")
        if not np.isfinite(frame.positions).all():
            raise StructureError(f"{name}: frame {index} has positions that are not finite")
    return listed


def numbers(values: Any, name: str, shape: tuple[int | None, ...]) -> Array:
    """The values as an array of this shape, where None stands for any length.

    Raises:
        DataError: they are no numbers, or of another shape.
    """
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{name}: numbers expected, found {type(values).__name__}") from None
    if array.ndim != len(shape) or any(want not in (None, have) for want, have in zip(shape, array.shape, strict=True)):
        wanted = " × ".join("any" if want is None else str(want) for want in shape)
        raise DataError(f"{name}: shape {wanted} expected, found {' × '.join(map(str, array.shape)) or 'one number'}")
    return array
