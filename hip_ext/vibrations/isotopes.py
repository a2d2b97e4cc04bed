"""Masses of isotopes, by a short notation: `isotope_masses(atoms, "D,2=13C")`.

A comma-separated list, read from left to right; later entries win.

    common          every atom is its element's most abundant isotope, as quantum chemistry programs have it
    D, 13C, 18O     every atom of that element is this isotope
    3=D, 0=13C      atom 3 (counted from 0) is deuterium, atom 0 is carbon-13
    H=2.5, 3=1.5    a mass in amu, for an element or an atom
"""

from __future__ import annotations

import re

import numpy as np
from ase import Atoms
from ase.data import atomic_masses_common, atomic_numbers
from numpy.typing import NDArray

from hip_ext.errors import StructureError

LABELS = {
    ("H", 2): 2.01410177812, ("H", 3): 3.0160492779, ("Li", 6): 6.0151228874, ("B", 10): 10.01293695,
    ("C", 13): 13.00335483507, ("C", 14): 14.0032419884, ("N", 15): 15.00010889888, ("O", 17): 16.9991317565,
    ("O", 18): 17.99915961286, ("Si", 29): 28.9764946649, ("Si", 30): 29.973770136, ("S", 33): 32.9714589098,
    ("S", 34): 33.967867004, ("Cl", 37): 36.965902602, ("Br", 81): 80.9162897,
}  # fmt: skip
"""amu: isotopes that molecules are labelled with, beside the most abundant ones (NIST's table, 2015)."""

NAMED = {"D": ("H", 2), "T": ("H", 3)}


def isotope_masses(atoms: Atoms, notation: str) -> NDArray[np.float64]:
    """The masses of the atoms with some of them replaced; see this module for the notation.

    Args:
        atoms: N atoms; their masses hold where nothing else is said.
        notation: e.g. "common,2=D".

    Returns:
        amu, [N].

    Raises:
        StructureError: an entry cannot be read, names an unknown isotope, or no atom or an atom of another element.
    """
    masses = np.array(atoms.get_masses(), dtype=np.float64)
    symbols = np.array(atoms.get_chemical_symbols())
    for entry in (part.strip() for part in notation.split(",")):
        if entry == "common":
            masses[:] = atomic_masses_common[atoms.numbers]
            continue
        target, _, value = entry.rpartition("=")
        element, mass = _isotope(value, entry) if not _is_number(value) else ("", float(value))
        where = _atoms_of(target or element, symbols, entry)
        if element and (symbols[where] != element).any():
            raise StructureError(f"isotopes: {entry!r} puts {element} in the place of {symbols[where][0]}")
        if not mass > 0 or not np.isfinite(mass):
            raise StructureError(f"isotopes: {entry!r}: a mass must be a positive number of amu")
        masses[where] = mass
    return masses


def _isotope(name: str, entry: str) -> tuple[str, float]:
    """Element and mass of D, 13C or the like."""
    match = re.fullmatch(r"(\d+)([A-Z][a-z]?)", name)
    key = NAMED.get(name) or ((match[2], int(match[1])) if match else None)
    if key in LABELS:
        return key[0], LABELS[key]
    if key is not None and key[0] in atomic_numbers:
        common = float(atomic_masses_common[atomic_numbers[key[0]]])
        if round(common) == key[1]:
            return key[0], common
    known = ", ".join(f"{mass}{element}" for element, mass in LABELS)
    raise StructureError(
        f"isotopes: cannot read {entry!r}: write D, 13C, 3=D or 3=2.0141 (amu); known are common, {known} and the most "
        "abundant isotope of every element"
    )


def _atoms_of(target: str, symbols: NDArray[np.str_], entry: str) -> NDArray[np.bool_]:
    if target.isdigit():
        if int(target) >= len(symbols):
            raise StructureError(f"isotopes: {entry!r}: there is no atom {target}, they are 0 to {len(symbols) - 1}")
        return np.asarray(np.arange(len(symbols)) == int(target))
    where = np.asarray(symbols == target)
    if not where.any():
        raise StructureError(f"isotopes: {entry!r}: no atom of {target!r} in {''.join(sorted(set(symbols)))}")
    return where


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
