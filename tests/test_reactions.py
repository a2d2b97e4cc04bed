"""Transition states on surfaces whose saddles are known, and what comes of input that makes no sense."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.constraints import FixAtoms
from surfaces import LEPS, Springs, exchange, planar_barrier, pyramid

from hip_ext.errors import BackboneError, ConfigError, StructureError
from hip_ext.reference import finite_difference_hessian
from hip_ext.workflows.batch import run_batch
from hip_ext.workflows.journal import read_outcomes
from hip_ext.workflows.outcome import Task
from hip_ext.workflows.reactions.connectivity import (
    aligned_rmsd,
    bonds,
    changes,
    distance_between,
    fragments,
    named_molecules,
    same_bonds,
    same_molecule,
)
from hip_ext.workflows.reactions.ends import match, relax_end
from hip_ext.workflows.reactions.guesses import Guess, geodesic_path, highest
from hip_ext.workflows.reactions.irc import PathSettings, descend
from hip_ext.workflows.reactions.mapping import check_ends, mapped, propose_mapping
from hip_ext.workflows.reactions.outcomes import make_run, outcome_of
from hip_ext.workflows.reactions.rates import eyring_rate, wigner_factor
from hip_ext.workflows.reactions.saddle import SearchSettings, find_saddle, right_along
from hip_ext.workflows.reactions.surface import Surface
from hip_ext.workflows.reactions.transition_state import ReactionSettings, find_transition_state, follow_saddle

pytest.importorskip("sella", reason="needs the extra workflows: pip install 'hip-ext[workflows]'")
pytest.importorskip("geodesic_interpolate", reason="needs the extra workflows: pip install 'hip-ext[workflows]'")

EXACT = ReactionSettings(search=SearchSettings("finite_difference", refresh=1))


@pytest.fixture
def springs():
    return Surface(Springs())


# The surface


def test_surface_counts_what_is_computed(springs):
    atoms = springs.on(pyramid())
    atoms.get_forces()
    atoms.get_potential_energy()
    assert springs.cost.gradients == 1
    before = springs.cost.copy()
    springs.exact_hessian(atoms)
    spent = springs.cost - before
    assert (spent.gradients, spent.exact, spent.direct) == (6 * 4, 1, 0)
    with pytest.raises(BackboneError, match="has no direct Hessian"):
        springs.hessian(atoms, "direct")


# Searches


@pytest.mark.parametrize("hessian", ["finite_difference", "sella"])
def test_inversion_from_its_two_ends(hessian, springs):
    settings = ReactionSettings(search=SearchSettings(hessian, fmax=1e-3))
    found = find_transition_state([pyramid(), pyramid(up=False)], springs, settings)
    assert found.problem == "" and found.notes == ()
    assert found.saddle.energy == pytest.approx(planar_barrier(), abs=1e-5)
    assert found.saddle.vibrations.num_imaginary == 1
    assert found.saddle.largest_force < 1e-3
    # The saddle is planar, and the mode that reacts leaves the plane.
    normal = np.linalg.svd(found.saddle.atoms.positions - found.saddle.atoms.positions.mean(axis=0))[2][2]
    assert np.abs(found.saddle.atoms.positions @ normal - found.saddle.atoms.positions[0] @ normal).max() < 0.01
    assert np.abs(found.reacting_mode @ normal).max() > 0.99
    assert found.match == "both" and found.changes == ""
    # The mirror image is another minimum although its bonds are the same.
    assert aligned_rmsd(found.reactant.minimum.atoms, pyramid()) < 0.02
    assert aligned_rmsd(found.product.minimum.atoms, pyramid(up=False)) < 0.02
    for barrier in (found.forward, found.reverse):
        assert barrier.energy == pytest.approx(planar_barrier(), abs=1e-3)
        assert barrier.zero_point < barrier.energy
        assert barrier.rate == pytest.approx(eyring_rate(barrier.gibbs, 298.15))
    assert found.path.reached == (True, True)
    top = found.path.saddle
    assert found.path.coordinate[top] == 0 and (np.diff(found.path.coordinate) > 0).all()
    assert (np.diff(found.path.energies[: top + 1]) > -1e-4).all()
    assert (np.diff(found.path.energies[top:]) < 1e-4).all()


def test_single_guess_and_highest_frame_of_a_trajectory(springs):
    frames = [pyramid() for _ in range(5)]
    for frame, height in zip(frames, (0.3, 0.2, 0.05, -0.2, -0.3), strict=True):
        frame.positions[0, 2] = height
    from_path = find_transition_state(frames, springs, EXACT)
    alone = find_transition_state([frames[2]], springs, EXACT)
    np.testing.assert_array_equal(from_path.guess.positions, frames[2].positions)
    for found in (from_path, alone):
        assert found.problem == "" and found.saddle.energy == pytest.approx(planar_barrier(), abs=1e-4)
        assert found.match == "" and found.forward.energy == pytest.approx(planar_barrier(), abs=1e-3)


def test_band_lowers_the_highest_frame():
    surface = Surface(LEPS())
    start, end = exchange(2.0, 0.76), exchange(0.76, 2.0)
    path = geodesic_path(start, end, 9)
    from hip_ext.workflows.reactions.guesses import band_path

    def strain(guess: Guess) -> float:
        return float(np.linalg.norm(surface.on(guess.atoms).get_forces(), axis=1).max())

    plain, relaxed = highest(path, surface), highest(band_path(path, surface), surface)
    assert relaxed.energies.max() < plain.energies.max() + 1e-6
    assert strain(relaxed) < strain(plain) + 1e-6


def test_collinear_exchange_and_a_path_that_runs_away():
    """A + BC → AB + C: linear saddle with equal distances, and ends that fly apart without a minimum of three atoms."""
    surface = Surface(LEPS())
    saddle = find_saddle(exchange(1.0, 0.9), surface, SearchSettings("finite_difference", refresh=1, fmax=1e-3))
    assert saddle.problem == ""
    a, b, c = (saddle.atoms.get_distance(*pair) for pair in ((0, 1), (1, 2), (0, 2)))
    assert a == pytest.approx(b, abs=1e-3) and c == pytest.approx(a + b, abs=1e-3)
    found = follow_saddle(saddle.atoms, surface)
    assert found.problem == ""
    assert [end.molecules for end in (found.reactant, found.product)] == ["H2 + H", "H2 + H"]
    assert "several molecules" in " ".join(found.notes)
    assert distance_between(found.product.minimum.atoms) > 1.5
    # Which atom is free differs: one bond breaks and one forms.
    assert sorted(part[0] for part in found.changes.split()) == sorted("−+")


def test_second_order_is_left_along_its_second_mode(springs):
    """Two pyramids, one softer, without contact and both planar: a stationary point with two negative modes."""
    one = pyramid()
    one.positions[0, 2] = 0.0
    found = relax_flat(one, springs)
    vibrations = find_saddle(found, springs, SearchSettings("finite_difference")).vibrations
    assert vibrations.num_imaginary == 1

    class Two(Springs):
        pairs = Springs.pairs

        def calculate(self, atoms=None, properties=None, system_changes=()):
            halves = [Springs(), Springs()]
            super(Springs, self).calculate(atoms, properties, system_changes)
            parts = (self.atoms[:4], self.atoms[4:])
            for half, part in zip(halves, parts, strict=True):
                half.calculate(part)
            scales = (1.0, 0.5)
            forces = np.vstack([s * half.results["forces"] for s, half in zip(scales, halves, strict=True)])
            # A weak spring holds the two together without pulling at their shapes.
            arm = self.atoms.positions[0] - self.atoms.positions[4]
            r = np.linalg.norm(arm)
            pull = 0.5 * (r - 6.0) * arm / r
            forces[0] -= pull
            forces[4] += pull
            energy = (
                sum(s * half.results["energy"] for s, half in zip(scales, halves, strict=True)) + 0.25 * (r - 6.0) ** 2
            )
            self.results = {"energy": energy, "forces": forces}

    other = found.copy()
    other.positions += [6.0, 0.0, 0.0]
    surface = Surface(Two())
    stuck = find_saddle(found + other, surface, SearchSettings("finite_difference", repairs=0))
    assert stuck.vibrations.num_imaginary >= 2 and stuck.problem.startswith("a saddle of order")
    assert stuck.energy == pytest.approx(1.5 * planar_barrier(), abs=1e-3) and stuck.vibrations.frequencies[1] < -300
    left = find_saddle(found + other, surface, SearchSettings("finite_difference", repairs=1))
    # The softer one has turned; what is left beside its partner's mode are free turns of one against the other.
    assert left.energy == pytest.approx(planar_barrier(), abs=1e-3)
    assert left.vibrations.frequencies[0] < -300 < -50 < left.vibrations.frequencies[1]


def relax_flat(atoms: Atoms, surface: Surface) -> Atoms:
    """In the plane, from which the forces of a planar structure do not lead."""
    return relax_end(atoms, surface, fmax=1e-3).atoms


def test_right_along_is_exact_in_one_direction_and_symmetric(springs):
    atoms = pyramid()
    atoms.positions[0, 2] = 0.1
    exact = finite_difference_hessian(Springs(), atoms).hessian
    rng = np.random.default_rng(0)
    wrong = exact + (lambda x: x + x.T)(rng.normal(size=exact.shape))
    v = rng.normal(size=(4, 3))
    corrected = right_along(v, wrong, atoms, springs)
    np.testing.assert_allclose(corrected, corrected.T, atol=1e-10)
    np.testing.assert_allclose(corrected @ v.ravel(), exact @ v.ravel(), atol=2e-3 * np.abs(exact @ v.ravel()).max())
    across = np.linalg.svd(v.reshape(1, -1))[2][1:]
    np.testing.assert_allclose(across @ corrected @ across.T, across @ wrong @ across.T, atol=1e-8)


# Paths


@pytest.mark.parametrize(("hessian", "cosine"), [("updated", 0.98), ("finite_difference", 0.99)])
def test_path_is_one_of_steepest_descent(hessian, cosine, springs):
    saddle = find_transition_state([pyramid(), pyramid(up=False)], springs, EXACT).saddle
    branch = descend(saddle.atoms, saddle.hessian, 1, springs, PathSettings(step=0.05, fmax=0.02, hessian=hessian))
    assert branch.reached
    assert (np.diff(branch.energies) < 1e-4).all()
    # Halfway down, the direction of the path is that of the forces in mass-weighted coordinates.
    k = len(branch.frames) // 2
    root = np.sqrt(branch.frames[k].get_masses())[:, None]
    along = root * (branch.frames[k + 1].positions - branch.frames[k - 1].positions)
    force = springs.on(branch.frames[k]).get_forces() / root
    assert (along * force).sum() / np.linalg.norm(along) / np.linalg.norm(force) > cosine


def test_follow_saddle_refuses_what_is_none(springs):
    slope = pyramid()
    slope.positions[0, 2] = 0.2
    assert "no saddle" in follow_saddle(slope, springs).problem
    assert "minimum" in follow_saddle(pyramid(), springs).problem


# Rates


def test_eyring_and_wigner():
    # k_B T / h at 298.15 K is 6.2124e12 1/s; a barrier of RT ln 10 costs a factor of ten.
    assert eyring_rate(0.0, 298.15) == pytest.approx(6.2124e12, rel=1e-4)
    thermal = 8.617333e-5 * 298.15
    assert eyring_rate(thermal * np.log(10), 298.15) == pytest.approx(6.2124e11, rel=1e-4)
    # hν / k_B T of 1000 cm⁻¹ at 298.15 K is 4.8257.
    assert wigner_factor(-1000.0, 298.15) == pytest.approx(1 + 4.8257**2 / 24, rel=1e-4)
    assert wigner_factor(0.0, 298.15) == 1.0
    with pytest.raises(ConfigError, match="temperature"):
        eyring_rate(0.5, 0.0)


# Graphs


def test_bonds_molecules_and_changes():
    ethanol = molecule("CH3CH2OH")
    assert len(bonds(ethanol)) == 8 and named_molecules(ethanol) == "C2H6O"
    ether = molecule("CH3OCH3")
    assert ethanol.get_chemical_formula() == ether.get_chemical_formula() and not same_molecule(ethanol, ether)
    shuffled = ethanol[[0, 1, 2, 3, 5, 4, 8, 7, 6]]
    assert same_molecule(ethanol, shuffled)
    water = molecule("H2O")
    water.positions += [5.0, 0.0, 0.0]
    pair = water + molecule("CH4")
    assert named_molecules(pair) == "CH4 + H2O" and fragments(pair)[0] == [0, 1, 2]
    assert distance_between(pair) > 3 and distance_between(molecule("CH4")) == 0.0
    broken = ethanol.copy()
    broken.positions[3] += 5.0
    assert changes(ethanol, broken) == "−O2–H3" and changes(ethanol, ethanol) == ""


def test_mirror_image_is_another_structure():
    one = molecule("CH4")
    one.set_atomic_numbers([6, 1, 9, 17, 8])
    other = one.copy()
    other.positions[:, 0] *= -1
    turned = one.copy()
    turned.rotate(77, (1, 2, 3))
    assert aligned_rmsd(one, turned) < 1e-6 < 0.1 < aligned_rmsd(one, other)


def test_match_of_ends():
    a, b = molecule("CH3CH2OH"), molecule("CH3CH2OH")
    b.positions[3] += 4.0
    assert match((a, b), (a, b)) == ("both", False)
    assert match((b, a), (a, b)) == ("both", True)
    assert match((a, a), (a, b))[0] == "one"
    c = a.copy()
    c.positions[8] += 4.0
    assert match((c, c), (a, b))[0] == "none"


# Mapping


def test_other_order_is_refused_with_the_one_that_fits():
    ethanol = molecule("CH3CH2OH")
    order = np.random.default_rng(1).permutation(len(ethanol))
    shuffled = ethanol[order]
    shuffled.rotate(40, (1, 1, 0))
    with pytest.raises(StructureError, match=r"another order: pass --map .*\["):
        check_ends(ethanol, shuffled)
    back = shuffled[propose_mapping(ethanol, shuffled)]
    assert same_bonds(ethanol, back)
    np.testing.assert_array_equal(back.numbers, ethanol.numbers)
    assert same_bonds(mapped(ethanol, shuffled), ethanol)


def test_mapping_across_a_reaction_breaks_no_more_bonds_than_needed():
    """Acetaldehyde and vinyl alcohol: one C–H breaks and one O–H forms, whatever the order."""
    keto = molecule("CH3CHO")
    enol = keto.copy()
    symbols = keto.get_chemical_symbols()
    oxygen = symbols.index("O")
    methyl = next(i for i, s in enumerate(symbols) if s == "C" and not keto.get_distance(i, oxygen) < 1.4)
    moved = next(i for i, s in enumerate(symbols) if s == "H" and keto.get_distance(i, methyl) < 1.2)
    away = keto.positions[oxygen] - keto.positions.mean(axis=0)
    enol.positions[moved] = keto.positions[oxygen] + 0.97 * away / np.linalg.norm(away)
    assert len(changes(keto, enol).split()) == 2
    order = np.random.default_rng(3).permutation(len(enol))
    assert len(changes(keto, mapped(keto, enol[order])).split()) == 2


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        ((molecule("H2O"), molecule("CH4")), "different atoms, H2O and CH4"),
        ((molecule("CH4"), molecule("CH4")), "are one structure"),
    ],
)
def test_ends_that_make_no_reaction(ends, message, springs):
    with pytest.raises(StructureError, match=message):
        find_transition_state(list(ends), springs)


# Input and failures


def with_cell() -> Atoms:
    atoms = pyramid()
    atoms.cell, atoms.pbc = np.eye(3) * 9, True
    return atoms


def fixed() -> Atoms:
    atoms = pyramid()
    atoms.set_constraint(FixAtoms([0]))
    return atoms


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        (with_cell(), "is periodic"),
        (fixed(), "has constraints"),
        (Atoms("H2", [[0, 0, 0], [0, 0, 0.74]]), "at least three"),
        (Atoms(), "is empty"),
        (Atoms("H3", [[0, 0, 0], [0, 0, 1], [0, np.nan, 0]]), "not a finite number"),
    ],
)
def test_structures_that_make_no_sense(atoms, message, springs):
    with pytest.raises(StructureError, match=message):
        find_transition_state([atoms], springs)
    with pytest.raises(StructureError, match=message):
        follow_saddle(atoms, springs)


def test_guess_that_is_a_minimum_already(springs):
    found = find_transition_state([pyramid()], springs, EXACT)
    assert found.problem.startswith("a minimum where a saddle was asked for")
    assert "the guess is itself a minimum" in found.notes[0]
    assert found.path is None and found.numbers()["imaginary_modes"] == 0


def test_no_saddle_within_the_steps(springs):
    start = pyramid()
    start.positions[0] += [0.3, 0.1, -0.1]
    settings = ReactionSettings(search=SearchSettings("sella", steps=1))
    found = find_transition_state([start], springs, settings)
    assert found.problem.startswith("no saddle found within 1 steps: the largest force is")


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (Springs(fail_after=15), "fails at this geometry: RuntimeError: CUDA error"),
        (Springs(nan_after=15), "not finite"),
    ],
)
def test_backbone_that_fails_in_the_middle(broken, message):
    with pytest.raises(BackboneError, match=message):
        find_transition_state([pyramid(), pyramid(up=False)], Surface(broken), EXACT)


def test_saddle_is_kept_when_the_way_down_fails():
    flat = find_transition_state([pyramid(), pyramid(up=False)], Surface(Springs()), EXACT).saddle
    found = follow_saddle(flat.atoms, Surface(Springs(fail_after=35)))
    assert found.problem == "" and found.saddle.vibrations.num_imaginary == 1
    assert found.path is None and "could not be followed" in found.notes[0]
    assert outcome_of("x", found).status == "done"


def test_settings_out_of_range():
    with pytest.raises(ConfigError):
        SearchSettings(steps=0)
    with pytest.raises(ConfigError):
        PathSettings(step=0)
    with pytest.raises(ConfigError):
        ReactionSettings(images=2)


# Many


def tasks() -> list[Task]:
    return [
        Task("inversion", (pyramid(), pyramid(up=False))),
        Task("other atoms", (molecule("H2O"), molecule("CH4"))),
        Task("minimum", (pyramid(),)),
        Task("again", (pyramid(up=False), pyramid())),
    ]


def workflow():
    return make_run(Springs, EXACT)


def test_batch_goes_on_and_keeps_what_is_finished(tmp_path):
    class Stop(Springs):
        def calculate(self, *arguments, **options):
            if self.calls > 250:
                raise KeyboardInterrupt
            super().calculate(*arguments, **options)

    with pytest.raises(KeyboardInterrupt):
        run_batch(lambda: make_run(Stop, EXACT), tasks(), tmp_path / "run", {})
    kept = {outcome.name for outcome in read_outcomes(tmp_path / "run")}
    assert "inversion" in kept and "again" not in kept
    progress = run_batch(workflow, tasks(), tmp_path / "run", {})
    assert progress.skipped == len(kept) and (progress.finished + progress.skipped + progress.failed) == 4
    found = {outcome.name: outcome for outcome in read_outcomes(tmp_path / "run")}
    assert [found[task.name].status for task in tasks()] == ["done", "failed", "failed", "done"]
    assert "different atoms" in found["other atoms"].reason and "minimum" in found["minimum"].reason
    good = found["inversion"]
    assert good.values["forward_barrier"] == pytest.approx(planar_barrier(), abs=1e-3)
    assert set(good.frames) == {"guess", "saddle", "path", "reactant", "product"}
    saddle = good.frames["saddle"][0]
    assert np.abs(saddle.arrays["reacting_mode"]).max() <= 1 and saddle.info["imaginary_modes"] == 1
    assert len(saddle.info["frequencies"]) == 6
    modes = saddle.arrays["modes"].reshape(4, 6, 3)
    assert np.abs(modes[:, 0] / np.linalg.norm(modes[:, 0], axis=1).max()) == pytest.approx(
        np.abs(saddle.arrays["reacting_mode"]), abs=1e-12
    )
    overlaps = np.einsum("i,ika,ila->kl", saddle.get_masses(), modes, modes)
    assert overlaps == pytest.approx(np.eye(6), abs=1e-8)
    coordinate = [frame.info["path_coordinate"] for frame in good.frames["path"]]
    assert coordinate == sorted(coordinate) and 0.0 in coordinate
    assert "inversion,done" in (tmp_path / "run/results.csv").read_text()
