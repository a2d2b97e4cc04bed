"""Metrics on constructed Hessians with known answers, and against a second, plain implementation of the definitions."""

from itertools import product

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
from ase import Atoms, units
from ase.build import molecule
from ase.thermochemistry import HarmonicThermo

from hip_ext.errors import DataError, StructureError
from hip_ext.evaluation.blocks import EDGES, block_errors, distance_classes
from hip_ext.evaluation.metrics import QUANTITIES, compare, summarise
from hip_ext.evaluation.spectra import LOWEST_WAVENUMBER, Spectrum, vibrational_free_energy, wavenumbers
from hip_ext.evaluation.statistics import estimates
from hip_ext.vibrations import INVERSE_CM, rigid_modes

NAMES = ("H2O", "NH3", "CH3CH2OH", "C6H6", "CO2", "HCN")


def random_hessian(atoms, seed=0, scale=1.0):
    """Symmetric, mostly positive, nothing special."""
    size = 3 * len(atoms)
    a = np.random.default_rng(seed).normal(size=(size, size))
    return scale * (a + a.T + np.sqrt(size) * np.eye(size))


def hessian_of_modes(atoms, eigenvalues, order=None, seed=0):
    """Eckart modes in a random basis with the given eigenvalues (eV/(Å²·amu)); `order` permutes the modes."""
    masses = atoms.get_masses()
    rigid = rigid_modes(atoms.positions, masses)
    basis = scipy.linalg.null_space(rigid.T)
    rotation = scipy.stats.ortho_group.rvs(basis.shape[1], random_state=seed)
    modes = basis @ rotation
    modes = modes if order is None else modes[:, order]
    root = np.sqrt(np.repeat(masses, 3))
    return (modes * eigenvalues) @ modes.T * np.outer(root, root)


def plain_eckart(atoms, hessian):
    """Eigenpairs of the mass-weighted Hessian in the null space of plainly written translations and rotations."""
    masses = atoms.get_masses()
    arms = atoms.positions - atoms.get_center_of_mass()
    vectors = []
    for axis in np.eye(3):
        vectors.append((np.sqrt(masses)[:, None] * axis).ravel())
        vectors.append((np.sqrt(masses)[:, None] * np.cross(axis, arms)).ravel())
    free = scipy.linalg.null_space(np.array(vectors), rcond=1e-6)
    inverse_root = np.diag(np.repeat(masses, 3) ** -0.5)
    values, vectors = scipy.linalg.eigh(free.T @ inverse_root @ hessian @ inverse_root @ free)
    return values, free @ vectors


def plain_metrics(atoms, predicted, exact):
    """The definitions one by one, in units of ase.units and nothing of hip_ext."""
    found = {
        "hessian_mae": np.mean(abs(predicted - exact)),
        "hessian_mre": np.mean(abs(predicted - exact) / (abs(exact) + 1e-8)),
        "hessian_relative": np.sqrt(np.sum((predicted - exact) ** 2) / np.sum(exact**2)),
        "asymmetry": np.mean(abs(predicted - predicted.T)),
        "mean_abs": np.mean(abs(exact)),
    }
    symmetric = 0.5 * (predicted + predicted.T)
    spectra = {
        "raw": (scipy.linalg.eigh(symmetric), scipy.linalg.eigh(exact)),
        "eckart": (plain_eckart(atoms, symmetric), plain_eckart(atoms, exact)),
    }
    for kind, ((values, vectors), (true_values, true_vectors)) in spectra.items():
        found[f"eigenvalue_mae_{kind}"] = np.mean(abs(values - true_values))
        for k in (0, 1):
            found[f"lambda{k + 1}_mae_{kind}"] = abs(values[k] - true_values[k])
            found[f"cos{k + 1}_{kind}"] = abs(vectors[:, k] @ true_vectors[:, k])
        found[f"overlap_error_{kind}"] = np.sqrt(np.sum((abs(vectors.T @ true_vectors) - np.eye(len(values))) ** 2))
    (values, _), (true_values, _) = spectra["eckart"]
    counts = [int(np.sum(v < -1e-6)) for v in (values, true_values)]
    found["negative_count"], found["negative_count_reference"] = counts
    found["negative_agrees"] = counts[0] == counts[1]
    found["minimum_agrees"] = (counts[0] == 0) == (counts[1] == 0)
    found["ts_agrees"] = (counts[0] == 1) == (counts[1] == 1)
    # ω in SI from eV/(Å²·amu), then ν̃ = ω/2πc in cm⁻¹ and E = ħω in eV
    omega = [np.sqrt(abs(v) * units._e * 1e20 / units._amu) for v in (values, true_values)]
    signed = [np.sign(v) * w / (2 * np.pi * units._c * 100) for v, w in zip((values, true_values), omega, strict=True)]
    found["frequency_mae"] = np.mean(abs(signed[0] - signed[1]))
    zpe, true_zpe = (
        0.5 * units._hbar / units._e * w[v > 0].sum() for v, w in zip((values, true_values), omega, strict=True)
    )
    found |= {"zpe": zpe, "zpe_reference": true_zpe, "zpe_mae": abs(zpe - true_zpe)}
    found["zpe_error"] = abs(zpe - true_zpe) / true_zpe
    return found


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("asymmetry", [0.0, 0.05])
def test_against_plain_definitions(name, asymmetry):
    atoms = molecule(name)
    exact = random_hessian(atoms)
    noise = np.random.default_rng(1).normal(size=exact.shape)
    predicted = exact + 0.2 * (noise + noise.T) + asymmetry * (noise - noise.T)
    found = vars(compare(atoms, predicted, exact))
    for key, value in plain_metrics(atoms, predicted, exact).items():
        assert found[key] == pytest.approx(value, rel=1e-8, abs=1e-12), key


def test_equal_hessians_have_no_error():
    atoms = molecule("CH3CH2OH")
    hessian = random_hessian(atoms)
    found = vars(compare(atoms, hessian, hessian))
    for key, value in found.items():
        if "cos" in key or "agrees" in key or key == "lowest_subspace_overlap":
            assert value == pytest.approx(1, abs=1e-12), key
        elif "mae" in key or "error" in key or key in ("hessian_relative", "hessian_mre", "asymmetry"):
            assert value == pytest.approx(0, abs=1e-10), key


def test_scaled_hessian():
    atoms = molecule("CH3CH2OH")
    exact = random_hessian(atoms)
    found = compare(atoms, 1.21 * exact, exact)
    theirs = Spectrum.of(atoms, exact)
    real = theirs.values > 0
    assert found.hessian_mae == pytest.approx(0.21 * np.abs(exact).mean())
    assert found.hessian_relative == pytest.approx(0.21)
    assert found.eigenvalue_mae_raw == pytest.approx(0.21 * np.abs(np.linalg.eigvalsh(exact)).mean())
    assert found.eigenvalue_mae_eckart == pytest.approx(0.21 * np.abs(theirs.values).mean())
    assert found.lambda2_mae_eckart == pytest.approx(0.21 * abs(theirs.values[1]))
    assert [found.cos1_eckart, found.cos2_raw] == pytest.approx([1, 1])
    assert found.overlap_error_eckart == pytest.approx(0, abs=1e-9)
    assert found.frequency_mae == pytest.approx(0.1 * np.abs(theirs.vibrations.frequencies).mean())
    assert found.zpe_error == pytest.approx(0.1)
    assert found.zpe_mae == pytest.approx(0.05 * (INVERSE_CM * np.sqrt(theirs.values[real])).sum() * units.invcm)
    assert found.negative_agrees and found.minimum_agrees and found.ts_agrees and found.class_agrees


def test_swapped_modes_and_degenerate_ones():
    atoms = molecule("H2O")
    swap = [1, 0, 2]

    def lowest(first, second):
        eigenvalues = (np.array([first, second, 3000.0]) / INVERSE_CM) ** 2
        return compare(atoms, hessian_of_modes(atoms, eigenvalues, order=swap), hessian_of_modes(atoms, eigenvalues))

    apart, close = lowest(500.0, 900.0), lowest(500.0, 505.0)
    assert apart.cos1_eckart == pytest.approx(0, abs=1e-6) and apart.cos2_eckart == pytest.approx(0, abs=1e-6)
    assert apart.lowest_subspace_size == 1 and apart.lowest_subspace_overlap == pytest.approx(0, abs=1e-6)
    assert apart.overlap_error_eckart == pytest.approx(2)  # two ones off the diagonal, two zeros on it
    assert apart.eigenvalue_mae_eckart == pytest.approx(0, abs=1e-9)
    assert close.cos1_eckart == pytest.approx(0, abs=1e-6)
    assert close.lowest_subspace_size == 2 and close.lowest_subspace_overlap == pytest.approx(1)


def test_subspace_overlap_does_not_depend_on_the_basis_of_a_degenerate_pair():
    """CO2 bends in two directions with one frequency: any rotation of the pair is as good, |cos v1| takes any value."""
    atoms = molecule("CO2")
    masses = np.sqrt(np.repeat(atoms.get_masses(), 3))
    bend = np.array([[-1, 0, 0], [0.5, 0, 0], [0.5, 0, 0]])
    bend = bend - (atoms.get_masses() @ bend) / atoms.get_masses().sum()
    x = bend.ravel() * masses / np.linalg.norm(bend.ravel() * masses)
    y = np.roll(bend, 1, axis=1).ravel() * masses / np.linalg.norm(bend.ravel() * masses)
    stretches = scipy.linalg.null_space(np.vstack((rigid_modes(atoms.positions, atoms.get_masses()).T, x, y)))

    def turned(angle, splitting):
        c, s = np.cos(angle), np.sin(angle)
        modes = np.column_stack((c * x + s * y, c * y - s * x, stretches))
        values = (np.array([667.0, 667.0 + splitting, 1333.0, 2349.0]) / INVERSE_CM) ** 2
        return (modes * values) @ modes.T * np.outer(masses, masses)

    exact = turned(0.0, 1e-3)
    assert wavenumbers(Spectrum.of(atoms, exact).values)[:2] == pytest.approx([667, 667], abs=1e-2)
    for angle in (0.3, 1.0):
        found = compare(atoms, turned(angle, 1e-3), exact)
        assert found.cos1_eckart == pytest.approx(np.cos(angle), abs=1e-5)
        assert found.lowest_subspace_size == 2 and found.lowest_subspace_overlap == pytest.approx(1)


@pytest.mark.parametrize(
    ("ours", "theirs", "negative", "minimum", "ts", "kind"),
    [(0, 0, 1, 1, 1, 1), (1, 0, 0, 0, 0, 0), (1, 1, 1, 1, 1, 1), (2, 3, 0, 1, 1, 1), (2, 1, 0, 1, 0, 0)],
)
def test_counts_of_negative_modes(ours, theirs, negative, minimum, ts, kind):
    atoms = molecule("CH4")
    sizes = np.linspace(1, 9, 9)

    def with_negative(count):
        return hessian_of_modes(atoms, np.where(np.arange(9) < count, -sizes, sizes))

    found = compare(atoms, with_negative(ours), with_negative(theirs))
    assert (found.negative_count, found.negative_count_reference) == (ours, theirs)
    assert [found.negative_agrees, found.minimum_agrees, found.ts_agrees, found.class_agrees] == [
        bool(x) for x in (negative, minimum, ts, kind)
    ]


def test_the_threshold_of_a_negative_eigenvalue():
    atoms = molecule("H2O")
    assert Spectrum.of(atoms, hessian_of_modes(atoms, np.array([-0.9e-6, 1, 2]))).negative_count == 0
    assert Spectrum.of(atoms, hessian_of_modes(atoms, np.array([-1.1e-6, 1, 2]))).negative_count == 1


def test_rigid_motions_are_in_the_raw_spectrum_only():
    """A matrix with six zero modes, and one whose zero modes are off: Eckart numbers do not notice, raw ones do."""
    atoms = molecule("NH3")
    exact = hessian_of_modes(atoms, np.linspace(1, 6, 6))
    root = np.sqrt(np.repeat(atoms.get_masses(), 3))
    rigid = rigid_modes(atoms.positions, atoms.get_masses())
    spoilt = exact - 0.3 * rigid @ rigid.T * np.outer(root, root)
    found = compare(atoms, spoilt, exact)
    assert found.eigenvalue_mae_eckart == pytest.approx(0, abs=1e-9) and found.negative_agrees
    assert found.eigenvalue_mae_raw > 0.1 and found.lambda1_mae_raw > 0.1


def test_water_from_quantum_chemistry():
    """Frequencies and ZPE of an analytic Hartree–Fock Hessian, as PySCF's own thermochemistry finds them."""
    pyscf = pytest.importorskip("pyscf", reason="PySCF is not installed")
    from pyscf.hessian import thermo

    atoms = molecule("H2O")
    mol = pyscf.gto.M(atom=[(a.symbol, a.position) for a in atoms], basis="sto-3g", verbose=0)
    matrix = pyscf.scf.RHF(mol).run().Hessian().kernel()
    theirs = thermo.harmonic_analysis(mol, matrix)
    hessian = matrix.transpose(0, 2, 1, 3).reshape(9, 9) * units.Hartree / units.Bohr**2
    spectrum = Spectrum.of(atoms, hessian)
    assert spectrum.vibrations.frequencies == pytest.approx(np.real(theirs["freq_wavenumber"]), rel=1e-4)
    gas = thermo.thermo(_of_energy_zero(mol), theirs["freq_au"], 298.15, 101325)
    assert spectrum.vibrations.zero_point_energy == pytest.approx(gas["ZPE"][0] * units.Hartree, rel=1e-4)
    free = (gas["E_vib"][0] - 298.15 * gas["S_vib"][0]) * units.Hartree
    assert spectrum.free_energy == pytest.approx(free, rel=1e-4)  # no mode of water is low
    assert compare(atoms, 1.1 * hessian, hessian).zpe_mae == pytest.approx(
        (1.1**0.5 - 1) * gas["ZPE"][0] * units.Hartree, rel=1e-4
    )


def _of_energy_zero(mol):
    from pyscf import scf

    field = scf.RHF(mol)
    field.e_tot = 0.0
    return field


@pytest.mark.parametrize("temperature", [100.0, 298.15, 1000.0])
def test_free_energy_against_ase(temperature):
    given = np.array([-450.0, 3.0, 80.0, 150.0, 700.0, 1600.0, 3200.0])
    real = given[given > 0]
    bare = HarmonicThermo(real * units.invcm).get_helmholtz_energy(temperature, verbose=False)
    assert vibrational_free_energy(given, temperature, lowest=0) == pytest.approx(bare, abs=1e-10)
    raised = HarmonicThermo(np.maximum(real, LOWEST_WAVENUMBER) * units.invcm)
    assert vibrational_free_energy(given, temperature) == pytest.approx(
        raised.get_helmholtz_energy(temperature, verbose=False), abs=1e-10
    )


def test_two_atoms_have_one_mode_and_one_has_none():
    pair = Atoms("CO", positions=[[0, 0, 0], [0, 0, 1.13]])
    hessian = random_hessian(pair)
    found = compare(pair, hessian, hessian)
    assert found.cos1_eckart == pytest.approx(1) and np.isnan(found.cos2_eckart) and np.isnan(found.lambda2_mae_eckart)
    assert np.isfinite(found.cos2_raw)
    with pytest.raises(StructureError, match="single atom"):
        compare(Atoms("C"), np.eye(3), np.eye(3))


@pytest.mark.parametrize("broken", [np.eye(6), np.full((9, 9), np.nan)])
def test_unusable_hessians_are_refused(broken):
    with pytest.raises(DataError, match="finite Hessian of 9 × 9"):
        compare(molecule("H2O"), broken, np.eye(9))


def test_every_metric_has_a_title_and_its_unit():
    found = vars(compare(molecule("H2O"), np.eye(9), 2 * np.eye(9)))
    assert set(found) <= set(QUANTITIES)
    for name in found:
        if "cos" in name or "overlap" in name or "agrees" in name:
            assert QUANTITIES[name].unit == ""
        elif name.endswith("_raw"):
            assert QUANTITIES[name].unit == "eV/Å²"
        elif name.endswith("_eckart"):
            assert QUANTITIES[name].unit == "eV/(Å²·amu)"


def test_summary_of_a_training_run():
    atoms = [molecule(name) for name in ("H2O", "NH3", "CH4")]
    found = [compare(a, 1.1 * random_hessian(a, k), random_hessian(a, k)) for k, a in enumerate(atoms)]
    result = summarise(found)
    assert result["structures"] == 3 and (result["atoms_least"], result["atoms_most"]) == (3, 5)
    assert result["hessian_mae"] == pytest.approx(np.mean([m.hessian_mae for m in found]))
    assert result["mae_over_mean_abs"] == pytest.approx(0.1)
    assert result["mode_overlap_median"] == pytest.approx(1) and result["negative_agreement"] == 1


def test_block_sums_against_a_loop():
    atoms = molecule("CH3CH2OH")
    exact = random_hessian(atoms)
    predicted = exact + np.random.default_rng(3).normal(size=exact.shape)
    pairs, distances = block_errors(atoms, predicted, exact)
    expected_pairs, expected_distances = {}, {}
    for i, j in product(range(len(atoms)), repeat=2):
        rows, columns = slice(3 * i, 3 * i + 3), slice(3 * j, 3 * j + 3)
        one = np.array([9, abs(predicted - exact)[rows, columns].sum(), abs(exact)[rows, columns].sum()])
        first, second = sorted((atoms[i].symbol, atoms[j].symbol))
        kind = f"{first}, same atom" if i == j else f"{first}–{second}"
        expected_pairs[kind] = expected_pairs.get(kind, 0) + one
        place = 0 if i == j else 1 + sum(atoms.get_distance(i, j) >= edge for edge in EDGES)
        name = distance_classes()[place]
        expected_distances[name] = expected_distances.get(name, 0) + one
    for found, expected in ((pairs, expected_pairs), (distances, expected_distances)):
        assert found.keys() == expected.keys()
        for name, sums in expected.items():
            assert found[name] == pytest.approx(sums)
        total = np.sum(list(found.values()), axis=0)
        assert total[0] == exact.size and total[1] / total[0] == pytest.approx(np.abs(predicted - exact).mean())


def test_block_distances_are_those_of_the_nearest_images():
    copper = Atoms("Cu2", positions=[[0.1, 0, 0], [9.9, 0, 0]], cell=[10, 10, 10], pbc=True)
    _, distances = block_errors(copper, np.zeros((6, 6)), np.eye(6))
    assert set(distances) == {"same atom", "< 1.2 Å"}


def test_interval_against_scipy():
    values = np.random.default_rng(5).exponential(size=60)
    ours = estimates(values[:, None])[0]
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert ours.mean == pytest.approx(values.mean()) and ours.median == pytest.approx(np.median(values))
    assert ours.n == 60
    assert [ours.low, ours.high] == pytest.approx([theirs.low, theirs.high], abs=0.02)


def test_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(7)
    found = estimates(rng.normal(3.0, 2.0, size=(50, 600)))
    covered = np.mean([one.low <= 3.0 <= one.high for one in found])
    assert 0.92 <= covered <= 0.97  # 95 % nominal, a little less for 50 draws; sampling error 0.9 %


def test_interval_of_a_ratio_covers_the_true_one():
    rng = np.random.default_rng(8)
    entries = rng.integers(1, 10, size=(80, 400)).astype(float)
    sums = entries * 2.0 + rng.normal(size=entries.shape) * np.sqrt(entries)
    found = estimates(sums, entries)
    assert found[0].mean == pytest.approx(sums[:, 0].sum() / entries[:, 0].sum())
    assert 0.91 <= np.mean([one.low <= 2.0 <= one.high for one in found]) <= 0.98


def test_estimates_leave_out_what_is_not_there():
    nan = np.nan
    one, none, two = estimates(np.array([[1.0, nan, nan], [3.0, nan, 5.0], [5.0, nan, 5.0]]))
    assert (one.mean, one.n) == (3.0, 3) and one.low < 3.0 < one.high
    assert none.n == 0 and none.plain()["mean"] is None and none.plain()["low"] is None
    assert (two.mean, two.low, two.high, two.n) == (5.0, 5.0, 5.0, 2)
    assert estimates(np.array([[1.0], [2.0]])) == estimates(np.array([[1.0], [2.0]]))
