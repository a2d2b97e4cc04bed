"""Inversion: on random features, on blocks of a head, and on a whole model whose backbone knows no parity."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from backbone_cases import assert_same_features, methanol_crystal, turned
from handed import handed_molecule, mirrored
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from toy_backbone import ToyBackbone

from hip_ext import attach_head
from hip_ext.backbones import Evaluation
from hip_ext.errors import StructureError
from hip_ext.features import NodeFeatures
from hip_ext.head import HeadConfig, HessianHead
from hip_ext.inversion import inverted, mean_blocks, polar_part
from hip_ext.pairs import pair_graph
from hip_ext.structures import Structures

CONFIG = HeadConfig(scalars=16, channels=4, hidden=16, pair_channels=4, coordinates=6)


class HandedBackbone(ToyBackbone):
    """The toy's features with pseudoscalars and axial vectors mixed in: right under rotations only."""

    parity = "so3"

    def features(self, inputs: dict[str, torch.Tensor]) -> NodeFeatures:
        features = super().features(inputs)
        axial = torch.linalg.cross(features.vectors, features.vectors.roll(1, dims=1))
        volume = (axial * features.vectors.roll(2, dims=1)).sum(-1)
        mixed = torch.einsum("ncx,ncy->ncxy", axial, features.vectors)
        mixed = mixed + mixed.transpose(-1, -2)
        trace = torch.einsum("ncxx->nc", mixed)[..., None, None] * torch.eye(3).double() / 3
        scalars = features.scalars + torch.cat((volume, volume), dim=1)
        return NodeFeatures(scalars, features.vectors + axial, features.tensors + mixed - trace, "so3")

    def evaluate(self, structures: Structures, *, stress: bool = False) -> Evaluation:
        with torch.no_grad():
            features = self.features(self.prepare(structures))
        return replace(super().evaluate(structures, stress=stress), features=features)


def random_features(atoms: int, widths: tuple[int, int, int], seed: int) -> NodeFeatures:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    t = normal(atoms, widths[2], 3, 3)
    t = t + t.transpose(-1, -2)
    t = t - torch.einsum("ncxx->nc", t)[..., None, None] * torch.eye(3).double() / 3
    return NodeFeatures(normal(atoms, widths[0]), normal(atoms, widths[1], 3), t, "so3")


def test_the_polar_part_obeys_inversion():
    f, g = random_features(7, (5, 4, 3), 0), random_features(7, (5, 4, 3), 1)
    part, of_inverted = polar_part(f, g), polar_part(g, f)
    assert part.parity == "o3"
    assert part.widths == f.widths
    minus = -torch.eye(3).double()
    assert_same_features(of_inverted, turned(part, minus), 0.0)
    # Features that have parity already stay as they are.
    assert_same_features(polar_part(f, turned(f, minus)), f, 0.0)


def test_inverted_structures_are_themselves_when_inverted_again():
    structures = Structures.from_ase([handed_molecule(), methanol_crystal()])
    there = inverted(structures)
    assert torch.equal(there.positions, -structures.positions)
    assert torch.equal(there.cell, -structures.cell)
    back = inverted(there)
    for name in Structures.__dataclass_fields__:
        assert torch.equal(getattr(back, name), getattr(structures, name))


def test_mean_blocks_are_the_same_from_both_sides():
    structures = Structures.from_ase([handed_molecule(), methanol_crystal(), molecule("H2O")])
    torch.manual_seed(0)
    head = HessianHead((5, 4, 3), CONFIG).double()
    f, g = (random_features(structures.num_atoms, (5, 4, 3), seed) for seed in (0, 1))
    other = inverted(structures)
    with torch.no_grad():
        a, b = head(f, structures), head(g, other)
    forth, back = mean_blocks(a, b), mean_blocks(b, a)
    assert not torch.allclose(a.flat(), b.flat(), atol=1e-3)
    torch.testing.assert_close(forth.flat(), (a.flat() + b.flat()) / 2, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(forth.flat(), back.flat(), rtol=0, atol=0)
    for matrix in forth.dense_list():
        assert torch.equal(matrix, matrix.T)
        assert matrix.view(len(matrix), -1, 3).sum(1).abs().max() < 1e-12 * matrix.abs().max()


def test_blocks_of_other_pairs_are_refused():
    torch.manual_seed(0)
    head = HessianHead((5, 4, 3), CONFIG).double()
    blocks = []
    for atoms in (molecule("CH3OH"), molecule("CH3OH")[[1, 0, 2, 3, 4]]):
        structures = Structures.from_ase(atoms)
        blocks.append(head(random_features(len(atoms), (5, 4, 3), 0), structures))
    with pytest.raises(StructureError, match="belong to other pairs"):
        mean_blocks(*blocks)


SKEWED = [[5.0, 0.0, 1.0], [0.0, 4.0, -1.5], [0.0, -1.0, 5.0]]
"""As a slab with an atom on the face of a cell it has its pairs in another order when it is inverted."""


def on_faces(cell: list[list[float]], pbc: list[bool], halves: list[list[int]]) -> Atoms:
    """C, O and H at half lattice vectors, O and H moved a little."""
    positions = np.array(halves) / 2 @ np.array(cell) + [[0, 0, 0], [0.9, 0.7, -0.4], [-0.6, 0.8, 0.9]]
    return Atoms("COH", positions=positions, cell=cell, pbc=pbc)


def test_pairs_of_the_inverted_structure_may_come_in_another_order():
    structures = Structures.from_ase(on_faces(SKEWED, [True, True, False], [[-3, 0, 0], [0, 0, 0], [0, 1, 0]]))
    graph, other = (pair_graph(one, 2 * CONFIG.cutoff) for one in (structures, inverted(structures)))
    assert not torch.equal(graph.shift, other.shift)
    torch.manual_seed(0)
    head = HessianHead((5, 4, 3), CONFIG).double()
    f, g = (random_features(structures.num_atoms, (5, 4, 3), seed) for seed in (0, 1))
    with torch.no_grad():
        a, b = head(f, structures), head(g, inverted(structures))
    found = mean_blocks(a, b)
    assert found.graph is a.graph
    torch.testing.assert_close(found.dense(), (a.dense() + b.dense()) / 2, rtol=1e-12, atol=1e-12)


@st.composite
def periodic_in_some_directions(draw: st.DrawFn) -> Atoms:
    """Atoms on and near the faces of skewed cells that are periodic in none to three directions."""
    quarter = st.integers(-3, 3).map(lambda k: k / 4)
    cell = [[draw(st.integers(8, 10)) / 2 if i == j else draw(quarter) for j in range(3)] for i in range(3)]
    halves = [[draw(st.integers(-3, 3)) for _ in range(3)] for _ in range(3)]
    return on_faces(cell, [draw(st.booleans()) for _ in range(3)], halves)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(atoms=periodic_in_some_directions(), seed=st.integers(0, 99))
@example(atoms=on_faces(SKEWED, [True, True, False], [[-3, 0, 0], [0, 0, 0], [0, 1, 0]]), seed=0)
def test_slabs_wires_and_crystals_get_the_average_over_all_rotations_and_reflections(atoms, seed):
    try:
        structures = Structures.from_ase(atoms)
        pair_graph(structures, 1.0)
    except StructureError:
        assume(False)
    model = attach_head(HandedBackbone(), CONFIG)
    found = model.hessian(atoms).dense()
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed)).double())[0]
    average = torch.zeros_like(found)
    with torch.no_grad():
        for element in (turn, -turn):
            moved = replace(structures, positions=structures.positions @ element.T, cell=structures.cell @ element.T)
            raw = model.head(model.backbone.features(model.backbone.prepare(moved)), moved).dense()
            whole = torch.block_diag(*[element] * len(atoms))
            average += whole.T @ raw @ whole / 2
    torch.testing.assert_close(found, average, rtol=0, atol=1e-10 * max(1.0, float(average.abs().max())))


@pytest.mark.parametrize("make", [handed_molecule, methanol_crystal])
def test_mirror_images_have_one_spectrum_though_the_features_have_no_parity(make):
    model = attach_head(HandedBackbone(), CONFIG)
    atoms, image = make(), mirrored(make())
    reflection = np.diag([1.0, 1.0, -1.0])
    turn = np.kron(np.eye(len(atoms)), reflection)
    plain, mirror = (model.hessian(one).dense().numpy() for one in (atoms, image))
    np.testing.assert_allclose(mirror, turn @ plain @ turn, rtol=0, atol=1e-10 * np.abs(plain).max())
    spectra = [np.linalg.eigvalsh(matrix) for matrix in (plain, mirror)]
    np.testing.assert_allclose(*spectra, rtol=0, atol=1e-10 * np.abs(plain).max())
    with torch.no_grad():
        raw = []
        for one in (atoms, image):
            structures = Structures.from_ase(one)
            raw.append(model.head(model.backbone.features(model.backbone.prepare(structures)), structures).dense())
    difference = torch.linalg.eigvalsh(raw[0]) - torch.linalg.eigvalsh(raw[1])
    assert difference.abs().max() > 1e-3 * np.abs(plain).max(), "the average must be what makes them equal"
    found = model.energy_forces_hessian(atoms).hessian.dense().numpy()
    np.testing.assert_allclose(found, plain, rtol=0, atol=1e-12 * np.abs(plain).max())


def test_a_batch_is_averaged_structure_by_structure():
    model = attach_head(HandedBackbone(), CONFIG)
    many = [handed_molecule(), methanol_crystal(), molecule("H2O"), mirrored(handed_molecule())]
    for found, atoms in zip(model.hessian(many).dense_list(), many, strict=True):
        alone = model.hessian(atoms).dense()
        torch.testing.assert_close(found, alone, rtol=0, atol=1e-12 * float(alone.abs().max()))
