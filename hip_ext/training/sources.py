"""Where structures come from: files that ASE reads, and lists of molecules as SMILES."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ase import Atoms

from hip_ext.errors import DataError, StructureError
from hip_ext.structure_files import read_structures
from hip_ext.structures import Structures

SMILES_PREFIX = "smiles:"


def read_sources(names: Sequence[str]) -> list[str | Atoms]:
    """Reads `smiles:FILE` (one SMILES a line, `#` starts a comment) and structure files, every frame of each.

    Raises:
        DataError: a file cannot be read or has nothing in it.
        StructureError: a frame cannot be used.
    """
    found: list[str | Atoms] = []
    for name in names:
        part = _read_smiles(Path(name[len(SMILES_PREFIX) :])) if name.startswith(SMILES_PREFIX) else _read_frames(name)
        if not part:
            raise DataError(f"{name} has no structures in it")
        found += part
    return found


def _read_smiles(path: Path) -> list[str | Atoms]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'not a text file'}") from None
    words = (line.split("#", 1)[0].split() if line.lstrip().startswith("#") else line.split() for line in lines)
    return [word[0] for word in words if word]


def _read_frames(name: str) -> list[str | Atoms]:
    frames = read_structures(name)
    for index, frame in enumerate(frames):
        try:
            Structures.from_ase(frame)
        except StructureError as error:
            raise StructureError(f"{name}, frame {index}: {error}") from None
    return list(frames)
