"""Random small organic molecules as SMILES, grown from fragments and edited atom by atom with RDKit.

    python -m hip_ext.data.molecules --count 20000 --seed 0 > molecules.smi
    python -m hip_ext.data.molecules --count 20000 --seed 1 --without molecules.smi --unlike held_out.smi > more.smi

The molecules are closed-shell and neutral, made of H, C, N, O, F, S and Cl, with 2 to 30 atoms. A given seed always
gives the same list.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hip_ext.errors import DataError, MissingDependencyError

if TYPE_CHECKING:
    from rdkit import Chem

FRAGMENTS = (
    "C CC C=C C#C CCC CC=C C=CC=C C1CC1 C1CCC1 C1CCCC1 C1CCCCC1 C1=CCCCC1 c1ccccc1 c1ccncc1 c1cncnc1 c1ccoc1 "
    "c1ccsc1 c1cc[nH]c1 c1c[nH]cn1 c1cn[nH]c1 c1cocn1 c1cscn1 c1nc[nH]n1 C1CO1 C1CN1 C1CCO1 C1CCOC1 C1CCNC1 "
    "C1COCCO1 C1CNCCN1 C1COCCN1 C1CCSC1 N NC CN(C)C NN N=C C#N CC#N NC=O NC(N)=O CNC=O NC(C)=O N=C(N)N CC=NO O "
    "CO COC C=O CC=O CC(C)=O C(=O)O CC(=O)O COC=O COC(C)=O OC(=O)O NC(=O)O OCCO C(=O)C=O C=CC=O S CS CSC SC=O "
    "NC=S CC=S CS(C)=O CS(C)(=O)=O NS(C)(=O)=O CSSC C=C=C C=C=O N=C=O N=C=S CF FCF FC(F)F CCl ClCCl "
    "CN=[N+]=[N-] C[N+](=O)[O-] O=[N+]([O-])c1ccccc1 Oc1ccccc1 Nc1ccccc1 Fc1ccccc1 Clc1ccccc1 O=c1cc[nH]cc1 "
    "O=C1CCCN1 O=C1CCCO1 O=C1C=CC(=O)C=C1 c1ccc2[nH]ccc2c1 c1ccc2occc2c1 c1ccc2ncccc2c1 C1CC2CC1C2 C1C2CC1C2 "
    "NCC(=O)O NC(C)C(=O)O OCC(O)C=O O=C1NC=CC(=O)N1 Cn1ccnc1"
).split()

SMALL = (
    "[H][H] C N O S F Cl CC C=C C#C C=O C#N N#N [C-]#[O+] O=C=O N=N OO NO NN FC ClC FCl ClCl FF S=C=S O=C=S "
    "O=S=O CO CN CS C=N C=S FO ClO C=C=C C=C=O N=C=O CC#N CC=O CC(=O)O OC=O NC=O NC(N)=O COC CNC CSC CSSC SS "
    "C1CC1 C1CO1 C1CN1 C1CS1 FC(F)F ClC(Cl)Cl FC(F)(F)F FC(F)=C ClC=C FC#C ClC#C O=CC=O N#CC#N C#CC#C C=CC=C CF "
    "CCl FCCl NC#N OC#N CO[N+](=O)[O-] C[N+](=O)[O-] ON=O O[N+](=O)[O-] [N-]=[N+]=N C=[N+]=[N-] [O-][N+]#N CC "
    "C1=CC1 C1=CCC1 O=C1CC1 c1ccccc1 c1ccoc1"
).split()

FORBIDDEN = (
    "[O,S,F,Cl]~[F,Cl]",
    "[N]~[F,Cl]",
    "[O]-[O]-[O,N,S]",
    "[N]-[N]-[N,O,S]",
    "[S]-[S]-[O,N,S]",
    "[r3]=[r3]",
    "[R2]1~[R2]~[R2]1",
    "[r3,r4]#,=[#6,#7]~[r3,r4]",
    "[r4]=[r4]=[*]",
    "[r3,r4,r5,r6,r7]#[*]",
    "[r3,r4,r5,r6]=[*]=[*]",
)
LARGEST = 30


def random_molecules(count: int, seed: int = 0) -> Iterator[str]:
    """Yields `count` distinct canonical SMILES, the smallest and best-known molecules first.

    Raises:
        MissingDependencyError: RDKit is not installed.
    """
    chem = _rdkit()
    rng = random.Random(seed)
    forbidden = [chem.MolFromSmarts(pattern) for pattern in FORBIDDEN]
    seen: set[str] = set()
    for smiles in SMALL:
        canonical = chem.MolToSmiles(chem.MolFromSmiles(smiles))
        if canonical not in seen and len(seen) < count:
            seen.add(canonical)
            yield canonical
    while len(seen) < count:
        molecule = _grow(chem, rng)
        if molecule is None or any(molecule.HasSubstructMatch(pattern) for pattern in forbidden):
            continue
        canonical = chem.MolToSmiles(molecule)
        if canonical not in seen and 2 <= molecule.GetNumAtoms(onlyExplicit=False) <= LARGEST:
            seen.add(canonical)
            yield canonical


def split_key(smiles: str) -> str:
    """Murcko scaffold of a molecule with rings, sum formula of one without.

    Raises:
        DataError: the SMILES is not valid.
    """
    molecule = _parsed(smiles)
    from rdkit.Chem.Scaffolds import MurckoScaffold

    scaffold = MurckoScaffold.MurckoScaffoldSmiles(mol=molecule)
    return scaffold or formula(smiles)


def formula(smiles: str) -> str:
    """Sum formula of a SMILES string, hydrogens included.

    Raises:
        DataError: the SMILES is not valid.
    """
    molecule = _parsed(smiles)
    from rdkit.Chem.rdMolDescriptors import CalcMolFormula

    return str(CalcMolFormula(molecule))


def _parsed(smiles: str) -> Any:
    molecule = _rdkit().MolFromSmiles(smiles)
    if molecule is None:
        raise DataError(f"not a valid SMILES string: {smiles!r}")
    return molecule


def _rdkit() -> type[Chem]:
    try:
        from rdkit import Chem, RDLogger
    except ImportError:
        raise MissingDependencyError("RDKit is not installed: pip install 'hip-ext[train]'") from None
    RDLogger.DisableLog("rdApp.*")
    return Chem


def _grow(chem: type[Chem], rng: random.Random) -> Chem.Mol | None:
    """Joins one to four fragments, makes a few edits, and returns the result if it is a valid molecule."""
    molecule = chem.MolFromSmiles(rng.choice(FRAGMENTS))
    for _ in range(rng.choice((0, 0, 1, 1, 1, 2, 2, 3))):
        molecule = _joined(chem, molecule, chem.MolFromSmiles(rng.choice(FRAGMENTS)), rng)
    for _ in range(rng.choice((0, 0, 1, 1, 2, 3))):
        edited = rng.choice((_substitute, _add_atom, _raise_bond, _close_ring))(chem, molecule, rng)
        molecule = _valid(chem, edited) or molecule
    return _valid(chem, molecule)


def _valid(chem: type[Chem], molecule: Chem.Mol | None) -> Chem.Mol | None:
    """The molecule with its valences and aromaticity perceived again, or None if it has none that make sense."""
    if molecule is None:
        return None
    try:
        clean = chem.MolFromSmiles(chem.MolToSmiles(molecule))
    except (ValueError, RuntimeError):
        return None
    if clean is None or chem.GetFormalCharge(clean) or any(atom.GetNumRadicalElectrons() for atom in clean.GetAtoms()):
        return None
    return clean


def _open_sites(molecule: Chem.Mol) -> list[int]:
    return [atom.GetIdx() for atom in molecule.GetAtoms() if atom.GetTotalNumHs() > 0]


def _joined(chem: type[Chem], left: Chem.Mol, right: Chem.Mol, rng: random.Random) -> Chem.Mol:
    """Two molecules joined by a single bond in place of one hydrogen each."""
    sites, other = _open_sites(left), _open_sites(right)
    if not sites or not other:
        return left
    pair = chem.RWMol(chem.CombineMols(left, right))
    a, b = rng.choice(sites), rng.choice(other) + left.GetNumAtoms()
    for index in (a, b):
        atom = pair.GetAtomWithIdx(index)
        atom.SetNumExplicitHs(max(atom.GetNumExplicitHs() - 1, 0))
    pair.AddBond(a, b, chem.BondType.SINGLE)
    return _valid(chem, pair) or left


def _substitute(chem: type[Chem], molecule: Chem.Mol, rng: random.Random) -> Chem.Mol:
    """One atom becomes another element."""
    edited = chem.RWMol(molecule)
    atom = edited.GetAtomWithIdx(rng.randrange(edited.GetNumAtoms()))
    atom.SetAtomicNum(rng.choice((6, 6, 7, 7, 8, 8, 16)))
    atom.SetFormalCharge(0)
    atom.SetNumExplicitHs(0)
    return edited


def _add_atom(chem: type[Chem], molecule: Chem.Mol, rng: random.Random) -> Chem.Mol | None:
    """One hydrogen becomes a heavy atom."""
    sites = _open_sites(molecule)
    if not sites:
        return None
    edited = chem.RWMol(molecule)
    new = edited.AddAtom(chem.Atom(rng.choice((6, 6, 6, 7, 7, 8, 8, 9, 9, 16, 17, 17))))
    site = rng.choice(sites)
    atom = edited.GetAtomWithIdx(site)
    atom.SetNumExplicitHs(max(atom.GetNumExplicitHs() - 1, 0))
    edited.AddBond(site, new, chem.BondType.SINGLE)
    return edited


def _raise_bond(chem: type[Chem], molecule: Chem.Mol, rng: random.Random) -> Chem.Mol | None:
    """A single bond between two atoms with hydrogens becomes a double bond, a double one a triple bond."""
    open_sites = set(_open_sites(molecule))
    free = [b for b in molecule.GetBonds() if {b.GetBeginAtomIdx(), b.GetEndAtomIdx()} <= open_sites]
    bonds = [b for b in free if not b.GetIsAromatic()]
    if not bonds:
        return None
    edited = chem.RWMol(molecule)
    bond = edited.GetBondWithIdx(rng.choice(bonds).GetIdx())
    higher = {chem.BondType.SINGLE: chem.BondType.DOUBLE, chem.BondType.DOUBLE: chem.BondType.TRIPLE}
    bond.SetBondType(higher.get(bond.GetBondType(), bond.GetBondType()))
    return edited


def _close_ring(chem: type[Chem], molecule: Chem.Mol, rng: random.Random) -> Chem.Mol | None:
    """A new single bond between two atoms with hydrogens that are two to five bonds apart."""
    distances = chem.GetDistanceMatrix(molecule)
    sites = _open_sites(molecule)
    pairs = [(a, b) for a in sites for b in sites if a < b and 2 <= distances[a, b] <= 5]
    if not pairs:
        return None
    edited = chem.RWMol(molecule)
    a, b = rng.choice(pairs)
    edited.AddBond(a, b, chem.BondType.SINGLE)
    return edited


def unlike(molecules: Iterable[str], known: Iterable[str], held_out: Iterable[str]) -> Iterator[str]:
    """Those molecules that are not among the known ones and share no scaffold and no sum formula with held-out ones.

    Args:
        molecules: canonical SMILES.
        known: SMILES as this module writes them.
        held_out: SMILES.
    """
    out, held_out = set(known), list(held_out)
    keys, formulas = {split_key(smiles) for smiles in held_out}, {formula(smiles) for smiles in held_out}
    for smiles in molecules:
        if smiles not in out and split_key(smiles) not in keys and formula(smiles) not in formulas:
            yield smiles


def _lines(paths: Iterable[str]) -> list[str]:
    return [line.split()[0] for path in paths for line in Path(path).read_text().splitlines() if line.strip()]


if __name__ == "__main__":
    import argparse

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--without", nargs="*", default=[], metavar="FILE", help="leave out the molecules of these")
    parser.add_argument("--unlike", nargs="*", default=[], metavar="FILE", help="and what shares scaffold or formula")
    arguments = parser.parse_args()
    found = random_molecules(arguments.count, arguments.seed)
    for line in unlike(found, _lines(arguments.without), _lines(arguments.unlike)):
        print(line)
