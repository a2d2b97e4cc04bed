"""What the tests of other people's programs share: a toy potential with a head, and a guess of ammonia's inversion."""

from __future__ import annotations

from functools import partial

import pytest
import scipy.constants
from ase import Atoms
from toy_backbone import ToyBackbone

from hip_ext import HeadConfig, HessianCalculator, attach_head, from_pretrained
from hip_ext.shipped import shipped_checkpoints

SMALL = HeadConfig(scalars=8, channels=4, hidden=8, pair_channels=2, coordinates=4, cutoff=3.0)
HARTREE = scipy.constants.value("Hartree energy in eV")
BOHR = scipy.constants.value("Bohr radius") * 1e10
"""Å. scipy's constants, not those of ASE that the package takes; CODATA's adjustments differ in the ninth digit."""


def toy_calculator() -> HessianCalculator:
    return HessianCalculator(attach_head(ToyBackbone.load(), SMALL))


def exact(calculator: HessianCalculator):
    return partial(calculator.get_hessian, method="autograd")


def shipped_calculator() -> HessianCalculator:
    pytest.importorskip("so3krates_torch", reason="SO3LR is not installed: pip install 'hip-ext[so3lr]'")
    if "hip-so3lr-organic" not in shipped_checkpoints():
        pytest.skip("the checkpoint hip-so3lr-organic is not in this checkout")
    return HessianCalculator(from_pretrained("hip-so3lr-organic"))


def inversion_guess() -> Atoms:
    """Between the pyramid and the plane, without symmetry."""
    return Atoms("NH3", [[0, 0, 0.1], [1.03, 0, 0], [-0.5, 0.9, 0], [-0.5, -0.9, 0]])
