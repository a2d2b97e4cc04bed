"""Half-broken bonds for the labels of large-reactions.yaml: structures on the ways between the pairs of ReactBench.

    python configs/so3lr-organic/reactions.py ts1x/ --out runs/so3lr-organic-reactions/paths.traj
    python configs/so3lr-organic/reactions.py ts1x/ --searched hip-so3lr-organic-large \
      --out runs/so3lr-organic-reactions/searched.traj

The folder holds the xyz files of the pairs (Transition1x as ReactBench publishes it; not shipped). Reactions with a sum
formula of the 110 on which `benchmarks/transition_states.py` measures are left out. Of each of the others the eleven
frames of a geodesic path, each as it is and rattled; with `--searched`, every third structure that two searches for a
saddle visit, one that a head predicts every Hessian of and one that it predicts the first of: where a head leads, it
should know the way.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import all_changes
from ase.data import covalent_radii
from ase.io import read
from ase.io.trajectory import Trajectory
from rich.progress import track

from hip_ext import HessianCalculator, HessianModel, from_pretrained
from hip_ext.data.geometries import CLOSEST, rattle
from hip_ext.errors import HipExtError
from hip_ext.workflows.reactions.guesses import geodesic_path, highest
from hip_ext.workflows.reactions.saddle import SearchSettings, search
from hip_ext.workflows.reactions.surface import Surface

MEASURED, SEED = 110, 6
"""Of `benchmarks/transition_states.py`: how many reactions, and which."""
STEPS, EVERY = 45, 3


def allowed(folder: Path) -> list[tuple[Atoms, Atoms]]:
    """Reactant and product of every reaction with a formula that nothing is measured on."""
    files = sorted(folder.glob("*.xyz"))
    random.Random(SEED).shuffle(files)
    pairs = [tuple(read(path, ":")) for path in files]
    measured = {pair[0].get_chemical_formula() for pair in pairs[:MEASURED]}
    return [pair for pair in pairs[MEASURED:] if pair[0].get_chemical_formula() not in measured]


def on_the_path(frames: list[Atoms], rng: np.random.Generator) -> list[Atoms]:
    """Each frame, and each frame rattled."""
    return [*frames, *(rattle(frame, rng) for frame in frames)]


class Watched(Surface):
    """A surface that remembers where its gradients were asked for."""

    def __init__(self, model: HessianModel) -> None:
        super().__init__(HessianCalculator(model, rigid_body=True))
        self.places: list[Atoms] = []

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):  # noqa: ANN001, ANN201, D102
        super().calculate(atoms, properties, system_changes)
        self.places.append(_bare(self.atoms))


def visited(frames: list[Atoms], model: HessianModel) -> list[Atoms]:
    """What searches from the highest frame come by."""
    guess, found = highest(frames, Watched(model)), []
    for refresh in (1, 0):
        surface = Watched(model)
        search(guess.atoms, surface, SearchSettings("direct", refresh, 0.02, STEPS), tangent=guess.tangent)
        found += surface.places[::EVERY]
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--searched", help="a head: what searches with it visit, in place of the paths")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = from_pretrained(options.searched) if options.searched else None
    found: list[Atoms] = []
    for number, (reactant, product) in enumerate(track(allowed(options.pairs), description="reactions")):
        try:
            frames = geodesic_path(reactant, product)
            found += visited(frames, model) if model else on_the_path(frames, np.random.default_rng([0, number]))
        except HipExtError as error:
            print(f"{reactant.symbols}: {error}")
    kept = [atoms for atoms in found if apart(atoms)]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with Trajectory(options.out, "w") as file:
        for atoms in kept:
            file.write(_bare(atoms))
    print(f"{len(kept)} structures, {len(found) - len(kept)} with clashes left out")


def apart(atoms: Atoms) -> bool:
    """Whether no two atoms are nearer than any label store wants them."""
    radii = covalent_radii[atoms.numbers]
    closest = CLOSEST * (radii[:, None] + radii) - np.where(np.eye(len(atoms)), np.inf, 0.0)
    return bool((atoms.get_all_distances() > closest).all())


def _bare(atoms: Atoms) -> Atoms:
    return Atoms(atoms.numbers, atoms.positions.astype(np.float32), info={"charge": 0})


if __name__ == "__main__":
    main()
