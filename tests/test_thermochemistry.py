"""Thermochemistry against published G2 values, PySCF's thermo, GoodVibes, ASE's classes and measured entropies."""

import math

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import add_adsorbate, bulk, fcc111, molecule
from ase.constraints import FixAtoms
from ase.data import g2
from ase.thermochemistry import HarmonicThermo, IdealGasThermo
from numpy.testing import assert_allclose

from hip_ext.errors import ConfigError, StructureError
from hip_ext.vibrations import INVERSE_CM, analyse, point_group, thermochemistry

KCAL = units.kcal / units.mol
JOULE = units.J / units.mol

DIATOMICS = [name for name, entry in g2.data.items() if "ZPE" in entry and len(entry["positions"]) == 2]


def spring(atoms, wavenumber):
    """The Hessian of a diatomic molecule with this harmonic wavenumber in cm⁻¹."""
    masses = atoms.get_masses()
    axis = atoms.positions[1] - atoms.positions[0]
    axis /= np.linalg.norm(axis)
    block = masses.prod() / masses.sum() * (wavenumber / INVERSE_CM) ** 2 * np.outer(axis, axis)
    return np.block([[block, -block], [-block, block]])


def water():
    """RHF/STO-3G water near its minimum: PySCF's molecule and Hessian, and ours."""
    gto, scf = pytest.importorskip("pyscf.gto"), pytest.importorskip("pyscf.scf")
    mol = gto.M(atom="O 0 0 0.1173; H 0 0.7572 -0.4692; H 0 -0.7572 -0.4692", basis="sto-3g", verbose=0)
    mf = scf.RHF(mol).run(conv_tol=1e-12)
    native = mf.Hessian().kernel()
    hessian = native.transpose(0, 2, 1, 3).reshape(9, 9) * units.Hartree / units.Bohr**2
    atoms = Atoms("OH2", positions=mol.atom_coords() * units.Bohr)
    return mf, native, atoms, (hessian + hessian.T) / 2


def with_wavenumbers(wavenumbers):
    """A bent triatomic molecule with three given wavenumbers, by building the Hessian from its own modes."""
    atoms = molecule("SO2")
    some = np.random.default_rng(0).normal(size=(9, 9))
    modes = analyse(atoms, some + some.T).modes.reshape(3, 9) * np.repeat(atoms.get_masses(), 3)
    return atoms, modes.T @ np.diag(np.sign(wavenumbers) * (np.array(wavenumbers) / INVERSE_CM) ** 2) @ modes


@pytest.mark.parametrize("name", DIATOMICS)
def test_g2_diatomics_have_their_published_heat_content(name):
    """A published zero-point energy fixes the one wavenumber, which gives the published H(298 K) − H(0)."""
    atoms, entry = molecule(name), g2.data[name]
    vibrations = analyse(atoms, spring(atoms, 2 * entry["ZPE"] * KCAL / units.invcm))
    (state,) = thermochemistry(vibrations, -3.0, symmetry_number=point_group(atoms).symmetry_number, spin=0)
    assert_allclose(state.zero_point_energy / KCAL, entry["ZPE"], rtol=1e-9)
    assert_allclose(state.heat_content / KCAL, entry["thermal correction"], atol=6e-4)


def test_g2_water_from_a_hessian_of_its_level_of_theory():
    """G2's values are those of B3LYP/6-31G(2df,p) scaled by 0.9854; the geometry is that method's minimum."""
    gto, dft = pytest.importorskip("pyscf.gto"), pytest.importorskip("pyscf.dft")
    positions = [[0, 0, 0.116403], [0, 0.758226, -0.475967], [0, -0.758226, -0.475967]]
    atoms = Atoms("OH2", positions=positions)
    mol = gto.M(atom=list(zip(atoms.symbols, positions, strict=True)), basis="6-31g(2df,p)", verbose=0)
    native = dft.RKS(mol, xc="b3lyp").run(conv_tol=1e-10).Hessian().kernel()
    hessian = native.transpose(0, 2, 1, 3).reshape(9, 9) * units.Hartree / units.Bohr**2
    vibrations = analyse(atoms, (hessian + hessian.T) / 2).scaled(0.9854)
    (state,) = thermochemistry(vibrations, 0.0, symmetry_number=2, spin=0)
    entry = g2.data["H2O"]
    assert_allclose(state.zero_point_energy / KCAL, entry["ZPE"], atol=0.01)
    assert_allclose(state.heat_content / KCAL, entry["thermal correction"], atol=1e-3)


def test_agrees_with_pyscf_thermo_on_one_hessian():
    thermo = pytest.importorskip("pyscf.hessian.thermo")
    mf, native, atoms, hessian = water()
    masses = mf.mol.atom_mass_list(isotope_avg=True)
    freqs = thermo.harmonic_analysis(mf.mol, native, mass=masses)["freq_au"]
    vibrations = analyse(atoms, hessian, masses=masses)
    energy = mf.e_tot * units.Hartree
    for temperature, pressure in ((298.15, 101325.0), (600.0, 1e6)):
        theirs = {name: value[0] for name, value in thermo.thermo(mf, freqs, temperature, pressure).items()}
        # PySCF's rotational part knows the symmetry number of the point group that it finds in `mol`: C1 here.
        sigma = theirs["sym_number"]
        (state,) = thermochemistry(
            vibrations, energy, symmetry_number=int(sigma), spin=0, temperatures=[temperature], pressures=[pressure]
        )
        for mine, name in (
            (state.zero_point_energy, "ZPE"),
            (state.internal_energy, "E_tot"),
            (state.enthalpy, "H_tot"),
            (state.entropy, "S_tot"),
            (state.gibbs, "G_tot"),
        ):
            assert_allclose(mine / units.Hartree, theirs[name], rtol=0, atol=2e-7)


def test_entropy_of_water_vapour_is_the_measured_one():
    """188.84 J/(mol K) at 298.15 K and 1 bar (CODATA), with the measured geometry and harmonic wavenumbers."""
    atoms = molecule("H2O")
    some = np.random.default_rng(0).normal(size=(9, 9))
    modes = analyse(atoms, some + some.T).modes.reshape(3, 9) * np.repeat(atoms.get_masses(), 3)
    hessian = modes.T @ np.diag((np.array([1648.5, 3832.2, 3942.5]) / INVERSE_CM) ** 2) @ modes
    (state,) = thermochemistry(analyse(atoms, hessian), 0.0, symmetry_number=2, spin=0, pressures=[1e5])
    assert_allclose(state.entropy / JOULE, 188.84, atol=0.3)


def test_harmonic_molecule_is_ases_ideal_gas():
    _, _, atoms, hessian = water()
    vibrations = analyse(atoms, hessian)
    gas = IdealGasThermo(vibrations.vib_energies.real, "nonlinear", -1.0, atoms, 2, 1.0, vib_selection="all")
    states = thermochemistry(
        vibrations, -1.0, symmetry_number=2, spin=1.0, temperatures=[200, 900], pressures=[1e5, 2e6]
    )
    assert [(s.temperature, s.pressure) for s in states] == [(200, 1e5), (200, 2e6), (900, 1e5), (900, 2e6)]
    for state in states:
        assert_allclose(state.enthalpy, gas.get_enthalpy(state.temperature, verbose=False), rtol=1e-12)
        entropy = gas.get_entropy(state.temperature, state.pressure, verbose=False)
        assert_allclose(
            (state.entropy, state.gibbs), (entropy, state.enthalpy - state.temperature * entropy), rtol=1e-12
        )
    assert_allclose(states[0].entropy - states[1].entropy, units.kB * math.log(20), rtol=1e-10)


@pytest.mark.parametrize("temperature", [200.0, 298.15, 700.0])
def test_low_modes_are_those_of_goodvibes(temperature):
    thermo = pytest.importorskip("goodvibes.thermo", reason="needs goodvibes")
    wavenumbers = [20.0, 95.0, 1500.0]
    atoms, hessian = with_wavenumbers(wavenumbers)
    vibrations = analyse(atoms, hessian)
    assert_allclose(vibrations.frequencies, wavenumbers, rtol=1e-9)

    def ours(**options):
        (state,) = thermochemistry(vibrations, 0.0, symmetry_number=2, spin=0, temperatures=[temperature], **options)
        return state

    harmonic = thermo.calc_rrho_entropy(temperature, wavenumbers)
    free = thermo.calc_freerot_entropy(temperature, wavenumbers)
    damp = thermo.calc_damp(wavenumbers, 100.0)
    grimme = sum(d * h + (1 - d) * f for d, h, f in zip(damp, harmonic, free, strict=True))
    raised = sum(thermo.calc_rrho_entropy(temperature, [100.0, 100.0, 1500.0]))
    # GoodVibes has the constants of 2006 to 2010.
    assert_allclose(ours().vibrational_entropy / JOULE, sum(harmonic), rtol=1e-5)
    assert_allclose(ours(low_modes="grimme").vibrational_entropy / JOULE, grimme, rtol=1e-5)
    assert_allclose(ours(low_modes="truhlar").vibrational_entropy / JOULE, raised, rtol=1e-5)
    assert_allclose(ours().zero_point_energy / JOULE, thermo.calc_zeropoint_energy(wavenumbers), rtol=1e-5)
    assert ours(low_modes="grimme").enthalpy == ours(low_modes="truhlar").enthalpy == ours().enthalpy
    assert ours(low_modes="truhlar", cutoff=10.0).entropy == ours().entropy


def test_adsorbate_has_vibrations_alone():
    slab = fcc111("Cu", (1, 1, 2), vacuum=6.0)
    add_adsorbate(slab, "O", 1.2, "fcc")
    slab.set_constraint(FixAtoms([0, 1]))
    vibrations = analyse(slab, np.diag([3.0, 3.0, 9.0]))
    (state,) = thermochemistry(vibrations, -2.0, symmetry_number=None, spin=0, temperatures=[400])
    byhand = HarmonicThermo(vibrations.vib_energies, potentialenergy=-2.0)
    assert_allclose(state.gibbs, byhand.get_helmholtz_energy(400, verbose=False), rtol=1e-12)
    assert state.pressure is None and state.enthalpy == state.internal_energy
    with pytest.raises(StructureError, match="no symmetry number"):
        thermochemistry(vibrations, 0.0, symmetry_number=2, spin=0)
    with pytest.raises(StructureError, match="no imaginary mode, found 1"):
        thermochemistry(analyse(slab, np.diag([-3.0, 3.0, 9.0])), 0.0, symmetry_number=None, spin=0)


def test_atom_has_no_vibration():
    """Argon at 298.15 K and 1 bar: 154.846 J/(mol K) (CODATA)."""
    atoms = Atoms("Ar", positions=[[0, 0, 0]])
    (state,) = thermochemistry(analyse(atoms, np.zeros((3, 3))), -1.0, symmetry_number=1, spin=0, pressures=[1e5])
    assert_allclose(state.entropy / JOULE, 154.846, atol=0.003)
    assert_allclose(state.enthalpy, -1.0 + 2.5 * units.kB * 298.15, rtol=1e-12)
    assert (state.zero_point_energy, state.vibrational_entropy) == (0.0, 0.0)


def test_weak_imaginary_modes_can_be_inverted_and_one_left_out():
    atoms, hessian = with_wavenumbers([-30.0, 400.0, 900.0])
    common = {"symmetry_number": 1, "spin": 0}
    with pytest.raises(StructureError, match="minimum has no imaginary mode, found 1"):
        thermochemistry(analyse(atoms, hessian), 0.0, **common)
    (inverted,) = thermochemistry(analyse(atoms, hessian), 0.0, invert_below=50.0, **common)
    same = analyse(*with_wavenumbers([30.0, 400.0, 900.0]))
    assert_allclose(inverted.gibbs, thermochemistry(same, 0.0, **common)[0].gibbs, rtol=1e-9)
    (saddle,) = thermochemistry(analyse(atoms, hessian), 0.0, transition_state=True, **common)
    assert_allclose(saddle.zero_point_energy, 650 * units.invcm, rtol=1e-9)


def test_scaling_scales_the_zero_point_energy():
    vibrations = analyse(*with_wavenumbers([300.0, 400.0, 900.0])).scaled(0.96)
    assert_allclose(vibrations.frequencies, [288.0, 384.0, 864.0], rtol=1e-9)
    (state,) = thermochemistry(vibrations, 0.0, symmetry_number=2, spin=0)
    assert_allclose(state.zero_point_energy, 768 * units.invcm, rtol=1e-9)
    for factor in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ConfigError, match="scaling factor"):
            vibrations.scaled(factor)


def test_cold_molecule_keeps_its_zero_point_energy():
    vibrations = analyse(*with_wavenumbers([300.0, 400.0, 3900.0]))
    (state,) = thermochemistry(vibrations, 0.0, symmetry_number=2, spin=0, temperatures=[0.5])
    assert_allclose(state.internal_energy, state.zero_point_energy, atol=2e-4)
    assert state.vibrational_entropy == 0.0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"temperatures": [0.0]}, ConfigError, "temperature must be a positive number of K, found 0"),
        ({"temperatures": [300.0, -5.0]}, ConfigError, "found -5"),
        ({"temperatures": [math.nan]}, ConfigError, "found nan"),
        ({"pressures": [0.0]}, ConfigError, "pressure must be a positive number of Pa"),
        ({"spin": 0.3}, ConfigError, "spin must be 0, 0.5, 1"),
        ({"spin": -1}, ConfigError, "spin must be"),
        ({"symmetry_number": 0}, StructureError, "symmetry number is 1, 2, 3"),
        ({"symmetry_number": None}, StructureError, "needs its symmetry number"),
        ({"low_modes": "grime"}, ConfigError, "did you mean"),
        ({"low_modes": "grimme", "cutoff": 0.0}, ConfigError, "cutoff"),
        ({"invert_below": -1.0}, ConfigError, "inverted below"),
    ],
)
def test_bad_conditions_are_one_line(options, error, message):
    vibrations = analyse(*with_wavenumbers([300.0, 400.0, 900.0]))
    with pytest.raises(error, match=message) as caught:
        thermochemistry(vibrations, 0.0, **({"symmetry_number": 2, "spin": 0} | options))
    assert "\n" not in str(caught.value)


def test_linear_molecule_with_a_wrong_symmetry_number():
    for name, sigma, wrong in (("HCl", 1, 2), ("N2", 2, 1)):
        atoms = molecule(name)
        vibrations = analyse(atoms, spring(atoms, 2000.0))
        thermochemistry(vibrations, 0.0, symmetry_number=sigma, spin=0)
        with pytest.raises(StructureError, match=f"symmetry number is {sigma}, found {wrong}"):
            thermochemistry(vibrations, 0.0, symmetry_number=wrong, spin=0)


def test_crystal_is_no_ideal_gas():
    atoms = bulk("Cu", cubic=True)
    with pytest.raises(StructureError, match="use phonons for a crystal"):
        thermochemistry(analyse(atoms, np.eye(12)), 0.0, symmetry_number=1, spin=0)
