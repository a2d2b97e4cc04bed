"""Vibrations against textbook formulae, ASE's finite differences, PySCF's own analysis and the product rule."""

import math

import numpy as np
import pytest
import scipy.constants as si
from ase import Atoms, units
from ase.build import add_adsorbate, bulk, fcc111, molecule
from ase.calculators.emt import EMT
from ase.calculators.morse import MorsePotential
from ase.cluster import Icosahedron
from ase.constraints import FixAtoms, FixBondLength
from ase.optimize import BFGS
from ase.thermochemistry import HarmonicThermo, IdealGasThermo
from ase.vibrations import Vibrations as AseVibrations
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.spatial.transform import Rotation

from hip_ext.errors import DataError, StructureError
from hip_ext.vibrations import analyse, ideal_gas_thermo, mass_weighted, mode_overlap, rigid_modes

NEWTON_PER_METRE = units.J / units.m**2


def wavenumber(force_constant: float, reduced_mass: float) -> float:
    """ν̃ = √(k/μ) / 2πc in cm⁻¹, from N/m and amu, all in SI with SciPy's constants."""
    return math.sqrt(force_constant / (reduced_mass * si.atomic_mass)) / (2 * math.pi * si.c) / 100


def springs(positions, bonds):
    """Gradient and Hessian of Σ ½ k (|r| − r0)², bonds being (i, j, k in eV/Å², r0 in Å)."""
    n = len(positions)
    gradient, hessian = np.zeros((n, 3)), np.zeros((n, 3, n, 3))
    for i, j, k, rest in bonds:
        r = positions[j] - positions[i]
        d = np.linalg.norm(r)
        along = np.outer(r, r) / d**2
        block = k * along + k * (d - rest) / d * (np.eye(3) - along)
        gradient[j] += k * (d - rest) * r / d
        gradient[i] -= k * (d - rest) * r / d
        for a, b, sign in ((i, i, 1), (j, j, 1), (i, j, -1), (j, i, -1)):
            hessian[a, :, b] += sign * block
    return gradient, hessian.reshape(3 * n, 3 * n)


def relaxed_springs(atoms, seed=0):
    """The Hessian of springs between all atoms at their rest lengths: stationary, hence zero on rigid motions."""
    k = np.random.default_rng(seed).uniform(10, 40, (len(atoms), len(atoms)))
    pairs = [(i, j, k[i, j], atoms.get_distance(i, j)) for i in range(len(atoms)) for j in range(i)]
    return springs(atoms.positions, pairs)[1]


def random_symmetric(n, seed=0):
    matrix = np.random.default_rng(seed).normal(size=(3 * n, 3 * n))
    return matrix + matrix.T


def pyscf_hessian(atom, spin=0):
    """RHF/STO-3G: the molecule, its analytic Hessian as PySCF keeps it, and the same in eV/Å², [3N, 3N]."""
    gto, scf = pytest.importorskip("pyscf.gto"), pytest.importorskip("pyscf.scf")
    mol = gto.M(atom=atom, basis="sto-3g", spin=spin, verbose=0)
    mf = scf.RHF(mol).run(conv_tol=1e-12)
    native = mf.Hessian().kernel()
    n = mol.natm
    hessian = native.transpose(0, 2, 1, 3).reshape(3 * n, 3 * n) * units.Hartree / units.Bohr**2
    atoms = Atoms([mol.atom_symbol(i) for i in range(n)], positions=mol.atom_coords() * units.Bohr)
    return mol, native, atoms, (hessian + hessian.T) / 2


WATER = "O 0 0 0.1173; H 0 0.7572 -0.4692; H 0 -0.7572 -0.4692"
CARBON_DIOXIDE = "O 0 0 -1.188; C 0 0 0; O 0 0 1.188"
HYDROGEN_CYANIDE = "H 0 0 -1.07; C 0 0 0; N 0 0 1.153"
PLANAR_AMMONIA = "N 0 0 0; H 1.006 0 0; H -0.503 0.8712 0; H -0.503 -0.8712 0"


# Atkins, Physical Chemistry, table "Properties of diatomic molecules": force constants in N/m to one decimal, which is
# 0.2 cm⁻¹, and the harmonic wavenumbers of the main isotopes, whose masses are those of the atomic mass evaluation.
@pytest.mark.parametrize(
    ("symbols", "masses", "k", "r", "measured"),
    [
        ("H2", [1.00782503, 1.00782503], 574.9, 0.7414, 4400.39),
        ("HCl", [1.00782503, 34.96885268], 516.3, 1.2745, 2990.95),
        ("N2", [14.0030740, 14.0030740], 2293.8, 1.0976, 2358.07),
    ],
)
def test_diatomic_molecules_have_their_textbook_wavenumber(symbols, masses, k, r, measured):
    atoms = Atoms(symbols, positions=[[0.3, 0, 0], [0.3 + r * 0.6, 0, r * 0.8]])
    _, hessian = springs(atoms.positions, [(0, 1, k * NEWTON_PER_METRE, r)])
    result = analyse(atoms, hessian, masses=masses)
    reduced = masses[0] * masses[1] / sum(masses)
    assert result.frequencies.shape == (1,)
    assert result.geometry == "linear"
    assert_allclose(result.frequencies[0], wavenumber(k, reduced), rtol=5e-8)
    assert_allclose(result.frequencies[0], measured, atol=0.2)
    assert_allclose(result.eigenvalues[0], k * NEWTON_PER_METRE / reduced, rtol=1e-12)
    assert_allclose(result.zero_point_energy, result.frequencies[0] * 100 * si.h * si.c / (2 * si.e), rtol=5e-8)
    assert_allclose(result.residuals, 0, atol=1e-12)


def test_stretched_diatomic_keeps_only_its_vibration():
    """Away from the minimum a rotation has curvature V'/r; the projected mode is V''/μ exactly all the same."""
    k, rest, r, masses = 30.0, 1.0, 1.4, np.array([2.0, 5.0])
    atoms = Atoms("HHe", positions=[[0, 0, 0], [0, 0, r]])
    gradient, hessian = springs(atoms.positions, [(0, 1, k, rest)])
    result = analyse(atoms, hessian, masses=masses, forces=-gradient)
    reduced = masses.prod() / masses.sum()
    assert_allclose(result.eigenvalues, [k / reduced], rtol=1e-12)
    assert_allclose(result.force_residual, k * (r - rest), rtol=1e-12)
    tension = k * (r - rest) / r
    turning = tension * math.sqrt(2) * masses.sum() / np.linalg.norm(masses)
    assert_allclose(result.residuals, [0, 0, 0, turning, turning], rtol=1e-12, atol=1e-12)
    unprojected = analyse(atoms, hessian, masses=masses, project=False)
    assert_allclose(unprojected.eigenvalues, [0, 0, 0, tension / reduced, tension / reduced, k / reduced], atol=1e-12)


def test_morse_molecule_follows_its_parameters(tmp_path):
    """V'' = 2 ε (ρ0/r0)² at the minimum of ASE's Morse potential."""
    epsilon, rho0, r0 = 4.7, 2.4, 1.1
    atoms = Atoms("CO", positions=[[0, 0, 0], [r0, 0, 0]])
    atoms.calc = MorsePotential(epsilon=epsilon, rho0=rho0, r0=r0, rcut1=8.0, rcut2=9.0)
    finite = AseVibrations(atoms, delta=0.002, nfree=4, name=str(tmp_path / "vib"))
    finite.run()
    result = analyse(atoms, finite.get_vibrations().get_hessian_2d())
    masses = atoms.get_masses()
    expected = wavenumber(2 * epsilon * (rho0 / r0) ** 2 / NEWTON_PER_METRE, masses.prod() / masses.sum())
    assert_allclose(result.frequencies, [expected], rtol=1e-6)


def test_linear_chain_of_springs():
    """O=C=O with two springs: √(k/m_O) and √(k (1/m_O + 2/m_C)) along the axis, bends without a restoring force."""
    k, oxygen, carbon = 97.0, 15.995, 12.0
    atoms = Atoms("OCO", positions=np.outer([-1.16, 0, 1.16], [2 / 3, -1 / 3, 2 / 3]))
    _, hessian = springs(atoms.positions, [(0, 1, k, 1.16), (1, 2, k, 1.16)])
    result = analyse(atoms, hessian, masses=[oxygen, carbon, oxygen])
    assert_allclose(result.eigenvalues, [0, 0, k / oxygen, k * (1 / oxygen + 2 / carbon)], atol=1e-12, rtol=1e-12)
    assert result.num_imaginary == 0
    # In the symmetric stretch only the oxygens move: x = (−1, 0, 1)/√2, and its reduced mass is that of oxygen.
    assert_allclose(result.reduced_masses[2], oxygen, rtol=1e-12)
    assert_allclose(result.modes[2, 1], 0, atol=1e-12)


def test_triangle_of_springs():
    """Three equal atoms: breathing √(3k/m), and twice √(3k/2m)."""
    k, r, mass = 20.0, 2.0, 7.0
    atoms = Atoms(
        "Li3", positions=r / math.sqrt(3) * np.array([[1, 0, 0], [-0.5, 0.75**0.5, 0], [-0.5, -(0.75**0.5), 0]])
    )
    _, hessian = springs(atoms.positions, [(0, 1, k, r), (1, 2, k, r), (0, 2, k, r)])
    result = analyse(atoms, hessian, masses=[mass] * 3)
    assert result.geometry == "nonlinear"
    assert_allclose(result.eigenvalues, [1.5 * k / mass, 1.5 * k / mass, 3 * k / mass], rtol=1e-12)


@pytest.mark.parametrize(
    ("atom", "modes", "imaginary", "geometry"),
    [
        (WATER, 3, 0, "nonlinear"),
        (CARBON_DIOXIDE, 4, 0, "linear"),
        (HYDROGEN_CYANIDE, 4, 0, "linear"),
        (PLANAR_AMMONIA, 6, 1, "nonlinear"),
    ],
)
def test_agrees_with_pyscf(atom, modes, imaginary, geometry):
    mol, native, atoms, hessian = pyscf_hessian(atom)
    thermo = pytest.importorskip("pyscf.hessian.thermo")
    masses = mol.atom_mass_list(isotope_avg=True)
    reference = thermo.harmonic_analysis(mol, native, mass=masses, imaginary_freq=False)
    result = analyse(atoms, hessian, masses=masses)
    assert len(result.frequencies) == modes
    assert (result.num_imaginary, result.geometry) == (imaginary, geometry)
    assert_allclose(result.frequencies, reference["freq_wavenumber"], rtol=0, atol=1e-3)
    # Degenerate modes may be turned among themselves; reduced masses of the others are the same.
    alone = np.array(
        [np.abs(np.delete(result.eigenvalues, k) - e).min() > 1e-3 for k, e in enumerate(result.eigenvalues)]
    )
    assert_allclose(result.reduced_masses[alone], reference["reduced_mass"][alone], rtol=1e-6)


def test_heavy_water_agrees_with_pyscf():
    mol, native, atoms, hessian = pyscf_hessian(WATER)
    thermo = pytest.importorskip("pyscf.hessian.thermo")
    masses = np.array([15.9949146, 2.0141018, 2.0141018])
    reference = thermo.harmonic_analysis(mol, native, mass=masses)
    result = analyse(atoms, hessian, masses=masses)
    assert_allclose(result.frequencies, reference["freq_wavenumber"].real, rtol=0, atol=1e-3)
    assert_allclose(result.masses, masses)
    assert result.zero_point_energy < analyse(atoms, hessian).zero_point_energy


@pytest.mark.parametrize("name", ["H2O", "NH3", "CH3OH", "C2H6"])
def test_teller_redlich_product_rule(name):
    """Π ν'/ν = Π_i (m_i/m_i')^{3/2} · (M'/M)^{3/2} · Π_a (I_a'/I_a)^{1/2} for all hydrogen replaced by deuterium."""
    atoms = molecule(name)
    hessian = relaxed_springs(atoms)
    light = atoms.get_masses()
    heavy = np.where(atoms.numbers == 1, 2.0141018, light)
    ratio = analyse(atoms, hessian, masses=heavy).frequencies / analyse(atoms, hessian, masses=light).frequencies
    deuterated = atoms.copy()
    deuterated.set_masses(heavy)
    inertia = deuterated.get_moments_of_inertia() / atoms.get_moments_of_inertia()
    expected = np.prod(light / heavy) ** 1.5 * (heavy.sum() / light.sum()) ** 1.5 * math.sqrt(inertia.prod())
    assert_allclose(ratio.prod(), expected, rtol=1e-9)


def test_agrees_with_ase_finite_differences(tmp_path):
    atoms = Icosahedron("Cu", 2)
    atoms.calc = EMT()
    BFGS(atoms, logfile=None).run(fmax=1e-6, steps=300)
    finite = AseVibrations(atoms, delta=0.005, nfree=4, name=str(tmp_path / "vib"))
    finite.run()
    data = finite.get_vibrations()
    result = analyse(atoms, data.get_hessian_2d(), forces=atoms.get_forces())
    assert len(result.frequencies) == 3 * 13 - 6
    assert result.force_residual < 1e-6
    assert_allclose(result.frequencies, np.sort(data.get_frequencies().real)[6:], atol=2e-4)
    # 1 meV is far above what is left in ASE's six rigid modes, and far below this sum.
    assert_allclose(result.zero_point_energy, data.get_zero_point_energy(), atol=1e-3)


def test_fixed_atoms_vibrate_as_in_ase(tmp_path):
    slab = fcc111("Cu", (2, 2, 2), vacuum=6.0)
    add_adsorbate(slab, "O", 1.2, "fcc")
    slab.set_constraint(FixAtoms(range(4)))
    slab.calc = EMT()
    finite = AseVibrations(slab, name=str(tmp_path / "free"))
    finite.run()
    data = finite.get_vibrations()
    assert data.get_indices().tolist() == [4, 5, 6, 7, 8]
    result = analyse(slab, data.get_hessian_2d())
    assert result.indices.tolist() == [4, 5, 6, 7, 8]
    assert len(result.residuals) == 0
    energies = data.get_energies()
    assert_allclose(result.vib_energies, energies, atol=1e-10)
    assert_allclose(result.modes[:, :4], 0)
    assert_allclose(
        np.abs(np.sum(result.modes * data.get_modes(all_atoms=True), axis=(1, 2))) * result.reduced_masses**0.5,
        np.linalg.norm(data.get_modes(all_atoms=True), axis=(1, 2)),
        rtol=1e-6,
    )

    back = result.to_vibrations_data()
    assert_allclose(back.get_hessian_2d(), data.get_hessian_2d(), atol=1e-11)
    assert back.get_indices().tolist() == data.get_indices().tolist()
    assert_allclose(back.get_energies(), energies, atol=1e-9)


def test_full_hessian_of_a_partly_fixed_structure_is_cut_down():
    atoms = molecule("CH3OH")
    full = random_symmetric(6)
    indices = [1, 4, 5]
    rows = np.concatenate([[3 * i, 3 * i + 1, 3 * i + 2] for i in indices])
    by_indices = analyse(atoms, full, indices=indices)
    part = analyse(atoms, full[np.ix_(rows, rows)], indices=indices)
    atoms.set_constraint(FixAtoms([0, 2, 3]))
    by_constraint = analyse(atoms, full)
    scale = np.repeat(atoms.get_masses()[indices], 3) ** -0.5
    expected = np.linalg.eigvalsh(full[np.ix_(rows, rows)] * np.outer(scale, scale))
    for result in (by_indices, part, by_constraint):
        assert_allclose(result.eigenvalues, expected, rtol=1e-12)
        assert result.geometry is None
    free = analyse(atoms, full, indices=range(6))
    assert (len(free.eigenvalues), free.geometry) == (12, "nonlinear")


def test_single_atom_has_no_mode():
    result = analyse(Atoms("Ar", positions=[[1, 2, 3]]), np.zeros((3, 3)))
    assert result.frequencies.shape == result.vib_energies.shape == (0,)
    assert result.modes.shape == (0, 1, 3)
    assert (result.zero_point_energy, result.num_imaginary, result.geometry) == (0.0, 0, "monatomic")
    with pytest.raises(StructureError, match="single atom has no vibration"):
        _ = result.lowest_mode


def test_periodic_structure_loses_translations_only():
    atoms = bulk("Cu", cubic=True)
    result = analyse(atoms, random_symmetric(4))
    assert (len(result.eigenvalues), len(result.residuals), result.geometry) == (9, 3, None)
    assert_allclose(np.einsum("i,kix->kx", result.masses, result.modes), 0, atol=1e-12)


def test_imaginary_modes_are_counted_beyond_the_threshold():
    """One free atom in an anisotropic well, whose three wavenumbers are known: 500i, 5i and 300 cm⁻¹."""
    atoms = Atoms("HO", positions=[[0, 0, 0], [0, 0, 1]], constraint=FixAtoms([1]))
    mass = atoms.get_masses()[0] * si.atomic_mass
    wanted = np.array([-500.0, -5.0, 300.0])
    k = np.sign(wanted) * mass * (2 * math.pi * si.c * 100 * wanted) ** 2 * NEWTON_PER_METRE
    result = analyse(atoms, np.diag(k))
    assert_allclose(result.frequencies, wanted, rtol=5e-8)
    assert_allclose(result.complex_frequencies, [500j, 5j, 300], rtol=5e-8)
    assert result.num_imaginary == 1
    assert_allclose(result.zero_point_energy, 150 * units.invcm, rtol=5e-8)
    assert_allclose(result.vib_energies, np.array([500j, 5j, 300]) * units.invcm, rtol=5e-8)
    assert_allclose(np.abs(result.lowest_mode), [[atoms.get_masses()[0] ** -0.5, 0, 0], [0, 0, 0]], atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), name=st.sampled_from(["H2O", "CH3OH", "CO2", "C2H2", "HCl", "C6H6"]))
def test_moving_a_molecule_changes_no_frequency(seed, name):
    """For any symmetric matrix, stationary or not, since the rigid motions turn with the molecule."""
    atoms = molecule(name)
    n = len(atoms)
    hessian = random_symmetric(n, seed)
    turn = Rotation.random(random_state=seed).as_matrix()
    big = np.kron(np.eye(n), turn)
    moved = atoms.copy()
    moved.positions = atoms.positions @ turn.T + np.random.default_rng(seed).uniform(-20, 20, 3)
    a, b = analyse(atoms, hessian), analyse(moved, big @ hessian @ big.T)
    assert_allclose(a.frequencies, b.frequencies, rtol=1e-8, atol=1e-3)
    assert_allclose(a.zero_point_energy, b.zero_point_energy, rtol=1e-9)


@pytest.mark.parametrize("name", ["CH3OH", "CO2", "C2H2", "C6H6", "HCl"])
def test_projection_is_exact_for_any_matrix(name):
    """The modes obey both Eckart conditions, Σ m x = 0 and Σ m r × x = 0, and are orthonormal."""
    atoms = molecule(name)
    result = analyse(atoms, random_symmetric(len(atoms)))
    linear = name in ("CO2", "C2H2", "HCl")
    assert len(result.modes) == 3 * len(atoms) - (5 if linear else 6)
    arms = atoms.positions - atoms.get_center_of_mass()
    assert_allclose(np.einsum("i,kix->kx", result.masses, result.modes), 0, atol=1e-12)
    assert_allclose(np.einsum("i,kix->kx", result.masses, np.cross(arms[None], result.modes)), 0, atol=1e-11)
    gram = np.einsum("i,kix,lix->kl", result.masses, result.modes, result.modes)
    assert_allclose(gram, np.eye(len(gram)), atol=1e-12)


@pytest.mark.parametrize(
    ("positions", "m"),
    [
        ([[0, 0, 0]], 3),
        ([[0, 0, 0], [1, 1, 0]], 5),
        (np.outer(range(5), [1, 2, 3]), 5),
        ([[0, 0, 0], [0, 0, 1.16], [0, 0.001, 2.32]], 5),
        ([[0, 0, 0], [0, 0, 1.16], [0, 0.1, 2.32]], 6),
        ([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], 6),
    ],
)
def test_rigid_modes_span_all_small_displacements_of_a_stiff_body(positions, m):
    positions = np.asarray(positions, dtype=float)
    n = len(positions)
    masses = np.arange(1.0, n + 1)
    basis = rigid_modes(positions, masses)
    assert basis.shape == (3 * n, m)
    assert_allclose(basis.T @ basis, np.eye(m), atol=1e-13)
    # A finite turn, made small, lies in the span; about the axis of a nearly linear molecule it hardly moves it.
    turned = (Rotation.from_rotvec([3e-6, -2e-6, 1e-6]).as_matrix() @ positions.T).T + 1e-6
    step = (np.sqrt(masses)[:, None] * (turned - positions)).ravel()
    left = step - basis @ (basis.T @ step)
    assert np.linalg.norm(left) < 2e-3 * np.linalg.norm(step)


def test_mass_weighting_divides_by_both_roots():
    masses, hessian = np.array([1.0, 4.0]), random_symmetric(2)
    weighted = mass_weighted(hessian, masses)
    assert_allclose(weighted[:3, :3], hessian[:3, :3])
    assert_allclose(weighted[:3, 3:], hessian[:3, 3:] / 2)
    assert_allclose(weighted[3:, 3:], hessian[3:, 3:] / 4)


def test_mode_overlap_ignores_signs_and_sees_angles():
    """Springs along x and y on one free atom: the lowest mode turns by the angle that the springs are turned by."""
    atoms = Atoms("HO", positions=[[0, 0, 0], [0, 0, 1]], constraint=FixAtoms([1]))
    angle = math.radians(25)
    turn = Rotation.from_rotvec([0, 0, angle]).as_matrix()
    well = np.diag([1.0, 2.0, 3.0])
    a, b, flipped = analyse(atoms, well), analyse(atoms, turn @ well @ turn.T), analyse(atoms, well)
    flipped.modes[:] *= -1
    assert_allclose(mode_overlap(a, b), math.cos(angle), rtol=1e-12)
    assert_allclose(mode_overlap(a, flipped), 1, rtol=1e-12)
    other = analyse(Atoms("FO", positions=[[0, 0, 0], [0, 0, 1]], constraint=FixAtoms([1])), well)
    with pytest.raises(StructureError, match="different structures"):
        mode_overlap(a, other)


def test_vibrations_data_of_a_molecule_gives_the_same_numbers():
    """At a geometry that is not stationary, so that ASE alone would add the rotations to its zero-point energy."""
    atoms = molecule("CH3OH")
    rng = np.random.default_rng(3)
    bonds = [(i, j, rng.uniform(10, 40), 0.9 * atoms.get_distance(i, j)) for i in range(6) for j in range(i)]
    _, hessian = springs(atoms.positions, bonds)
    result = analyse(atoms, hessian)
    data = result.to_vibrations_data()
    assert_allclose(np.sort(data.get_frequencies().real)[6:], result.frequencies, rtol=1e-9)
    assert_allclose(data.get_zero_point_energy(), result.zero_point_energy, atol=1e-7)
    kept = analyse(atoms, hessian, project=False)
    assert_allclose(kept.to_vibrations_data().get_hessian_2d(), hessian, atol=1e-11)
    assert abs(kept.zero_point_energy - result.zero_point_energy) > 1e-3
    isotopes = analyse(atoms, hessian, masses=np.full(6, 3.0)).to_vibrations_data()
    assert_allclose(isotopes.get_atoms().get_masses(), 3.0)


@pytest.mark.parametrize(("atom", "geometry", "sigma"), [(WATER, "nonlinear", 2), (CARBON_DIOXIDE, "linear", 2)])
def test_ideal_gas_agrees_with_ase_built_by_hand(atom, geometry, sigma):
    _, _, atoms, hessian = pyscf_hessian(atom)
    result = analyse(atoms, hessian)
    thermo = ideal_gas_thermo(result, atoms, -7.5, sigma, 0)
    byhand = IdealGasThermo(
        vib_energies=result.frequencies * units.invcm, geometry=geometry, potentialenergy=-7.5, atoms=atoms,
        symmetrynumber=sigma, spin=0, vib_selection="exact",
    )  # fmt: skip
    for temperature in (150.0, 298.15, 900.0):
        mine, theirs = (t.get_gibbs_energy(temperature, 101325.0, verbose=False) for t in (thermo, byhand))
        assert_allclose(mine, theirs, rtol=1e-13)
    assert_allclose(thermo.get_ZPE_correction(), result.zero_point_energy, rtol=1e-13)
    harmonic = HarmonicThermo(result.vib_energies)
    assert_allclose(harmonic.get_ZPE_correction(), result.zero_point_energy, rtol=1e-13)


def test_ideal_gas_of_an_atom_has_its_measured_entropy():
    """Argon at 298.15 K and 1 bar: 154.846 J/(mol K) (CODATA key values, 1989)."""
    atoms = Atoms("Ar", positions=[[0, 0, 0]])
    thermo = ideal_gas_thermo(analyse(atoms, np.zeros((3, 3))), atoms, 0.0, 1, 0)
    entropy = thermo.get_entropy(298.15, 1e5, verbose=False) / (units.J / units.mol)
    assert_allclose(entropy, 154.846, atol=0.003)


def test_ideal_gas_uses_isotopic_masses():
    """S' − S = R [3/2 ln M'/M + 1/2 ln Π I'/I] + vibrations, for heavy against light water."""
    _, _, atoms, hessian = pyscf_hessian(WATER)
    light, heavy = [15.9949146, 1.0078250, 1.0078250], [15.9949146, 2.0141018, 2.0141018]
    entropy, expected = [], []
    for masses in (light, heavy):
        result = analyse(atoms, hessian, masses=masses)
        entropy.append(ideal_gas_thermo(result, atoms, 0.0, 2, 0).get_entropy(298.15, 1e5, verbose=False))
        arms = atoms.positions - np.average(atoms.positions, axis=0, weights=masses)
        inertia = np.linalg.det(np.einsum("i,iab->ab", masses, [a @ a * np.eye(3) - np.outer(a, a) for a in arms]))
        x = result.frequencies * 100 * si.h * si.c / (si.k * 298.15)
        vibration = np.sum(x / np.expm1(x) - np.log(-np.expm1(-x)))
        expected.append(si.R * (1.5 * math.log(sum(masses)) + 0.5 * math.log(inertia) + vibration))
    assert_allclose(np.diff(entropy) / (units.J / units.mol), np.diff(expected), rtol=1e-6)


def test_transition_state_leaves_out_its_one_imaginary_mode():
    _, _, atoms, hessian = pyscf_hessian(PLANAR_AMMONIA)
    result = analyse(atoms, hessian)
    with pytest.raises(StructureError, match="minimum has no imaginary mode, found 1"):
        ideal_gas_thermo(result, atoms, 0.0, 6, 0)
    thermo = ideal_gas_thermo(result, atoms, 0.0, 6, 0, transition_state=True)
    byhand = IdealGasThermo.from_transition_state(
        result.vib_energies, geometry="nonlinear", atoms=atoms, symmetrynumber=6, spin=0, vib_selection="all"
    )
    assert len(thermo.vib_energies) == 5
    mine, theirs = (t.get_gibbs_energy(298.15, 101325.0, verbose=False) for t in (thermo, byhand))
    assert_allclose(mine, theirs, rtol=1e-13)


def test_ideal_gas_refuses_what_it_cannot_describe():
    atoms = molecule("H2O")
    hessian = relaxed_springs(atoms)
    with pytest.raises(StructureError, match="project=True"):
        ideal_gas_thermo(analyse(atoms, hessian, project=False), atoms, 0.0, 2, 0)
    with pytest.raises(StructureError, match="free molecule"):
        ideal_gas_thermo(analyse(atoms, hessian, indices=[0, 1]), atoms, 0.0, 2, 0)
    with pytest.raises(StructureError, match="another structure"):
        ideal_gas_thermo(analyse(atoms, hessian), molecule("SH2"), 0.0, 2, 0)
    with pytest.raises(StructureError, match="transition state has 1 imaginary mode, found none"):
        ideal_gas_thermo(analyse(atoms, hessian), atoms, 0.0, 2, 0, transition_state=True)


def _with_nan(matrix):
    matrix = matrix.copy()
    matrix[0, 1] = matrix[1, 0] = np.nan
    return matrix


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        (lambda h: h[:6], {}, DataError, r"must have shape \(9, 9\), found \(6, 9\)"),
        (lambda h: h[:6, :6], {}, DataError, r"found \(6, 6\)"),
        (lambda h: h.reshape(3, 3, 3, 3), {}, DataError, r"found \(3, 3, 3, 3\)"),
        (lambda h: 1.0, {}, DataError, r"found \(\)"),
        (lambda h: [[1.0], [2.0, 3.0]], {}, DataError, "array of numbers"),
        (lambda h: "hessian", {}, DataError, "array of numbers"),
        (_with_nan, {}, DataError, r"not finite: element \(0, 1\) is nan"),
        (lambda h: h + np.triu(np.full((9, 9), 1e-3), 1), {}, DataError, "not symmetric"),
        (lambda h: h, {"masses": [1.0, 2.0]}, StructureError, "each of the 3 atoms"),
        (lambda h: h, {"masses": [1.0, 0.0, 2.0]}, StructureError, "atom 1 has 0.0"),
        (lambda h: h, {"masses": [[1.0, 1.0, 2.0]]}, StructureError, "one mass"),
        (lambda h: h, {"indices": [0, 3]}, StructureError, "between 0 and 2"),
        (lambda h: h, {"indices": [1, 0]}, StructureError, "rising order"),
        (lambda h: h, {"indices": [True, False, True]}, StructureError, "rising order"),
        (lambda h: h, {"indices": []}, StructureError, "rising order"),
        (lambda h: h, {"forces": np.zeros((2, 3))}, DataError, "3 × 3 finite numbers"),
    ],
)
def test_bad_input_is_one_line(change, options, error, message):
    atoms = molecule("H2O")
    with pytest.raises(error, match=message) as caught:
        analyse(atoms, change(random_symmetric(3)), **options)
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)


def test_bad_structures_are_refused():
    hessian = random_symmetric(2)
    with pytest.raises(StructureError, match="found 0 atoms"):
        analyse(Atoms(), np.zeros((0, 0)))
    with pytest.raises(StructureError, match="finite positions"):
        analyse(Atoms("H2", positions=[[0, 0, np.nan], [0, 0, 1]]), hessian)
    with pytest.raises(StructureError, match="on one spot"):
        analyse(Atoms("H2", positions=np.ones((2, 3))), hessian)
    with pytest.raises(StructureError, match="all 2 atoms are fixed"):
        analyse(Atoms("H2", positions=np.eye(3)[:2], constraint=FixAtoms([0, 1])), hessian)
    with pytest.raises(StructureError, match="FixBondLength"):
        analyse(Atoms("H2", positions=np.eye(3)[:2], constraint=FixBondLength(0, 1)), hessian)


def test_nothing_given_is_changed():
    atoms, hessian = molecule("H2O"), random_symmetric(3)
    before, kept = atoms.copy(), hessian.copy()
    analyse(atoms, hessian, masses=[16.0, 2.0, 2.0])
    assert atoms == before
    assert not atoms.has("masses")
    assert np.array_equal(hessian, kept)
