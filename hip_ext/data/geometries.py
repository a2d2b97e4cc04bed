"""From SMILES to the geometries that a Hessian is needed at: near minima, rattled, stretched, twisted, half-way.

A head that has seen minima only is of no use to an optimiser or a transition-state search, so each molecule is shown
in a random state, drawn from `DISTORTIONS`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from ase import Atoms
from ase.data import covalent_radii

from hip_ext.errors import DataError, MissingDependencyError

CLOSEST = 0.62
"""A distorted geometry is rejected if two atoms come closer than this fraction of the sum of their covalent radii."""


def embed(smiles: str, seed: int = 0, force_field: bool = True) -> Atoms:
    """One conformer of a molecule, relaxed with MMFF94 where that force field knows it.

    Raises:
        DataError: the SMILES is not valid, or no three-dimensional structure was found.
        MissingDependencyError: RDKit is not installed.
    """
    try:
        from rdkit import Chem, RDLogger
        from rdkit.Chem import AllChem
    except ImportError:
        raise MissingDependencyError("RDKit is not installed: pip install 'hip-ext[train]'") from None
    RDLogger.DisableLog("rdApp.*")
    parsed = Chem.MolFromSmiles(smiles)
    if parsed is None:
        raise DataError(f"not a valid SMILES string: {smiles!r}")
    molecule = Chem.AddHs(parsed)
    if AllChem.EmbedMolecule(molecule, randomSeed=seed, maxAttempts=20) != 0:
        raise DataError(f"no three-dimensional structure found for {smiles!r}")
    if force_field and AllChem.MMFFHasAllMoleculeParams(molecule):
        AllChem.MMFFOptimizeMolecule(molecule, maxIters=500)
    numbers = [atom.GetAtomicNum() for atom in molecule.GetAtoms()]
    atoms = Atoms(numbers, positions=molecule.GetConformer().GetPositions())
    atoms.info.update(smiles=smiles, charge=Chem.GetFormalCharge(parsed))
    return atoms


def distort(atoms: Atoms, rng: np.random.Generator, attempts: int = 10) -> Atoms:
    """The molecule in a random state; `info["distortion"]` says which. Falls back to a small rattle."""
    names = list(DISTORTIONS)
    weights = np.array([DISTORTIONS[name][0] for name in names])
    for _ in range(attempts):
        name = str(rng.choice(names, p=weights / weights.sum()))
        moved = DISTORTIONS[name][1](atoms, rng)
        if moved is not None and _no_clash(moved):
            moved.info["distortion"] = name
            return moved
    moved = rattle(atoms, rng, 0.02)
    moved.info["distortion"] = "rattle"
    return moved


def rattle(atoms: Atoms, rng: np.random.Generator, width: float | None = None) -> Atoms:
    """Independent normal displacements; the width (Å) is drawn from 0.01 to 0.1 unless given."""
    width = float(rng.choice((0.01, 0.02, 0.04, 0.07, 0.1))) if width is None else width
    return _moved(atoms, atoms.positions + rng.normal(scale=width, size=(len(atoms), 3)))


def stretch(atoms: Atoms, rng: np.random.Generator) -> Atoms | None:
    """One bond 0.9 to 1.6 times as long, the smaller side moving, and a small rattle."""
    bonds = _bonds(atoms)
    if len(bonds) == 0:
        return None
    a, b = bonds[rng.integers(len(bonds))]
    side = _side(bonds, int(a), int(b))
    factor = rng.uniform(0.9, 1.6) if side is None else rng.uniform(0.9, 1.35)
    positions = atoms.positions.copy()
    moving = [int(b)] if side is None else side
    positions[moving] += (factor - 1.0) * (positions[b] - positions[a])
    return rattle(_moved(atoms, positions), rng, 0.02)


def twist(atoms: Atoms, rng: np.random.Generator) -> Atoms | None:
    """A rotation of one side of a bond by up to a full turn, and a small rattle."""
    bonds = [tuple(map(int, bond)) for bond in _bonds(atoms)]
    rng.shuffle(bonds)
    for a, b in bonds:
        side = _side(np.array(bonds), a, b)
        if side is not None and 1 < len(side) < len(atoms) - 1:
            moved = atoms.copy()
            moved.info = dict(atoms.info)
            axis = moved.positions[b] - moved.positions[a]
            part = moved[side]
            part.rotate(rng.uniform(0, 360), axis, center=moved.positions[b])
            moved.positions[side] = part.positions
            return rattle(moved, rng, 0.02)
    return None


def transfer_hydrogen(atoms: Atoms, rng: np.random.Generator) -> Atoms | None:
    """A hydrogen part of the way to another heavy atom within 3.2 Å, as on a reaction path, and a small rattle."""
    bonds = _bonds(atoms)
    hydrogens = [int(h) for h in np.flatnonzero(atoms.numbers == 1) if ((bonds == h).sum() == 1)]
    heavy = np.flatnonzero(atoms.numbers > 1)
    if not hydrogens or len(heavy) < 2:
        return None
    hydrogen = int(rng.choice(hydrogens))
    row = bonds[(bonds == hydrogen).any(axis=1)][0]
    donor = int(row[row != hydrogen][0])
    away = np.linalg.norm(atoms.positions[heavy] - atoms.positions[hydrogen], axis=1)
    acceptors = [int(x) for x, d in zip(heavy, away, strict=True) if d < 3.2 and x != donor]
    if not acceptors:
        return None
    acceptor = int(rng.choice(acceptors))
    total = (covalent_radii[atoms.numbers[[donor, acceptor]]] + 0.31).sum()
    along = atoms.positions[acceptor] - atoms.positions[donor]
    fraction = rng.uniform(0.35, 0.65)
    target = atoms.positions[donor] + fraction * along
    # Lift the hydrogen off the axis until both of its distances could be half-made bonds.
    lift = np.sqrt(max((0.55 * total) ** 2 - (0.5 * np.linalg.norm(along)) ** 2, 0.0))
    side = np.cross(along, rng.normal(size=3))
    positions = atoms.positions.copy()
    positions[hydrogen] = target + lift * side / np.linalg.norm(side)
    return rattle(_moved(atoms, positions), rng, 0.03)


def interpolate(atoms: Atoms, rng: np.random.Generator) -> Atoms | None:
    """A point on the straight line to another conformer of the same molecule, as at the start of a path search."""
    from ase.build import minimize_rotation_and_translation

    try:
        other = embed(str(atoms.info["smiles"]), seed=int(rng.integers(1, 2**31)))
    except (DataError, KeyError):
        return None
    minimize_rotation_and_translation(atoms, other)
    fraction = rng.uniform(0.05, 0.5)
    return rattle(_moved(atoms, (1 - fraction) * atoms.positions + fraction * other.positions), rng, 0.01)


DISTORTIONS: dict[str, tuple[float, Callable[[Atoms, np.random.Generator], Atoms | None]]] = {
    "rattle": (0.5, rattle),
    "twist": (0.15, twist),
    "stretch": (0.15, stretch),
    "transfer_hydrogen": (0.1, transfer_hydrogen),
    "interpolate": (0.1, interpolate),
}
"""Name: (share, function)."""


def relative_distances(atoms: Atoms) -> np.ndarray:
    """Distances divided by the sum of the two covalent radii, [N, N]."""
    radii = covalent_radii[atoms.numbers]
    return np.asarray(atoms.get_all_distances() / (radii[:, None] + radii[None, :]))


def _moved(atoms: Atoms, positions: np.ndarray) -> Atoms:
    moved = Atoms(atoms.numbers, positions=positions)
    moved.info = dict(atoms.info)
    return moved


def _bonds(atoms: Atoms) -> np.ndarray:
    """Pairs closer than 1.25 times the sum of covalent radii, [n, 2]."""
    return np.argwhere(np.triu(relative_distances(atoms) < 1.25, 1))


def _side(bonds: np.ndarray, a: int, b: int) -> list[int] | None:
    """The atoms on b's side of the bond a–b, or None if the bond is part of a ring."""
    reached, frontier = {b}, [b]
    while frontier:
        atom = frontier.pop()
        for x, y in bonds:
            if {int(x), int(y)} == {a, b}:
                continue
            new = int(y) if x == atom else int(x) if y == atom else None
            if new is not None and new not in reached:
                if new == a:
                    return None
                reached.add(new)
                frontier.append(new)
    return sorted(reached)


def _no_clash(atoms: Atoms) -> bool:
    return bool(relative_distances(atoms)[np.triu_indices(len(atoms), 1)].min(initial=np.inf) > CLOSEST)
