"""Phonons from Hessian blocks: chains with known dispersion, ASE's finite displacements, folding into supercells."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.phonons import Phonons
from ase.units import invcm
from toy_backbone import ToyBackbone

from hip_ext.blocks import HessianBlocks
from hip_ext.displacements import TERAHERTZ, displaced_phonons
from hip_ext.errors import ConfigError, MissingDependencyError, StructureError
from hip_ext.head import HeadConfig
from hip_ext.model import HessianModel, attach_head
from hip_ext.pairs import pair_graph
from hip_ext.phonons import band_path, band_structure, density_of_states, dynamical_matrices, phonon_wavenumbers
from hip_ext.reference import autograd_hessian
from hip_ext.structures import Structures
from hip_ext.vibrations import INVERSE_CM, analyse

POINTS = np.random.default_rng(0).uniform(-1, 1, (7, 3))
REACH, ONSET = 5.0, 4.0
HAS_PHONOPY = find_spec("phonopy") is not None


def pair_blocks(atoms: Atoms, cutoff: float, energy) -> HessianBlocks:
    """The exact blocks of E = Σ_pairs φ(r): −(φ'' r̂r̂ᵀ + φ'/r (1 − r̂r̂ᵀ)), and minus their sums on the diagonal."""
    structures = Structures.from_ase(atoms)
    graph = pair_graph(structures, cutoff)
    distance = graph.distance.clone().requires_grad_(True)
    (first,) = torch.autograd.grad(energy(distance).sum(), distance, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), distance)
    unit = graph.vector / graph.distance[:, None]
    along = unit[:, :, None] * unit[:, None, :]
    slope = (first / distance).detach()[:, None, None]
    pair = -(second[:, None, None] * along + slope * (torch.eye(3, dtype=torch.float64) - along))
    diagonal = torch.zeros(len(atoms), 3, 3, dtype=torch.float64)
    diagonal = diagonal.index_add(0, graph.first, -pair).index_add(0, graph.second, -pair.transpose(1, 2))
    return HessianBlocks(pair, diagonal, graph, structures.ptr)


def lennard_jones(distance: torch.Tensor) -> torch.Tensor:
    """ASE's smooth Lennard-Jones potential of σ = 3 Å, ε = 0.1 eV."""
    r2, inner, outer = distance**2, ONSET**2, REACH**2
    bare = 0.4 * ((9 / r2) ** 6 - (9 / r2) ** 3)
    switch = (outer - r2) ** 2 * (outer + 2 * r2 - 3 * inner) / (outer - inner) ** 3
    return bare * torch.where(distance < ONSET, 1.0, torch.where(distance < REACH, switch, 0.0))


def hexagonal() -> Atoms:
    """Two atoms of different masses in a strained hexagonal cell, with stress but without forces."""
    atoms = bulk("Mg", "hcp", a=3.3, c=5.5)
    atoms.symbols[1] = "Ca"
    return atoms


@pytest.fixture(scope="module")
def model() -> HessianModel:
    """An untrained head on a small backbone: blocks of a Hessian like any other."""
    torch.manual_seed(0)
    small = HeadConfig(scalars=8, channels=4, hidden=8, pair_channels=2, coordinates=4, cutoff=4.0)
    return attach_head(ToyBackbone(), small)


@pytest.fixture(scope="module")
def crystal() -> Atoms:
    atoms = Atoms(
        "CHO", [[0, 0, 0], [1.1, 0.2, 0], [-0.4, 1.0, 0.7]], cell=[[3.1, 0, 0], [0.6, 3.4, 0], [0.2, -0.5, 3.8]]
    )
    atoms.pbc = True
    return atoms


def test_chain_of_one_atom():
    """ω = 2 √(k/m) |sin(qa/2)| for springs between neighbours; the transverse modes cost nothing."""
    a, stiffness = 2.0, 3.0
    atoms = Atoms("C", cell=[a, 9, 9], pbc=[True, False, False])
    blocks = pair_blocks(atoms, 2.5, lambda r: stiffness * (r - a) ** 2 / 2)
    q = np.linspace(0, 1, 21)
    found = phonon_wavenumbers(blocks, atoms.get_masses(), np.stack((q, 0 * q, 0 * q), 1))
    expected = INVERSE_CM * 2 * np.sqrt(stiffness / atoms.get_masses()[0]) * np.abs(np.sin(np.pi * q))
    np.testing.assert_allclose(found[:, 2], expected, atol=1e-4)
    np.testing.assert_allclose(found[:, :2], 0, atol=1e-4)


def test_chain_of_two_masses():
    """ω² = k (1/m + 1/M) ± k √((1/m + 1/M)² − 4 sin²(qa/2)/(mM)): an acoustic and an optical branch."""
    a, stiffness = 4.0, 2.0
    atoms = Atoms("HO", [[0, 0, 0], [2, 0, 0]], cell=[a, 9, 9], pbc=[True, False, False])
    light, heavy = atoms.get_masses()
    blocks = pair_blocks(atoms, 2.5, lambda r: stiffness * (r - a / 2) ** 2 / 2)
    q = np.linspace(-0.5, 0.5, 11)
    found = phonon_wavenumbers(blocks, (light, heavy), np.stack((q, 0 * q, 0 * q), 1))[:, -2:]
    total = 1 / light + 1 / heavy
    root = np.sqrt(total**2 - 4 * np.sin(np.pi * q) ** 2 / (light * heavy))
    expected = INVERSE_CM * np.sqrt(np.maximum(stiffness * np.stack((total - root, total + root), 1), 0))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-4)


def test_finite_displacements_in_a_supercell_give_the_same_bands(tmp_path):
    """ASE's phonons: another way to the force constants and another Fourier sum, for atoms of two masses."""
    atoms = hexagonal()
    calculator = LennardJones(sigma=3.0, epsilon=0.1, rc=REACH, ro=ONSET, smooth=True)
    phonons = Phonons(atoms, calculator, supercell=(5, 5, 3), delta=2e-4, name=str(tmp_path / "phonons"))
    phonons.run()
    phonons.read(symmetrize=1, acoustic=True)
    expected = np.array(phonons.band_structure(POINTS, verbose=False)) / invcm
    blocks = pair_blocks(atoms, REACH, lennard_jones)
    found = phonon_wavenumbers(blocks, atoms.get_masses(), POINTS)
    assert np.abs(found).min() > 10
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_phonopy_makes_the_same_bands_of_exact_force_constants():
    """A backbone's own second derivatives in a supercell twice as wide as they reach, to phonopy and as blocks."""
    phonopy = pytest.importorskip("phonopy", reason="needs phonopy: pip install 'hip-ext[phonons]'")
    from phonopy.structure.atoms import PhonopyAtoms

    size, reach = (4, 4, 3), 5.0
    atoms = Atoms("CO", [[0.1, 0, 0], [1.0, 1.2, 1.4]], cell=[[2.6, 0, 0], [0.5, 2.7, 0], [-0.2, 0.4, 3.5]], pbc=True)
    backbone = ToyBackbone.load(cutoff=reach / 2)  # three-body terms join atoms that are two cutoffs apart
    supercell = atoms.repeat(size)
    full = autograd_hessian(backbone, Structures.from_ase(supercell)).reshape(len(supercell), 3, len(supercell), 3)

    structures = Structures.from_ase(atoms)
    graph = pair_graph(structures, reach)
    cells = graph.shift % torch.tensor(size)
    image = ((cells[:, 0] * size[1] + cells[:, 1]) * size[2] + cells[:, 2]) * len(atoms) + graph.second
    n = torch.arange(len(atoms))
    blocks = HessianBlocks(full[graph.first, :, image], full[n, :, n], graph, structures.ptr)

    other = phonopy.Phonopy(
        PhonopyAtoms(symbols=["C", "O"], positions=atoms.positions, cell=atoms.cell.array, masses=atoms.get_masses()),
        supercell_matrix=np.diag(size),
        primitive_matrix="P",
    )
    apart = other.supercell.scaled_positions[:, None] - supercell.get_scaled_positions()
    order = np.abs(apart - np.rint(apart)).sum(-1).argmin(1)
    assert sorted(order) == list(range(len(supercell)))
    other.force_constants = full.permute(0, 2, 1, 3).numpy()[np.ix_(order, order)].copy()
    other.run_qpoints(POINTS)
    expected = TERAHERTZ * other.qpoints.frequencies
    found = phonon_wavenumbers(blocks, atoms.get_masses(), POINTS)
    assert np.abs(expected).max() > 100
    np.testing.assert_allclose(found, np.sort(expected, axis=1), rtol=0, atol=1e-6 * np.abs(expected).max())


def test_phonopys_displacements_give_the_same_bands():
    pytest.importorskip("phonopy", reason="needs phonopy: pip install 'hip-ext[phonons]'")
    atoms = hexagonal()
    calculator = LennardJones(sigma=3.0, epsilon=0.1, rc=REACH, ro=ONSET, smooth=True)
    displaced = displaced_phonons(calculator, atoms, POINTS, width=2 * REACH, step=1e-3)
    assert displaced.supercell == (4, 4, 2)
    assert displaced.displacements < 12  # symmetry saves some
    found = phonon_wavenumbers(pair_blocks(atoms, REACH, lennard_jones), atoms.get_masses(), POINTS)
    np.testing.assert_allclose(displaced.wavenumbers, found, rtol=1e-4)


def test_density_of_states_counts_every_state(model, crystal):
    """Its integral is 3N, its mean square that of the eigenvalues, Σ D_ii(q) over the mesh."""
    blocks = model.hessian(crystal)
    grid, density = density_of_states(blocks, crystal, spacing=0.1, bins=2000)
    assert (density >= 0).all()
    step = grid[1] - grid[0]
    assert density.sum() * step == pytest.approx(9, rel=1e-9)
    atoms = bulk("Ar", "fcc", a=4.6)
    grid, density = density_of_states(pair_blocks(atoms, REACH, lennard_jones), atoms, width=0.5)
    # No atom is its own neighbour here below 4.6/√2 Å, so the mean of ω² is the trace of the diagonal block.
    diagonal = pair_blocks(atoms, REACH, lennard_jones).diagonal[0].trace() / atoms.get_masses()[0]
    mean_square = (grid**2 * density).sum() * (grid[1] - grid[0]) / INVERSE_CM**2
    assert mean_square == pytest.approx(float(diagonal), rel=1e-3)


def test_many_wave_vectors_are_taken_in_parts(model, crystal, monkeypatch):
    blocks, masses = model.hessian(crystal), crystal.get_masses()
    expected = phonon_wavenumbers(blocks, masses, POINTS)
    monkeypatch.setattr("hip_ext.phonons.MOST_BLOCKS", 2 * len(blocks.pair) + 2)
    np.testing.assert_allclose(phonon_wavenumbers(blocks, masses, POINTS), expected, rtol=1e-12)


def test_gamma_is_the_mass_weighted_hessian(model, crystal):
    blocks, masses = model.hessian(crystal), crystal.get_masses()
    matrix = dynamical_matrices(blocks, masses, [[0, 0, 0]])[0]
    weights = torch.as_tensor(np.repeat(masses, 3)).sqrt()
    assert float(matrix.imag.abs().max()) == 0
    torch.testing.assert_close(matrix.real * weights[:, None] * weights, blocks.dense(), rtol=1e-13, atol=1e-14)
    eigenvalues = np.linalg.eigvalsh(matrix.real.numpy())
    found = phonon_wavenumbers(blocks, masses, [[0, 0, 0]])[0]
    scale = np.abs(eigenvalues).max()
    np.testing.assert_allclose(np.sign(found) * (found / INVERSE_CM) ** 2, eigenvalues, rtol=0, atol=1e-13 * scale)
    still = np.sort(np.abs(eigenvalues))
    assert still[2] < 1e-13 * scale  # three translations
    assert still[3] > 1e-6 * scale


def test_dynamical_matrices_are_hermitian_and_periodic(model, crystal):
    """D(q) = D(q)†, D(−q) = D(q)*, D(q + G) = D(q)."""
    blocks, masses = model.hessian(crystal), crystal.get_masses()
    matrices = dynamical_matrices(blocks, masses, POINTS)
    assert matrices.shape == (7, 9, 9)
    assert matrices.dtype == torch.complex128
    assert float(matrices.imag.abs().max()) > 1e-3 * float(matrices.abs().max())
    torch.testing.assert_close(matrices, matrices.mH, rtol=0, atol=1e-14)
    torch.testing.assert_close(dynamical_matrices(blocks, masses, -POINTS), matrices.conj(), rtol=0, atol=1e-14)
    torch.testing.assert_close(
        dynamical_matrices(blocks, masses, POINTS + np.array([1, -2, 3])), matrices, rtol=0, atol=1e-12
    )


def test_a_supercell_folds_the_bands(model, crystal):
    """Its Γ point has the wavenumbers of the cell at all wave vectors that fit into it."""
    size = (2, 1, 3)
    points = [[x / 2, 0, z / 3] for x in range(2) for z in range(3)]
    supercell = crystal.repeat(size)
    unfolded = phonon_wavenumbers(model.hessian(crystal), crystal.get_masses(), points)
    folded = phonon_wavenumbers(model.hessian(supercell), supercell.get_masses(), [[0, 0, 0]])[0]
    scale = np.abs(folded).max()
    squares = [np.sort((np.sign(x) * x**2).ravel()) for x in (unfolded, folded)]
    np.testing.assert_allclose(squares[0], squares[1], rtol=0, atol=1e-11 * scale**2)


def test_single_precision_and_molecules(model, crystal):
    """Blocks in float32 give complex64; without periodicity every wave vector is Γ."""
    blocks = model.hessian(crystal)
    assert dynamical_matrices(blocks.to(torch.float32), crystal.get_masses(), POINTS).dtype == torch.complex64
    molecule = crystal.copy()
    molecule.pbc = False
    found = phonon_wavenumbers(model.hessian(molecule), molecule.get_masses(), POINTS)
    np.testing.assert_allclose(found, np.tile(found[0], (len(POINTS), 1)), atol=1e-6)
    own = analyse(molecule, model.hessian(molecule).dense().numpy())
    np.testing.assert_allclose(found[0][-1], own.frequencies.max(), rtol=1e-2)


def test_band_structure_follows_ases_path():
    atoms = bulk("Ar", "fcc", a=4.6)
    blocks = pair_blocks(atoms, REACH, lennard_jones)
    bands = band_structure(blocks, atoms, npoints=40)
    assert bands.energies.shape == (1, 40, 3)
    assert bands.path.path == atoms.cell.bandpath().path
    expected = phonon_wavenumbers(blocks, atoms.get_masses(), bands.path.kpts)
    np.testing.assert_allclose(bands.energies[0] / invcm, expected, rtol=1e-14)
    special = band_structure(blocks, atoms, "GX", npoints=3)
    np.testing.assert_allclose(special.energies[0, 0], 0, atol=1e-7)
    assert special.energies[0, -1].min() > 1e-3
    np.testing.assert_allclose(special.energies[0, -1, 0], special.energies[0, -1, 1], rtol=1e-9)
    given = band_structure(blocks, atoms, special.path)
    np.testing.assert_array_equal(given.energies, special.energies)


def test_bad_input(model, crystal):
    blocks, masses = model.hessian(crystal), crystal.get_masses()
    for bad in ([1.0, 2.0], [1.0, 2.0, 0.0], [1.0, 2.0, np.nan]):
        with pytest.raises(StructureError, match=r"^expected a positive mass for each of 3 atoms, found \[1.0, 2.0"):
            dynamical_matrices(blocks, bad, POINTS)
    for bad in ([0, 0, 0], [[0, 0]], [[0, 0, np.inf]]):
        with pytest.raises(
            ConfigError, match=r"^expected wave vectors as finite numbers of shape \[Q, 3\], found shape"
        ):
            dynamical_matrices(blocks, masses, bad)
    with pytest.raises(StructureError, match="those of one structure, found the Hessian of 2"):
        dynamical_matrices(model.hessian([crystal, crystal]), masses, POINTS)
    with pytest.raises(ConfigError, match=r"there is no path 'GQ' through this Brillouin zone; its points are .*G"):
        band_structure(blocks, crystal, "GQ")
    for path in ("gx", ",", "GX,", "[", "Γ"):
        with pytest.raises(ConfigError, match=r"there is no path .* through this Brillouin zone; its points are .*G"):
            band_path(crystal, path)
    for path in ("", "G", "G,X"):
        with pytest.raises(ConfigError, match=f"has two points at least, found '{path}'$"):
            band_path(crystal, path)
    for width, step in ((0, 0.01), (10, np.nan)):
        with (
            pytest.raises(ConfigError, match="positive lengths")
            if HAS_PHONOPY
            else pytest.raises(MissingDependencyError, match=r"pip install 'hip-ext\[phonons\]'")
        ):
            displaced_phonons(LennardJones(), crystal, POINTS, width, step)
    crystal = crystal.copy()
    crystal.pbc = [True, True, False]
    if HAS_PHONOPY:
        with pytest.raises(StructureError, match="three periodic directions"):
            displaced_phonons(LennardJones(), crystal, POINTS)
    crystal.pbc = False
    with pytest.raises(StructureError, match=r"has no phonon bands: use hip_ext\.vibrations"):
        band_structure(blocks, crystal)
