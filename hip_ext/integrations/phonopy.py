"""A Phonopy object with the force constants of a direct Hessian: no displacements, no forces of supercells.

    phonopy = phonopy_with_hessian(model.hessian(atoms), atoms)
    phonopy.run_mesh([20, 20, 20])
    phonopy.run_thermal_properties()

phonopy interpolates between the wave vectors of its supercell by the nearest image of each pair. Its bands are those of
`hip_ext.phonons` at every wave vector if that image is the only one within the reach of the blocks, so the supercell is
made more than twice as wide as they reach.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from hip_ext.blocks import HessianBlocks
from hip_ext.errors import MissingDependencyError, StructureError

try:
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms
except ImportError:
    raise MissingDependencyError("phonopy is not installed: pip install 'hip-ext[phonons]'") from None


def phonopy_with_hessian(
    blocks: HessianBlocks, atoms: Atoms, supercell: tuple[int, int, int] | None = None, **options: Any
) -> Phonopy:
    """Makes a Phonopy object of the blocks of a primitive cell.

    Args:
        blocks: the Hessian of `atoms`.
        atoms: N atoms in a cell with three lattice vectors; phonopy takes it as the primitive cell.
        supercell: repeats of the cell; by default as many as the blocks reach, on both sides. With fewer the blocks of
            images that coincide are summed, which is exact at the wave vectors of that supercell alone.
        options: whatever else `phonopy.Phonopy` takes.

    Returns:
        An object whose `force_constants` are set, eV/Å², compact [N, M, 3, 3] for M atoms in the supercell.

    Raises:
        StructureError: the structure is not periodic in three directions, the blocks are not its own, or phonopy cannot
            use it.
    """
    if not atoms.pbc.all():
        raise StructureError("phonopy needs three periodic directions: use hip_ext.phonons or hip_ext.vibrations")
    if len(blocks.ptr) != 2 or len(blocks.diagonal) != len(atoms):
        raise StructureError(f"the blocks are not those of one structure with {len(atoms)} atoms")
    repeats = np.array(supercell or _repeats(blocks, atoms))
    cell = PhonopyAtoms(
        numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell.array, masses=atoms.get_masses()
    )
    # phonopy reports on standard output.
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            phonopy: Any = Phonopy(cell, supercell_matrix=np.diag(repeats), primitive_matrix="P", **options)
        except RuntimeError as error:
            raise StructureError(f"phonopy cannot use this structure: {error}") from None
        phonopy.force_constants = _force_constants(blocks, phonopy, atoms, repeats)
    return phonopy


def _repeats(blocks: HessianBlocks, atoms: Atoms) -> NDArray[np.int64]:
    """So many that the supercell is more than twice as wide between opposite faces as the blocks reach."""
    reach = float(blocks.graph.distance.detach().max()) if len(blocks.graph.distance) else 0.0
    heights = 1 / np.linalg.norm(atoms.cell.reciprocal(), axis=1)
    repeats: NDArray[np.int64] = np.floor(2 * reach / heights + 1e-6).astype(np.int64) + 1
    return repeats


def _force_constants(
    blocks: HessianBlocks, phonopy: Any, atoms: Atoms, repeats: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Compact force constants in phonopy's order of atoms, [N, M, 3, 3]."""
    primitive, supercell = phonopy.primitive, phonopy.supercell
    atom = np.array([primitive.p2p_map[s] for s in primitive.s2p_map])  # in the primitive cell, of each of M
    # Lattice vectors from the atom as it was given to the blocks; phonopy may have moved it into the cell.
    away = supercell.scaled_positions * repeats - atoms.get_scaled_positions(wrap=False)[atom]
    shift = np.rint(away).astype(int)
    place = {(int(a), *map(int, s)): m for m, (a, s) in enumerate(zip(atom, shift % repeats, strict=True))}
    home = shift[primitive.p2s_map]  # of the atoms that the rows belong to

    def column(row: int, other: int, cell: NDArray[np.int64]) -> int:
        return place[(other, *map(int, (home[row] + cell) % repeats))]

    pair = blocks.pair.detach().cpu().double().numpy()
    first, second, image = (x.cpu().numpy() for x in (blocks.graph.first, blocks.graph.second, blocks.graph.shift))
    constants = np.zeros((len(primitive), len(supercell), 3, 3))
    for i, j, cell, block in zip(first.tolist(), second.tolist(), image, pair, strict=True):
        constants[i, column(i, j, cell)] += block
        constants[j, column(j, i, -cell)] += block.T
    for i, block in enumerate(blocks.diagonal.detach().cpu().double().numpy()):
        constants[i, column(i, i, np.zeros(3, dtype=int))] += block
    return constants
