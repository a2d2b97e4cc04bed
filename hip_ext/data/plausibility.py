"""Whether the numbers of a record can be in Å, eV, eV/Å and eV/Å², and in which units they probably are if not.

Four things about chemistry hardly vary, and their scale gives the units away:

- positions: the nearest neighbour of an atom is 0.8 to 1.3 times as far as the sum of their covalent radii;
- Hessian: −r̂ᵀ H_ij r̂ of a bond is 10 to 70 eV/Å² where one atom is hydrogen, 4 to 180 between other non-metals; in
  metals and salts a third of the trace of H_ii is 0.8 to 60 (0.15 with alkali or alkaline earth metals or mercury);
- energy: if it is 1/27.2 of the energy of the atoms with all electrons, up to krypton, it is in Hartree. Nothing can be
  said of energies with pseudopotentials, or counted from isolated atoms;
- forces: H·(Lx) = L·g for each rotation generator L, g = −F (see `hip_ext.sum_rules`), so that the ratio of the two
  sides is 1, or else the unit, or −1 for forces of the wrong sign. Only where the forces are large enough to tell.

What is outside of these ranges is reported with the unit that would put it into them. Noble gases, single atoms and
atoms far from all others are not judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list
from ase.units import Bohr, Hartree, kcal, kJ, mol, nm
from numpy.typing import NDArray

from hip_ext.data.record import HessianRecord
from hip_ext.errors import DataError

LENGTHS = {"Bohr": Bohr, "ångström taken for Bohr and converted": 1 / Bohr, "nm": nm, "pm": 0.01}
ENERGIES = {"Hartree": Hartree, "kcal/mol": kcal / mol, "kJ/mol": kJ / mol}
FORCES = {
    "Hartree/Bohr": Hartree / Bohr,
    "Hartree/Å": Hartree,
    "eV/Bohr": 1 / Bohr,
    "kcal/mol/Å": kcal / mol,
    "kJ/mol/Å": kJ / mol,
    "meV/Å": 1e-3,
}
HESSIANS = {
    "Hartree/Bohr²": Hartree / Bohr**2,
    "Hartree/Å²": Hartree,
    "mdyn/Å": 6.241509,
    "eV/Bohr²": 1 / Bohr**2,
    "kcal/mol/Å²": kcal / mol,
    "kJ/mol/Å²": kJ / mol,
    "meV/Å²": 1e-3,
}
"""Units by name, in ours."""

TOLERATED = 0.01
"""Share of records that may look as if they were in other units: strained structures do, now and then."""

NOBLE = frozenset((2, 10, 18, 36, 54, 86))
NON_METALS = frozenset((1, 5, 6, 7, 8, 9, 14, 15, 16, 17, 32, 33, 34, 35, 52, 53))
SOFT = frozenset((3, 4, 11, 12, 19, 20, 37, 38, 55, 56, 80))
"""Alkali and alkaline earth metals, and mercury."""

HARTREE_FOCK = (
    *(0.5, 2.8617, 7.4327, 14.5730, 24.5291, 37.6886, 54.4009, 74.8094, 99.4093, 128.5471),
    *(161.8589, 199.6146, 241.8767, 288.8544, 340.7188, 397.5049, 459.4821, 526.8175),
    *(599.1648, 676.7582, 759.7357, 848.4060, 942.8843, 1043.3564, 1149.8663, 1262.4437),
    *(1381.4146, 1506.8709, 1638.9637, 1777.8481, 1923.2610, 2075.3597, 2234.2386, 2399.8676, 2572.4413, 2752.0550),
)
"""Minus the energies of the free atoms H to Kr, Hartree; correlation and bonds add less than 3 % from boron on."""


@dataclass(frozen=True)
class Suspicion:
    """A quantity that is probably in other units.

    Attributes:
        quantity: "positions", "energy", "forces" or "hessian".
        found: what is strange about it.
        likely: the unit that would explain it.
        factor: what brings it to our units.
    """

    quantity: str
    found: str
    likely: str
    factor: float

    def __str__(self) -> str:
        verb = "look" if self.quantity in ("positions", "forces") else "looks"
        return f"{self.quantity} {verb} like {self.likely} (times {self.factor:.5g}): {self.found}"


def suspicions(record: HessianRecord) -> list[Suspicion]:
    """What in a record is probably in other units than its own; empty where nothing is, or nothing can be said."""
    lengths = list(_positions(record))
    if lengths:
        return lengths + list(_energy(record))  # all else is seen through the bonds
    stiffness = list(_hessian(record))
    if stiffness and record.rows is not None:
        record = replace(record, rows=record.rows * stiffness[0].factor)
    return stiffness + list(_energy(record)) + list(_forces(record))


def require_plausible(record: HessianRecord) -> None:
    """Raises DataError, which names the likely unit, where a quantity is probably not in its own."""
    for suspicion in suspicions(record):
        raise DataError(f"the {suspicion}; convert the labels or state their units")


def refuse_other_units(records: Sequence[HessianRecord], where: str, advice: str) -> None:
    """Looks whether the numbers of a sample can be in our units.

    Args:
        records: the sample.
        where: what it is of, for the error.
        advice: what can be done about it, for the error.

    Raises:
        DataError: more of them than strain explains look as if they were in others.
    """
    strange = [found[0] for found in map(suspicions, records) if found]
    if strange and (len(strange) == len(records) or len(strange) > max(1, TOLERATED * len(records))):
        count = f"{len(strange)} of {len(records)} records{where and f' of {where}'}"
        raise DataError(f"{count} are probably in other units, the first: {strange[0]}; {advice}")


def _positions(record: HessianRecord) -> Iterator[Suspicion]:
    nearest = _nearest(record)
    if not len(nearest):
        return
    ratio = float(np.median(nearest))
    if 0.68 <= ratio <= 1.4 or 2.4 < ratio < 20:
        return
    name, factor = _closest(LENGTHS, ratio, 1.0)
    if 0.68 <= ratio * factor <= 1.4:
        found = f"nearest neighbours are {ratio:.3g} times as far apart as bonded atoms"
        yield Suspicion("positions", found, name, factor)


def _hessian(record: HessianRecord) -> Iterator[Suspicion]:
    if record.rows is None or record.labelled is None or len(record.numbers) < 2:
        return
    kinds = set(record.numbers.tolist())
    hydrogen, others = _bonds(record)
    if len(hydrogen):
        what, values, low, usual, high = "bonds of hydrogen", hydrogen, 10.0, 33.0, 70.0
    elif len(others) and kinds <= NON_METALS:
        what, values, low, usual, high = "bonds", others, 4.0, 35.0, 180.0
    elif kinds <= NOBLE | {1} or (len(kinds) and kinds <= NON_METALS | NOBLE) or len(record.numbers) < 4:
        return
    else:
        what, low, usual, high = "restoring forces on atoms", 0.15 if kinds & SOFT else 0.8, 12.0, 60.0
        values = np.array([np.trace(record.rows[m, :, a]) / 3 for m, a in enumerate(record.labelled)])
    value = float(np.median(values))
    if low <= value <= high or value == 0:
        return
    found = f"{what} have force constants of {value:.3g}, expected {low:g} to {high:g} eV/Å²"
    if usual / 3 <= -value <= high:  # stretched, a Morse bond gets to -1/8 of its force constant at rest, no further
        yield Suspicion("hessian", found, "derivatives of the forces, with the other sign", -1.0)
        return
    if value < 0:
        return  # no unit turns a sign: a bond stretched beyond the inflection of its energy
    name, factor = _closest(HESSIANS, value, usual)
    if low <= value * factor <= high:
        yield Suspicion("hessian", found, name, factor)


def _energy(record: HessianRecord) -> Iterator[Suspicion]:
    heaviest = int(record.numbers.max())
    if record.energy is None or not 5 <= heaviest <= len(HARTREE_FOCK):
        return
    atoms = -Hartree * sum(HARTREE_FOCK[z - 1] for z in record.numbers)
    for name, factor in ENERGIES.items():
        if 0.985 < record.energy * factor / atoms < 1.035:
            found = f"{record.energy:.6g} is the energy of all electrons in that unit ({atoms:.6g} eV in free atoms)"
            yield Suspicion("energy", found, name, factor)


def _forces(record: HessianRecord) -> Iterator[Suspicion]:
    if record.forces is None or not record.is_complete or record.pbc.any() or len(record.numbers) < 3:
        return
    positions = record.positions - record.positions.mean(axis=0)
    axes = np.eye(3)
    turns = np.cross(axes[:, None], positions[None]).reshape(3, -1)
    expected = np.cross(axes[:, None], -record.forces[None]).ravel()
    made = (turns @ record.hessian()).ravel()
    norms = float(np.linalg.norm(made) * np.linalg.norm(expected))
    if norms == 0 or abs(made @ expected) / norms < 0.95:
        return  # forces too small to stand out of the noise of the Hessian
    ratio = float(made @ expected / (expected @ expected))
    name, factor = _closest(FORCES | {"eV/Å": 1.0}, abs(ratio), 1.0, invert=True)
    if abs(np.log(abs(ratio) / factor)) > 0.25 or (name == "eV/Å" and ratio > 0):
        return
    found = f"turning the molecule as a whole asks for {ratio:.4g} times these forces"
    likely = name if ratio > 0 else f"gradients, not forces, in {name}"
    yield Suspicion("forces", found, likely, float(np.copysign(factor, ratio)))


def _closest(units: Mapping[str, float], value: float, usual: float, invert: bool = False) -> tuple[str, float]:
    """The unit in which a value comes closest to the usual one; inverted, the one that is closest to the value."""
    sign = -1 if invert else 1
    return min(units.items(), key=lambda unit: abs(np.log(value * unit[1] ** sign / usual)))


def _nearest(record: HessianRecord) -> NDArray[np.float64]:
    """Distance to the nearest neighbour over the sum of covalent radii, for atoms that have one, [≤ N]."""
    radii = covalent_radii[record.numbers]
    if record.pbc.any():
        atoms = Atoms(record.numbers, positions=record.positions, cell=record.cell, pbc=record.pbc)
        first, second, distance = neighbor_list("ijd", atoms, 5.2 * float(radii.max()))
    else:
        apart = np.linalg.norm(record.positions[:, None] - record.positions[None], axis=-1)
        first, second = np.nonzero(~np.eye(len(radii), dtype=bool))
        distance = apart[first, second]
    nearest = np.full(len(radii), np.inf)
    np.minimum.at(nearest, first, distance / (radii[first] + radii[second]))
    judged = np.isfinite(nearest) & ~np.isin(record.numbers, list(NOBLE))
    return nearest[judged]


def _bonds(record: HessianRecord) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Force constants −r̂ᵀ H_ij r̂ of bonds of molecules, of hydrogen with a non-metal, and of all others, eV/Å²."""
    if record.rows is None or record.labelled is None or record.pbc.any():
        return np.zeros(0), np.zeros(0)
    numbers, radii = record.numbers, covalent_radii[record.numbers]
    vector = record.positions[None] - record.positions[record.labelled][:, None]
    distance = np.linalg.norm(vector, axis=-1)
    relative = distance / (radii[None] + radii[record.labelled][:, None])
    row, other = np.nonzero((relative > 0.75) & (relative < 1.15))
    unit = vector[row, other] / distance[row, other, None]
    constants = -np.einsum("px,pxy,py->p", unit, record.rows[row, :, other], unit)
    one, two = numbers[record.labelled][row], numbers[other]
    light = np.isin(one, list(NON_METALS)) & np.isin(two, list(NON_METALS))
    hydrogen = light & ((one == 1) ^ (two == 1))
    return constants[hydrogen], constants[~hydrogen]
