"""What the commands read: a model, and the frames of a file. Whatever goes wrong is one line."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hip_ext.errors import HipExtError, MissingDependencyError

if TYPE_CHECKING:
    from ase import Atoms

    from hip_ext.model import HessianModel


def read_frames(path: Path) -> list[Atoms]:
    """All structures of a file, checked.

    Raises:
        DataError: there is no such file, ASE cannot read it, or it has no structure.
        StructureError: a structure is empty or not finite; see `Structures.from_ase`.
    """
    from hip_ext.structure_files import read_structures
    from hip_ext.structures import Structures

    found = read_structures(path)
    for index, atoms in enumerate(found):
        with named(path, index, len(found)):
            Structures.from_ase(atoms)
    return found


@contextmanager
def named(path: Path, index: int, count: int) -> Iterator[None]:
    """Puts a file, and the frame where there are several, in front of every error of the package in the block."""
    try:
        yield
    except HipExtError as error:
        place = f"{path}, frame {index}" if count > 1 else str(path)
        raise type(error)(f"{place}: {error}") from None


def load_model(name: str, trust_source: bool = False) -> HessianModel:
    """The model of a checkpoint; its backbone is read from a file only where that is trusted.

    Raises:
        HipExtError: as `from_pretrained`.
        MissingDependencyError: also where the framework is installed but cannot be imported.
    """
    from hip_ext.model import from_pretrained

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return from_pretrained(name, trust_source=trust_source)
    except HipExtError:
        raise
    except ImportError as error:
        raise MissingDependencyError(f"the backbone of {name} cannot be imported ({error}): install it again") from None


def untaught(model: HessianModel, frames: list[Atoms]) -> str:
    """One sentence on what in these structures the head was never taught; empty if there is nothing."""
    if not model.elements:
        return "the head is untrained: its Hessians mean nothing"
    from ase.data import chemical_symbols

    # What the backbone does not know either is an error, and that is said elsewhere.
    here = {int(z) for atoms in frames for z in atoms.numbers} & set(model.backbone.elements)
    unknown = sorted(here - set(model.elements))
    if not unknown:
        return ""
    names = ", ".join(chemical_symbols[z] for z in unknown)
    return f"the head was not taught {names}: expect large errors, or use --method autograd"
