"""Whether a checkpoint is what it says: its files, then, where the backbone is at hand, what it predicts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.data import covalent_radii

from hip_ext.checkpoint.config import read_config
from hip_ext.checkpoint.heads import read_head
from hip_ext.checkpoint.schema import BACKBONE, SCHEMA, WEIGHTS
from hip_ext.checkpoint.tensors import as_claimed, read_tensors
from hip_ext.errors import CheckpointError, StructureError

TOLERANCE = 1e-4
"""Of the sum rule and of symmetry, relative to the largest entry: what is left in single precision."""


@dataclass(frozen=True)
class Verification:
    """What was found out.

    Attributes:
        checks: what holds, a line each.
        skipped: what could not be looked at, and why; empty if nothing.
    """

    checks: list[str]
    skipped: str = ""


def verify(folder: Path, trust_source: bool = False) -> Verification:
    """Reads a checkpoint in full and predicts one Hessian with it.

    Args:
        folder: of the checkpoint.
        trust_source: as in `from_pretrained`.

    Raises:
        CheckpointError: something is not as it has to be.
        BackboneError: the backbone is there but cannot be loaded.
    """
    from hip_ext.model import from_pretrained

    config = read_config(folder)
    checks = [f"config.json: schema {SCHEMA}, every key known" + ("" if config.sha256 else ", upgraded")]
    head = read_head(folder, config)
    count = len(head.state_dict())
    checks.append(f"{WEIGHTS}: {count} tensors, {config.dtype}, finite{_digest(config.sha256.get(WEIGHTS))}")
    if config.backbone.tuned:
        found = read_tensors(folder, BACKBONE, as_claimed, config.sha256.get(BACKBONE))
        checks.append(f"{BACKBONE}: {len(found)} tensors, finite{_digest(config.sha256.get(BACKBONE))}")
    if config.backbone.source != "release" and not trust_source:
        return Verification(checks, f"the backbone: {config.backbone.name!r} is not a released model")
    try:
        model = from_pretrained(folder, trust_source=trust_source)
    except ImportError as error:  # not installed, or broken
        return Verification(checks, f"the backbone: {error}")
    checks.append(f"backbone: fingerprint {model.backbone.source.fingerprint[:12]}")
    atoms = water_like(config.elements or sorted(model.backbone.elements))
    try:
        hessian = model.hessian(atoms).dense()
    except StructureError as error:
        raise CheckpointError(f"the checkpoint is of no use for {atoms.get_chemical_formula()}: {error}") from None
    checks.append(f"Hessian of {atoms.get_chemical_formula()}: {_properties(hessian)}")
    return Verification(checks)


def water_like(elements: list[int]) -> Atoms:
    """A bent molecule of the first element around the second (or itself), at the sums of their covalent radii, Å."""
    outer, centre = elements[0], elements[min(1, len(elements) - 1)]
    if {1, 8} <= set(elements):
        outer, centre = 1, 8
    bond = float(covalent_radii[outer] + covalent_radii[centre])
    half = np.deg2rad(104.5 / 2)
    arm = bond * np.array([np.sin(half), np.cos(half), 0.0])
    return Atoms([centre, outer, outer], positions=[np.zeros(3), arm, arm * [-1, 1, 1]])


def _properties(hessian: torch.Tensor) -> str:
    """Checks a Hessian of 3 atoms, [9, 9] in eV/Å²."""
    scale = float(hessian.abs().max())
    rows = float(hessian.reshape(9, 3, 3).sum(1).abs().max())
    skew = float((hessian - hessian.T).abs().max())
    if scale == 0.0 or max(rows, skew) > TOLERANCE * scale:
        raise CheckpointError(
            f"the Hessian of a small molecule breaks its rules: largest entry {scale:.3g}, rows add up to {rows:.2g}, "
            f"asymmetry {skew:.2g} eV/Å²"
        )
    return f"finite, symmetric to {skew / scale:.0e}, rows add up to 0 within {rows / scale:.0e} of the largest entry"


def _digest(known: str | None) -> str:
    return f", sha256 {known[:12]} as recorded" if known else ""
