"""Infrared intensities of SO3LR's charges, against finite differences, ASE's Infrared, and sum rules."""

import math

import numpy as np
import pytest
import scipy.constants as si
import torch
from ase import units
from ase.build import bulk, molecule
from ase.vibrations import Infrared
from numpy.testing import assert_allclose
from scipy.spatial.transform import Rotation
from toy_backbone import ToyBackbone

from hip_ext.backbones import load_backbone
from hip_ext.dipoles import dipole_derivatives
from hip_ext.errors import BackboneError, DataError, StructureError
from hip_ext.reference import autograd_hessian
from hip_ext.structures import Structures
from hip_ext.vibrations import KM_PER_MOL, analyse, infrared_intensities


@pytest.fixture(scope="module")
def so3lr():
    pytest.importorskip("so3krates_torch", reason="needs so3krates-torch")
    return load_backbone("so3lr", dtype=torch.float64)


def derivatives(backbone, atoms):
    return dipole_derivatives(backbone, Structures.from_ase(atoms))


def test_unit_of_intensities():
    """42.2561 km/mol for 1 (D/Å)²/amu, as the textbooks have it, and from SI alone."""
    assert_allclose(KM_PER_MOL * units.Debye**2, 42.2561, rtol=1e-5)
    slope = si.e**2 / si.atomic_mass
    assert_allclose(KM_PER_MOL, si.N_A * slope / (12 * si.epsilon_0 * si.c**2) / 1000, rtol=1e-6)


def test_two_charges_on_a_spring_absorb_as_by_hand():
    """∂μ/∂Q = q/√μ for charges ±q and reduced mass μ."""
    atoms = molecule("HCl")
    axis = atoms.positions[1] - atoms.positions[0]
    axis /= np.linalg.norm(axis)
    block = 30.0 * np.outer(axis, axis)
    charges = np.array([0.2, -0.2])
    slopes = np.einsum("i,dx->dix", charges, np.eye(3))
    found = analyse(atoms, np.block([[block, -block], [-block, block]]), dipole_derivatives=slopes)
    masses = atoms.get_masses()
    assert_allclose(found.intensities, [KM_PER_MOL * 0.04 * masses.sum() / masses.prod()], rtol=1e-12)
    assert analyse(atoms, np.eye(6)).intensities is None
    assert_allclose(found.scaled(0.9).intensities, found.intensities)


def test_dipole_is_that_of_the_calculator(so3lr):
    for name in ("H2O", "CH3OH"):
        atoms = molecule(name)
        calculator = so3lr.calculator()
        calculator.calculate(atoms, ["energy", "dipole"])
        dipole = so3lr.dipole(so3lr.prepare(Structures.from_ase(atoms)))
        assert_allclose(dipole[0].detach().numpy(), calculator.results["dipole"].ravel(), atol=1e-9)


def test_derivatives_are_those_of_finite_differences(so3lr):
    atoms = molecule("H2O")
    atoms.rattle(0.05, seed=1)
    found, step = derivatives(so3lr, atoms), 1e-4
    frames = []
    for i in range(3):
        for x in range(3):
            for sign in (1, -1):
                moved = atoms.copy()
                moved.positions[i, x] += sign * step
                frames.append(moved)
    with torch.no_grad():
        dipoles = so3lr.dipole(so3lr.prepare(Structures.from_ase(frames))).numpy().reshape(3, 3, 2, 3)
    numeric = (dipoles[:, :, 0] - dipoles[:, :, 1]) / (2 * step)
    assert_allclose(found, numeric.transpose(2, 0, 1), atol=1e-7)
    # Moving everything moves the dipole by the charge, which is none; nothing was left on the parameters.
    assert_allclose(found.sum(axis=1), 0, atol=1e-9)
    assert all(parameter.grad is None for parameter in so3lr.parameters())


def test_moving_an_ion_moves_its_dipole_by_the_charge(so3lr):
    atoms = molecule("NH3")
    atoms.info["charge"] = 1.0
    atoms.info["spin"] = 2
    assert_allclose(derivatives(so3lr, atoms).sum(axis=1), np.eye(3), atol=1e-9)


def test_turned_molecule_absorbs_the_same(so3lr):
    atoms = molecule("CH3OH")
    hessian = autograd_hessian(so3lr, Structures.from_ase(atoms)).numpy()
    turn = Rotation.random(random_state=2).as_matrix()
    big = np.kron(np.eye(6), turn)
    moved = atoms.copy()
    moved.positions = atoms.positions @ turn.T + [3.0, -5.0, 8.0]
    a = analyse(atoms, hessian, dipole_derivatives=derivatives(so3lr, atoms))
    b = analyse(moved, big @ hessian @ big.T, dipole_derivatives=derivatives(so3lr, moved))
    assert_allclose(b.frequencies, a.frequencies, rtol=1e-7, atol=1e-3)
    assert_allclose(b.intensities, a.intensities, rtol=1e-6, atol=1e-6)
    assert (a.intensities >= 0).all() and a.intensities.max() > 20


def test_symmetric_stretch_of_carbon_dioxide_is_dark(so3lr):
    atoms = molecule("CO2")
    hessian = autograd_hessian(so3lr, Structures.from_ase(atoms)).numpy()
    found = analyse(atoms, hessian, dipole_derivatives=derivatives(so3lr, atoms))
    assert found.intensities[2] < 1e-6 and found.intensities[3] > 300
    assert_allclose(found.intensities[0], found.intensities[1], rtol=1e-6)


def test_agrees_with_ases_infrared(so3lr, tmp_path):
    """ASE displaces the atoms and takes the same model's dipoles; its factor is 42.255."""
    atoms = molecule("H2O")
    atoms.calc = so3lr.calculator()
    theirs = Infrared(atoms, delta=0.005, nfree=2, name=str(tmp_path / "ir"))
    theirs.run()
    theirs.read()
    expected = np.asarray(theirs.intensities)[-3:] * 42.255
    hessian = autograd_hessian(so3lr, Structures.from_ase(atoms)).numpy()
    found = analyse(atoms, hessian, dipole_derivatives=derivatives(so3lr, atoms))
    # ASE projects nothing, and the rotations of a molecule that is not at rest mix into its bend.
    assert_allclose(found.intensities, expected, rtol=5e-3)


def test_what_has_no_dipole_is_refused(so3lr):
    toy = ToyBackbone.load(dtype=torch.float64)
    with pytest.raises(BackboneError, match="toy backbone has no dipole moment"):
        derivatives(toy, molecule("H2O"))
    with pytest.raises(StructureError, match="periodic structure is not defined"):
        derivatives(so3lr, bulk("C", "diamond", a=3.57))
    with pytest.raises(StructureError, match="one structure expected, found 2"):
        dipole_derivatives(so3lr, Structures.from_ase([molecule("H2O"), molecule("H2O")]))
    modes = np.zeros((3, 3, 3))
    for bad in (np.zeros((3, 9)), np.full((3, 3, 3), math.nan), "dipole"):
        with pytest.raises(DataError):
            infrared_intensities(modes, bad)
