"""What a head on a backbone owes, and the exact Hessian that it is held against; the head is untrained."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.calculators.calculator import Calculator
from safetensors import safe_open
from torch import Tensor

from hip_ext.backbones.base import Backbone
from hip_ext.blocks import HessianBlocks
from hip_ext.calculator import HessianCalculator
from hip_ext.errors import CheckpointError
from hip_ext.model import HessianModel, attach_head, from_pretrained
from hip_ext.reference import autograd_hessian
from hip_ext.structures import Structures
from hip_ext.testing.case import SMALL_HEAD, BackboneCase, CaseFixtures
from hip_ext.testing.compare import assert_close, features_of, framework_results
from hip_ext.testing.features import EITHER
from hip_ext.testing.motions import random_orthogonal, turned_atoms


class HessianConformance(CaseFixtures):
    """Tests of `HessianModel`, its checkpoints and `autograd_hessian` with the backbone."""

    @EITHER
    def test_direct_hessian_is_symmetric_and_its_rows_add_up_to_zero(
        self, case: BackboneCase, hessian_model: HessianModel, which: int
    ) -> None:
        """H = Hᵀ bit for bit, Σ_j H_ij = 0."""
        blocks = hessian_model.hessian(case.structures()[which])
        hessian = blocks.dense()
        assert torch.isfinite(hessian).all()
        assert _scale(blocks) > 1e-3
        assert torch.equal(hessian, hessian.T)
        sums = hessian.reshape(len(hessian), -1, 3).sum(1)
        assert float(sums.abs().max()) < 1e-11 * _scale(blocks)

    @EITHER
    @pytest.mark.parametrize("determinant", [1, -1], ids=["rotations", "reflections"])
    def test_direct_hessian_turns_with_the_atoms(
        self, case: BackboneCase, hessian_model: HessianModel, which: int, determinant: int
    ) -> None:
        """H becomes Q H Qᵀ, for reflections too, whatever the parity of the features."""
        atoms = case.structures()[which]
        plain = hessian_model.hessian(atoms)
        for seed in range(2):
            q = random_orthogonal(seed, determinant)
            big = torch.block_diag(*[q] * len(atoms))
            found = hessian_model.hessian(turned_atoms(atoms, q)).dense()
            _assert_same(found, big @ plain.dense() @ big.T, _scale(plain))

    @EITHER
    def test_direct_hessian_is_the_same_after_inversion(
        self, case: BackboneCase, hessian_model: HessianModel, which: int
    ) -> None:
        """Every block is even under x → −x."""
        atoms = case.structures()[which]
        plain = hessian_model.hessian(atoms)
        inverted = turned_atoms(atoms, -torch.eye(3, dtype=torch.float64))
        _assert_same(hessian_model.hessian(inverted).dense(), plain.dense(), _scale(plain))

    @EITHER
    def test_direct_hessian_follows_a_permutation(
        self, case: BackboneCase, hessian_model: HessianModel, which: int
    ) -> None:
        """Atoms in another order and elsewhere in space have the same blocks in that order."""
        atoms = case.structures()[which]
        n, order = len(atoms), np.random.default_rng(0).permutation(len(atoms))
        plain = hessian_model.hessian(atoms)
        moved = atoms[order]
        moved.positions += [-1.3, 0.4, 2.2]
        expected = plain.dense().reshape(n, 3, n, 3)[order][:, :, order].reshape(3 * n, 3 * n)
        _assert_same(hessian_model.hessian(moved).dense(), expected, _scale(plain))

    def test_direct_hessians_of_a_batch_are_those_of_its_structures(
        self, case: BackboneCase, hessian_model: HessianModel
    ) -> None:
        """Alone, in a batch, and from the pass that gives the forces."""
        many = list(case.structures())
        batch = hessian_model.hessian(many).dense_list()
        with_forces = hessian_model.energy_forces_hessian(many).hessian.dense_list()
        for b, atoms in enumerate(many):
            alone = hessian_model.hessian(atoms)
            assert batch[b].shape == (3 * len(atoms), 3 * len(atoms))
            _assert_same(batch[b], alone.dense(), _scale(alone))
            _assert_same(with_forces[b], alone.dense(), _scale(alone))

    def test_supercell_moves_as_the_cell(self, case: BackboneCase, hessian_model: HessianModel) -> None:
        """Displacements that repeat from cell to cell have the same forces in the cell and in a supercell."""
        crystal = case.structures()[2]
        cells = (2, 1, 2)
        small, large = hessian_model.hessian(crystal), hessian_model.hessian(crystal.repeat(cells))
        displacement = torch.randn(len(crystal), 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        copies = int(np.prod(cells))
        expected = small.matvec(displacement).repeat(copies, 1)
        _assert_same(large.matvec(displacement.repeat(copies, 1)), expected, _scale(small))

    def test_a_head_leaves_energy_and_forces_alone(
        self, case: BackboneCase, backbone: Backbone, calculator: Calculator, hessian_model: HessianModel
    ) -> None:
        """Bit for bit: those of `evaluate`, and those of the framework's own calculator around another copy."""
        many = list(case.structures())
        plain = backbone.evaluate(Structures.from_ase(many))
        found = hessian_model.energy_forces_hessian(many)
        assert_close(found.energy, plain.energy, case.repeats)
        assert_close(found.forces, plain.forces, case.repeats)
        for atoms in many:
            own = framework_results(calculator, atoms, ["energy", "forces"])
            atoms.calc = HessianCalculator(hessian_model)
            assert_close(atoms.get_potential_energy(), own["energy"], case.repeats)
            assert_close(atoms.get_forces(), own["forces"], case.repeats)

    def test_gradients_reach_every_parameter_of_the_head(self, case: BackboneCase, backbone: Backbone) -> None:
        """A loss on the Hessian trains the head and, with features made without gradients, nothing of the model."""
        structures = Structures.from_ase(case.structures()[0])
        features = features_of(backbone, case.structures()[0])
        head = attach_head(backbone, SMALL_HEAD).head
        head.fit_normalisation(features)
        head(features, structures).dense().square().sum().backward()
        for name, parameter in head.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().max() > 0, name
        assert all(parameter.grad is None for parameter in backbone.parameters())

    def test_checkpoint_gives_back_the_same_hessian(
        self, case: BackboneCase, hessian_model: HessianModel, tmp_path: Path
    ) -> None:
        """With the same model, loaded anew; with any other model it is refused."""
        folder = tmp_path / "checkpoint"
        hessian_model.save_pretrained(folder)
        model = case.make_model()
        again = from_pretrained(folder, backbone=case.attach(model))
        for atoms in case.structures():
            expected = hessian_model.hessian(atoms).dense()
            assert_close(again.hessian(atoms).dense(), expected, 1e3 * case.repeats)
        with torch.no_grad():
            next(case.module(model).parameters()).mul_(1.001)
        with pytest.raises(CheckpointError, match="was made for"):
            from_pretrained(folder, backbone=case.attach(model))

    def test_checkpoint_holds_the_head_alone_and_no_pickle(self, hessian_model: HessianModel, tmp_path: Path) -> None:
        """JSON, safetensors and text; the tensors are those of the head, none is the model's."""
        folder = tmp_path / "checkpoint"
        hessian_model.save_pretrained(folder)
        assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
        recorded = json.loads((folder / "config.json").read_text(encoding="utf-8"))["backbone"]
        source = hessian_model.backbone.source
        assert (recorded["kind"], recorded["fingerprint"]) == (source.kind, source.fingerprint)
        assert recorded["options"] == dict(source.options)
        with safe_open(folder / "model.safetensors", "pt") as stored:
            assert set(stored.keys()) == set(hessian_model.head.state_dict())

    @EITHER
    def test_autograd_hessian_is_the_derivative_of_the_gradient(
        self, case: BackboneCase, backbone: Backbone, which: int
    ) -> None:
        """Against central differences of ∂E/∂x along random directions."""
        structures = Structures.from_ase(case.structures()[which])
        hessian = autograd_hessian(backbone, structures)
        assert torch.equal(hessian, hessian.T)
        step, generator = 2e-5, torch.Generator().manual_seed(0)
        for _ in range(3):
            direction = torch.randn(structures.num_atoms, 3, generator=generator, dtype=torch.float64)
            plus, minus = (_gradient(backbone, structures, sign * step * direction) for sign in (1, -1))
            assert_close((hessian @ direction.flatten()).reshape(-1, 3), (plus - minus) / (2 * step), 1e-6)


def _gradient(backbone: Backbone, structures: Structures, displacement: Tensor) -> Tensor:
    """∂E/∂x at displaced positions, eV/Å, [N, 3]; not the forces, which some models predict by themselves."""
    inputs = backbone.prepare(structures.with_positions(structures.positions + displacement))
    positions = inputs["positions"].requires_grad_(True)
    (gradient,) = torch.autograd.grad(backbone.energy(inputs).sum(), positions)
    return gradient


def _scale(blocks: HessianBlocks) -> float:
    """The largest element of any block, eV/Å²: those of a small crystal can cancel in its Γ-point matrix."""
    return max(float(blocks.pair.abs().max()), float(blocks.diagonal.abs().max()))


def _assert_same(found: Tensor, expected: Tensor, scale: float) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10 * scale)
