"""Phonons of a crystal from one Hessian of its primitive cell.

The blocks Φ(i, jS) of a direct Hessian couple atom i of the cell to the image of atom j that is S lattice vectors away,
for every image within the head's reach. They are force constants, and no supercell is needed for

    D_ij(q) = Σ_S Φ(i, jS) exp(2πi q·S) / √(m_i m_j),   D(q) e = ω² e,

with q in units of the reciprocal lattice vectors. D is Hermitian since the reversed pair is the transposed block;
D(0) is the mass-weighted Γ-point Hessian, and its acoustic modes are zero since the rows of the blocks add up to zero.

    blocks = model.hessian(atoms)
    bands = band_structure(blocks, atoms)  # ase.spectrum.band_structure.BandStructure
    bands.plot()
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from ase import Atoms
from ase.dft.kpoints import BandPath, monkhorst_pack
from ase.units import invcm
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr
from torch import Tensor

from hip_ext.blocks import HessianBlocks
from hip_ext.errors import ConfigError, StructureError
from hip_ext.vibrations import INVERSE_CM

if TYPE_CHECKING:
    from ase.spectrum.band_structure import BandStructure

MOST_BLOCKS = 2**20
"""Complex 3×3 blocks in memory at once, 144 bytes each."""


def dynamical_matrices(blocks: HessianBlocks, masses: ArrayLike, points: ArrayLike) -> Tensor:
    """The dynamical matrix at each wave vector.

    Args:
        blocks: the Hessian of one structure with N atoms.
        masses: amu, [N].
        points: wave vectors in units of the reciprocal lattice vectors, [Q, 3].

    Returns:
        D(q) in eV/Å²/amu, complex Hermitian [Q, 3N, 3N], in the precision and on the device of the blocks.

    Raises:
        StructureError: the blocks belong to several structures, or there is not one positive mass for each atom.
        ConfigError: the wave vectors are not finite numbers of shape [Q, 3].
    """
    if len(blocks.ptr) != 2:
        raise StructureError(f"phonons are those of one structure, found the Hessian of {len(blocks.ptr) - 1}")
    n, real = blocks.diagonal.shape[0], blocks.diagonal
    mass, wave = (torch.as_tensor(np.asarray(x, dtype=np.float64)).to(real) for x in (masses, points))
    if mass.shape != (n,) or not bool((torch.isfinite(mass) & (mass > 0)).all()):
        raise StructureError(f"expected a positive mass for each of {n} atoms, found {np.asarray(masses).tolist()}")
    if wave.ndim != 2 or wave.shape[1] != 3 or not bool(torch.isfinite(wave).all()):
        raise ConfigError(f"expected wave vectors as finite numbers of shape [Q, 3], found shape {list(wave.shape)}")
    i, j = blocks.graph.first, blocks.graph.second
    angle = 2 * torch.pi * wave @ blocks.graph.shift.to(real).T
    phase = torch.polar(torch.ones_like(angle), angle)[:, :, None, None]  # [Q, P, 1, 1]
    atoms = torch.arange(n, device=i.device)
    matrix = phase.new_zeros(len(wave), n * n, 3, 3)
    matrix.index_add_(1, i * n + j, blocks.pair * phase)
    matrix.index_add_(1, j * n + i, blocks.pair.transpose(1, 2) * phase.conj())
    matrix.index_add_(1, atoms * n + atoms, blocks.diagonal.to(matrix).expand(len(wave), n, 3, 3))
    scale = 1 / torch.sqrt(mass[:, None] * mass).reshape(n * n, 1, 1)
    return (matrix * scale).reshape(-1, n, n, 3, 3).transpose(2, 3).reshape(-1, 3 * n, 3 * n)


def phonon_wavenumbers(blocks: HessianBlocks, masses: ArrayLike, points: ArrayLike) -> NDArray[np.float64]:
    """The wavenumbers at each wave vector.

    Args:
        blocks: as for `dynamical_matrices`.
        masses: as for `dynamical_matrices`.
        points: as for `dynamical_matrices`.

    Returns:
        cm⁻¹, [Q, 3N], ascending; an imaginary one is given as −|ν|.

    Raises:
        StructureError, ConfigError: as `dynamical_matrices`.
    """
    waves = np.asarray(points, dtype=np.float64)
    # A few wave vectors at a time: each has a block for every pair, before these are added up.
    few = max(1, MOST_BLOCKS // (len(blocks.pair) + 1)) if waves.ndim == 2 else 1
    parts = np.split(waves, range(few, len(waves), few)) if waves.ndim == 2 else [waves]
    squares = np.concatenate([_squares(blocks, masses, part) for part in parts])
    return INVERSE_CM * np.sign(squares) * np.sqrt(np.abs(squares))


def density_of_states(
    blocks: HessianBlocks, atoms: Atoms, spacing: float = 0.015, width: float = 3.0, bins: int = 600
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The density of phonon states, from a regular mesh of wave vectors, each line a Gaussian.

    Args:
        blocks: the Hessian of `atoms`.
        atoms: with the cell and the masses.
        spacing: of the wave vectors, Å⁻¹, as 1/wavelength.
        width: standard deviation of a line, cm⁻¹.
        bins: wavenumbers at which the density is given.

    Returns:
        Wavenumbers in cm⁻¹, [bins], and states per cm⁻¹ and cell, [bins]; their integral is 3N.

    Raises:
        StructureError, ConfigError: as `dynamical_matrices`.
    """
    lengths = np.linalg.norm(atoms.cell.reciprocal(), axis=1)
    mesh = np.where(atoms.pbc, np.maximum(1, np.ceil(lengths / spacing)), 1).astype(int)
    lines = np.sort(phonon_wavenumbers(blocks, atoms.get_masses(), monkhorst_pack(mesh)).ravel())
    grid = np.linspace(lines[0] - 5 * width, lines[-1] + 5 * width, bins)
    # What lies below each edge between the bins, so that no state is lost where the grid is coarse.
    edges = np.concatenate(([-np.inf], (grid[1:] + grid[:-1]) / 2, [np.inf]))
    below = np.array([ndtr((edge - lines) / width).sum() for edge in edges])
    return grid, np.diff(below) / (grid[1] - grid[0]) * 3 * len(atoms) / len(lines)


def band_structure(
    blocks: HessianBlocks, atoms: Atoms, path: BandPath | str | None = None, npoints: int = 100
) -> BandStructure:
    """The phonon bands along a path through the Brillouin zone.

    Args:
        blocks: the Hessian of `atoms`, a primitive cell at rest.
        atoms: with the cell and the masses.
        path: of ASE's making, or the names of its points such as "GXWKGL"; by default the one that ASE proposes.
        npoints: wave vectors along a path that is not given as such.

    Returns:
        ASE's band structure with the energies of the phonons, ħω in eV, [1, Q, 3N], imaginary ones negative.

    Raises:
        StructureError: the structure is not periodic, or the blocks are not its own.
        ConfigError: there is no such path, or it has no length.
    """
    from ase.spectrum.band_structure import BandStructure

    points = path if isinstance(path, BandPath) else band_path(atoms, path, npoints)
    energies = invcm * phonon_wavenumbers(blocks, atoms.get_masses(), points.kpts)
    return BandStructure(points, energies[None], reference=0.0)


def band_path(atoms: Atoms, names: str | None = None, npoints: int = 100) -> BandPath:
    """Wave vectors along a path through the Brillouin zone of a structure.

    Args:
        atoms: with the cell.
        names: special points such as "GXWKGL", with a comma for a jump; by default the path that ASE proposes.
        npoints: wave vectors.

    Raises:
        StructureError: the structure is not periodic.
        ConfigError: there is no such path, or it has no length.
    """
    if not atoms.pbc.any():
        raise StructureError(
            "a structure that is not periodic has no phonon bands: use hip_ext.vibrations, or hip-ext frequencies"
        )
    try:
        path = atoms.cell.bandpath(names, npoints=npoints, pbc=atoms.pbc)
    except (KeyError, IndexError, ValueError, RuntimeError) as error:
        known = ", ".join(atoms.cell.bandpath(npoints=0, pbc=atoms.pbc).special_points)
        raise ConfigError(f"there is no path {names!r} through this Brillouin zone; its points are {known}") from error
    if len(path.kpts) < 2:
        raise ConfigError(f"a path through the Brillouin zone has two points at least, found {path.path!r}")
    return path


def _squares(blocks: HessianBlocks, masses: ArrayLike, points: ArrayLike) -> NDArray[np.float64]:
    """ω² in eV/Å²/amu, [Q, 3N], ascending."""
    matrices = dynamical_matrices(blocks, masses, points).detach().to(torch.complex128)
    squares: NDArray[np.float64] = torch.linalg.eigvalsh(matrices).cpu().numpy()
    return squares
