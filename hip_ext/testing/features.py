"""What the features of a backbone owe: symmetry, locality in the batch, lattices, one cheap pass, derivatives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hip_ext.backbones.base import Backbone
from hip_ext.features import NodeFeatures
from hip_ext.structures import Structures
from hip_ext.testing.case import BackboneCase, CaseFixtures
from hip_ext.testing.compare import assert_same_features, features_of
from hip_ext.testing.motions import random_orthogonal, turned, turned_atoms

EITHER = pytest.mark.parametrize("which", [0, 2], ids=["molecule", "crystal"])
DEGREES = ("scalars", "vectors", "tensors")


class FeatureConformance(CaseFixtures):
    """Tests of `Backbone.prepare` and `Backbone.features`."""

    @EITHER
    @pytest.mark.parametrize("determinant", [1, -1], ids=["rotations", "reflections"])
    def test_features_turn_with_the_atoms(
        self, case: BackboneCase, backbone: Backbone, which: int, determinant: int
    ) -> None:
        """s, v and T become s, Q v and Q T Qᵀ: for rotations always, for reflections where parity is "o3"."""
        atoms = case.structures()[which]
        plain = features_of(backbone, atoms)
        assert plain.parity == backbone.parity
        if determinant < 0 and backbone.parity == "so3":
            pytest.skip("this backbone promises rotations only")
        for seed in range(4):
            q = random_orthogonal(seed, determinant)
            assert_same_features(features_of(backbone, turned_atoms(atoms, q)), turned(plain, q))

    @EITHER
    def test_features_under_inversion(self, case: BackboneCase, backbone: Backbone, which: int) -> None:
        """Vectors change their sign, scalars and tensors do not."""
        if backbone.parity == "so3":
            pytest.skip("this backbone promises rotations only")
        atoms, inversion = case.structures()[which], -torch.eye(3, dtype=torch.float64)
        found = features_of(backbone, turned_atoms(atoms, inversion))
        assert_same_features(found, turned(features_of(backbone, atoms), inversion))

    def test_features_have_the_promised_widths_and_are_not_trivial(
        self, case: BackboneCase, backbone: Backbone
    ) -> None:
        """Finite, in the model's dtype, no channel that is zero on every atom; tensors symmetric and traceless."""
        features = features_of(backbone, case.structures()[0])
        assert features.widths == backbone.widths
        assert features.scalars.dtype == backbone.dtype == torch.float64
        for block in (features.scalars, features.vectors, features.tensors):
            assert torch.isfinite(block).all()
            largest = block.abs().flatten(2).amax((0, 2)) if block.dim() > 2 else block.abs().amax(0)
            assert (largest > 0).all()
        transposed = NodeFeatures(features.scalars, features.vectors, features.tensors.transpose(-1, -2))
        assert_same_features(features, transposed)
        trace = torch.einsum("ncxx->nc", features.tensors)
        assert (trace.abs() <= 1e-12 * features.tensors.abs().sum((-1, -2)).max()).all()

    @EITHER
    def test_features_do_not_move_with_a_translation(self, case: BackboneCase, backbone: Backbone, which: int) -> None:
        """Where the origin is makes no difference."""
        atoms = case.structures()[which]
        moved = atoms.copy()
        moved.positions += [3.1, -2.7, 0.9]
        assert_same_features(features_of(backbone, moved), features_of(backbone, atoms))

    @EITHER
    def test_features_follow_a_permutation(self, case: BackboneCase, backbone: Backbone, which: int) -> None:
        """Atoms in another order have the same features in that order."""
        atoms = case.structures()[which]
        order = np.random.default_rng(0).permutation(len(atoms))
        plain = features_of(backbone, atoms)
        expected = NodeFeatures(plain.scalars[order], plain.vectors[order], plain.tensors[order])
        assert_same_features(features_of(backbone, atoms[order]), expected)

    def test_features_of_a_batch_are_those_of_its_structures(self, case: BackboneCase, backbone: Backbone) -> None:
        """Structures of other sizes and periodicity in the same batch make no difference."""
        many = list(case.structures())
        singles = NodeFeatures.concatenate([features_of(backbone, atoms) for atoms in many])
        assert_same_features(features_of(backbone, many), singles)

    def test_atoms_may_be_anywhere_in_the_lattice(self, case: BackboneCase, backbone: Backbone) -> None:
        """Each atom of a crystal moved by a lattice vector of its own is the same crystal."""
        crystal = case.structures()[2]
        moved = crystal.copy()
        moved.positions += np.random.default_rng(1).integers(-2, 3, (len(crystal), 3)) @ crystal.cell.array
        assert_same_features(features_of(backbone, moved), features_of(backbone, crystal))

    def test_supercell_repeats_the_features(self, case: BackboneCase, backbone: Backbone) -> None:
        """The crystal 2 × 1 × 2 times has its features four times."""
        crystal = case.structures()[2]
        small = features_of(backbone, crystal)
        assert_same_features(features_of(backbone, crystal.repeat((2, 1, 2))), NodeFeatures.concatenate([small] * 4))

    def test_features_take_one_forward_pass(self, case: BackboneCase, model: Any, backbone: Backbone) -> None:
        """Every layer of the model is called once, in order."""
        if case.layers is None:
            pytest.skip("this backbone names no layers that one pass calls once each")
        layers, calls = list(getattr(model, case.layers)), []
        counters = [layer.register_forward_pre_hook(lambda module, args: calls.append(module)) for layer in layers]
        try:
            features_of(backbone, case.structures()[0])
        finally:
            for counter in counters:
                counter.remove()
        assert len(layers) > 0
        assert calls == layers

    def test_features_keep_nothing_for_a_backward_pass(self, case: BackboneCase, backbone: Backbone) -> None:
        """Inside no_grad no graph is made, even if the framework makes one for its forces."""
        saved: list[Tensor] = []
        inputs = backbone.prepare(Structures.from_ase(case.structures()[0]))
        with torch.no_grad(), torch.autograd.graph.saved_tensors_hooks(saved.append, lambda x: x):
            features = backbone.features(inputs)
        assert len(saved) == 0
        assert not any(getattr(features, name).requires_grad for name in DEGREES)

    def test_features_can_be_differentiated(self, case: BackboneCase, backbone: Backbone) -> None:
        """The derivative of a weighted sum of all features along a random direction, against central differences."""
        structures = Structures.from_ase(case.structures()[1])
        inputs = backbone.prepare(structures)
        positions = inputs["positions"].requires_grad_(True)
        (gradient,) = torch.autograd.grad(_weighted_sum(backbone.features(inputs)), positions)
        direction = torch.randn(positions.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        step, sums = 1e-5, []
        for sign in (1, -1):
            moved = structures.with_positions(structures.positions + sign * step * direction)
            with torch.no_grad():
                sums.append(float(_weighted_sum(backbone.features(backbone.prepare(moved)))))
        assert float((gradient * direction).sum()) == pytest.approx((sums[0] - sums[1]) / (2 * step), rel=1e-6)


def _weighted_sum(features: NodeFeatures) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    blocks = [getattr(features, name) for name in DEGREES]
    weighted = [(x * torch.randn(x.shape, generator=generator, dtype=x.dtype)).sum() for x in blocks]
    return torch.stack(weighted).sum()
