"""Exact Hessians against torch's own, a closed form, central differences, and the rules that every Hessian obeys."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.fd import calculate_numerical_stress
from ase.constraints import FixAtoms
from torch import Tensor
from toy_backbone import ELEMENTS, MORSE_DECAY, ToyBackbone

from hip_ext.backbones.base import Backbone
from hip_ext.backbones.fingerprint import fingerprint
from hip_ext.errors import BackboneError, ConfigError, StructureError
from hip_ext.reference import (
    autograd_hessian,
    autograd_hessians,
    finite_difference_hessian,
    hessian_vector_product,
)
from hip_ext.structures import Structures


def rattled(atoms: Atoms, amount: float = 0.08, seed: int = 3) -> Atoms:
    atoms.rattle(amount, seed=seed)
    return atoms


def ethanol() -> Atoms:
    return rattled(molecule("CH3CH2OH"))


def diamond() -> Atoms:
    """A primitive cell whose lattice vectors are shorter than every cutoff used here, sheared out of symmetry."""
    atoms = rattled(bulk("C", "diamond", a=3.57))
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.03 * np.arange(9).reshape(3, 3) / 9), scale_atoms=True)
    return atoms


def charged() -> Atoms:
    atoms = rattled(molecule("H2O"))
    atoms.info.update(charge=1, multiplicity=2)
    return atoms


STRUCTURES = {"ethanol": ethanol, "diamond": diamond, "charged": charged}


@pytest.fixture(scope="module")
def toy() -> ToyBackbone:
    return ToyBackbone.load()


@pytest.fixture(scope="module")
def so3lr() -> Backbone:
    pytest.importorskip("so3krates_torch", reason="needs so3krates-torch, which carries the SO3LR weights")
    from hip_ext.backbones.so3lr import SO3LRBackbone

    return SO3LRBackbone.load(dtype=torch.float64)


@pytest.fixture(params=["toy", "so3lr"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return request.getfixturevalue(request.param)


def close(found: Tensor, expected: Tensor, relative: float) -> None:
    """The largest error is below `relative` times the largest element."""
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= relative * float(expected.abs().max())


def energy_of(backbone: Backbone, structures: Structures) -> Any:
    inputs = backbone.prepare(structures)
    return lambda positions: backbone.energy({**inputs, "positions": positions}).sum()


@pytest.mark.parametrize("method", ["auto", "loop", "vmap"])
@pytest.mark.parametrize("name", STRUCTURES)
def test_equals_torchs_own_hessian(toy: ToyBackbone, name: str, method: Any) -> None:
    structures = Structures.from_ase(STRUCTURES[name]())
    n = structures.num_atoms
    expected = torch.autograd.functional.hessian(energy_of(toy, structures), structures.positions)
    close(autograd_hessian(toy, structures, method), expected.reshape(3 * n, 3 * n), 1e-13)


@pytest.mark.parametrize("name", ["ethanol", "diamond"])
def test_equals_the_closed_form_of_a_pair_potential(name: str) -> None:
    backbone = ToyBackbone.load(angular=0.0)
    atoms = STRUCTURES[name]()
    close(autograd_hessian(backbone, Structures.from_ase(atoms)), torch.tensor(pair_hessian(backbone, atoms)), 1e-12)


def pair_hessian(backbone: ToyBackbone, atoms: Atoms) -> np.ndarray:
    """Σ over images of −(φ'' r̂r̂ᵀ + φ'/r (1 − r̂r̂ᵀ)) for i ≠ j, and minus the row sums for i = j."""
    model, cutoff = backbone.model, backbone.cutoff
    species = [ELEMENTS.index(z) for z in atoms.numbers]
    depth, radii = model.depth.detach().numpy()[species], model.radii.numpy()[species]
    reach = range(-4, 5) if atoms.pbc.any() else range(1)
    n = len(atoms)
    blocks = np.zeros((n, n, 3, 3))
    for shift in np.array(np.meshgrid(reach, reach, reach)).reshape(3, -1).T @ atoms.cell.array:
        for i in range(n):
            for j in range(n):
                vector = atoms.positions[j] + shift - atoms.positions[i]
                r = np.linalg.norm(vector)
                if i == j or r >= cutoff:
                    continue
                m, a = np.exp(-MORSE_DECAY * (r - radii[i] - radii[j])), MORSE_DECAY
                u, u1, u2 = m * m - 2 * m, -2 * a * m * m + 2 * a * m, 4 * a * a * m * m - 2 * a * a * m
                q = 1 - (r / cutoff) ** 2
                e, e1, e2 = q**3, -6 * r / cutoff**2 * q**2, -6 / cutoff**2 * q**2 + 24 * r**2 / cutoff**4 * q
                first, second = u1 * e + u * e1, u2 * e + 2 * u1 * e1 + u * e2
                along = np.outer(vector, vector) / r**2
                block = np.sqrt(depth[i] * depth[j]) * (second * along + first / r * (np.eye(3) - along))
                blocks[i, j] -= block
                blocks[i, i] += block
    return blocks.transpose(0, 2, 1, 3).reshape(3 * n, 3 * n)


@pytest.mark.parametrize("name", ["ethanol", "diamond"])
def test_equals_central_differences_of_so3lr(so3lr: Backbone, name: str) -> None:
    atoms = STRUCTURES[name]()
    structures = Structures.from_ase(atoms)

    def forces(positions: np.ndarray) -> np.ndarray:
        return so3lr.evaluate(structures.with_positions(torch.tensor(positions))).forces.numpy()

    expected = finite_difference_hessian(forces, atoms, step=1e-4)
    close(autograd_hessian(so3lr, structures), torch.tensor(expected.hessian), 1e-6)


@pytest.mark.parametrize("name", STRUCTURES)
def test_loop_and_vmap_agree(backbone: Backbone, name: str) -> None:
    structures = Structures.from_ase(STRUCTURES[name]())
    loop = autograd_hessian(backbone, structures, "loop")
    for chunk in (None, 1, 4, 1000):
        close(autograd_hessian(backbone, structures, "vmap", chunk), loop, 1e-12)


@pytest.mark.parametrize("method", ["auto", "loop", "vmap"])
def test_a_batch_equals_its_structures(backbone: Backbone, method: Any) -> None:
    many = [molecule("H2O"), ethanol(), Atoms("O"), diamond(), charged()]
    batched = autograd_hessians(backbone, Structures.from_ase(many), method)
    assert [len(h) for h in batched] == [3 * len(a) for a in many]
    for hessian, atoms in zip(batched, many, strict=True):
        single = autograd_hessian(backbone, Structures.from_ase(atoms))
        assert float((hessian - single).abs().max()) <= 1e-12 * max(1.0, float(single.abs().max()))


@pytest.mark.parametrize("shape", [(), (1,), (4,)])
def test_products_are_those_of_the_hessian(backbone: Backbone, shape: tuple[int, ...]) -> None:
    structures = Structures.from_ase([ethanol(), diamond(), charged()])
    random = torch.Generator().manual_seed(0)
    vectors = torch.randn(*shape, structures.num_atoms, 3, generator=random, dtype=torch.float64)
    whole = torch.block_diag(*autograd_hessians(backbone, structures))
    expected = vectors.reshape(-1, len(whole)) @ whole
    close(hessian_vector_product(backbone, structures, vectors), expected.reshape(vectors.shape), 1e-12)


@pytest.mark.parametrize("name", STRUCTURES)
def test_symmetry_and_translation_rule(backbone: Backbone, name: str) -> None:
    hessian = autograd_hessian(backbone, Structures.from_ase(STRUCTURES[name]()))
    n = len(hessian) // 3
    assert torch.equal(hessian, hessian.T)
    assert float(hessian.reshape(3 * n, n, 3).sum(1).abs().max()) < 1e-11 * float(hessian.abs().max())


@pytest.mark.parametrize("name", ["ethanol", "charged"])
def test_rotation_rule_away_from_equilibrium(backbone: Backbone, name: str) -> None:
    structures = Structures.from_ase(STRUCTURES[name]())
    hessian = autograd_hessian(backbone, structures)
    gradient = -backbone.evaluate(structures).forces
    assert float(gradient.abs().max()) > 0.5
    for a, b in ((0, 1), (0, 2), (1, 2)):
        generator = torch.zeros(3, 3, dtype=torch.float64)
        generator[a, b], generator[b, a] = 1.0, -1.0
        rotated = structures.positions @ generator.T
        close(hessian @ rotated.flatten(), (gradient @ generator.T).flatten(), 1e-10)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_exact_where_gradients_are_switched_off(backbone: Backbone, mode: Any) -> None:
    expected = autograd_hessian(backbone, Structures.from_ase(charged()))
    vector = torch.ones(3, 3, dtype=torch.float64)
    product = hessian_vector_product(backbone, Structures.from_ase(charged()), vector)
    with mode():
        structures = Structures.from_ase(charged())
        assert torch.equal(autograd_hessian(backbone, structures), expected)
        assert torch.equal(hessian_vector_product(backbone, structures, vector), product)
        assert not torch.is_grad_enabled()


def test_leaves_the_model_and_the_structure_alone(backbone: Backbone) -> None:
    parameters = list(backbone.parameters())
    flags = [index % 2 == 0 for index in range(len(parameters))]
    for parameter, flag in zip(parameters, flags, strict=True):
        parameter.requires_grad_(flag)
    parameters[0].grad = torch.full_like(parameters[0], 7.0)
    structures = Structures.from_ase(ethanol())
    positions, before = structures.positions.clone(), fingerprint(backbone.model)
    try:
        for method in ("loop", "vmap"):
            autograd_hessian(backbone, structures, method)
        hessian_vector_product(backbone, structures, torch.ones_like(positions))
        assert [p.requires_grad for p in parameters] == flags
        assert bool((parameters[0].grad == 7.0).all())
        assert all(p.grad is None for p in parameters[1:])
        assert fingerprint(backbone.model) == before
        assert torch.equal(structures.positions, positions)
        assert not structures.positions.requires_grad
        assert not autograd_hessian(backbone, structures).requires_grad
    finally:
        parameters[0].grad = None
        for parameter in parameters:
            parameter.requires_grad_(True)


def test_atoms_out_of_reach_do_not_feel_each_other(backbone: Backbone) -> None:
    far = Atoms("OO", positions=[[0, 0, 0], [100.0, 0, 0]])
    hessians = autograd_hessians(backbone, Structures.from_ase([far, Atoms("O")]), "loop")
    assert [h.shape for h in hessians] == [(6, 6), (3, 3)]
    assert all(float(h.abs().max()) < 1e-12 for h in hessians)


MEMORY = """
import sys, torch
from ase.build import molecule
sys.path.insert(0, {folder!r})
from toy_backbone import ToyBackbone
from hip_ext.reference import autograd_hessian
from hip_ext.structures import Structures
torch.set_num_threads(1)

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024

atoms = molecule("C6H6")
for k in range(1, 5):
    layer = molecule("C6H6")
    layer.translate([0.7 * k, 0.3, 3.6 * k])
    atoms += layer
structures = Structures.from_ase(atoms)
backbone = ToyBackbone.load(cutoff=6.0, channels=12)
backbone.evaluate(structures)
before = peak()
hessian = autograd_hessian(backbone, structures{method})
print(*hessian.shape, peak() - before)
"""


def megabytes_of_sixty_atoms(method: str = "") -> float:
    script = MEMORY.format(folder=str(Path(__file__).parent), method=method)
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    rows, columns, megabytes = run.stdout.split()
    assert rows == columns == "180"
    return float(megabytes)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak memory of a process from /proc")
def test_sixty_atoms_need_little_memory() -> None:
    assert megabytes_of_sixty_atoms() < 100
    assert megabytes_of_sixty_atoms(", 'vmap', 60") > 300, "the test would not notice a method that needs much"


class Opaque(torch.autograd.Function):
    """The identity, with a backward pass that looks at a number, which vmap forbids."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad if float(grad.detach().abs().max()) >= 0 else -grad


class OpaqueToy(ToyBackbone):
    def energy(self, inputs: dict[str, Tensor]) -> Tensor:
        return super().energy({**inputs, "positions": Opaque.apply(inputs["positions"])})


def test_goes_back_to_the_loop_where_vmap_fails(toy: ToyBackbone) -> None:
    structures = Structures.from_ase(charged())
    opaque = OpaqueToy(toy.model)
    with pytest.warns(UserWarning, match="toy backbone cannot do vectorised backward passes .*: going row by row"):
        found = autograd_hessian(opaque, structures)
    assert torch.equal(found, autograd_hessian(toy, structures, "loop"))
    with pytest.raises(BackboneError, match=r'cannot do vectorised backward passes .*use method="loop"'):
        autograd_hessian(opaque, structures, "vmap")


class DetachedToy(ToyBackbone):
    def energy(self, inputs: dict[str, Tensor]) -> Tensor:
        return super().energy({**inputs, "positions": inputs["positions"].detach()})


class InfiniteToy(ToyBackbone):
    def energy(self, inputs: dict[str, Tensor]) -> Tensor:
        positions = inputs["positions"]
        return super().energy(inputs) + (positions - positions.detach()).abs().pow(1.5).sum()


def test_one_line_says_what_is_wrong(toy: ToyBackbone) -> None:
    one = Structures.from_ase(charged())
    two = Structures.from_ase([charged(), charged()])
    cases = [
        (StructureError, "one structure expected, found 2", lambda: autograd_hessian(toy, two)),
        (ConfigError, "method is 'vmpa', expected one of auto", lambda: autograd_hessian(toy, one, "vmpa")),  # type: ignore[arg-type]
        (ConfigError, "chunk is 0, expected at least one", lambda: autograd_hessian(toy, one, "vmap", 0)),
        (StructureError, r"vectors have shape \[2, 3\], expected \[3, 3\] or \[K, 3, 3\]",
         lambda: hessian_vector_product(toy, one, torch.zeros(2, 3))),
        (BackboneError, "toy backbone cannot be differentiated twice", lambda: autograd_hessian(DetachedToy(), one)),
        (BackboneError, "second derivatives that are not finite", lambda: autograd_hessian(InfiniteToy(), one)),
        (BackboneError, "does not know Au", lambda: autograd_hessian(toy, Structures.from_ase(Atoms("Au")))),
        (ConfigError, "step is -1, expected", lambda: finite_difference_hessian(np.zeros_like, charged(), -1)),
        (StructureError, "is empty", lambda: finite_difference_hessian(np.zeros_like, Atoms())),
        (BackboneError, r"forces have shape \(9,\), expected \(3, 3\)",
         lambda: finite_difference_hessian(np.ravel, charged())),
        (BackboneError, "not finite", lambda: finite_difference_hessian(lambda x: x * np.nan, charged())),
    ]  # fmt: skip
    for error, message, call in cases:
        with pytest.raises(error, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", STRUCTURES)
def test_central_differences_converge_with_the_square_of_the_step(toy: ToyBackbone, name: str) -> None:
    atoms = STRUCTURES[name]()
    exact = autograd_hessian(toy, Structures.from_ase(atoms)).numpy()
    coarse, fine = (
        np.abs(finite_difference_hessian(toy.calculator(), atoms, step).hessian - exact).max() for step in (0.01, 0.005)
    )
    assert coarse / fine == pytest.approx(4.0, rel=0.02)


def test_central_differences_take_any_source_of_forces(toy: ToyBackbone) -> None:
    atoms = ethanol()
    atoms.set_constraint(FixAtoms([0, 1]))
    positions, structures = atoms.positions.copy(), Structures.from_ase(atoms)
    buffer = np.zeros((len(atoms), 3))

    def forces(moved: np.ndarray) -> np.ndarray:
        buffer[:] = toy.evaluate(structures.with_positions(torch.tensor(moved))).forces.numpy()
        return buffer

    from_function, from_calculator = (finite_difference_hessian(f, atoms) for f in (forces, toy.calculator()))
    assert np.array_equal(from_function.hessian, from_calculator.hessian)
    assert np.array_equal(from_function.hessian, from_function.hessian.T)
    assert np.array_equal(atoms.positions, positions)
    assert atoms.calc is None
    assert np.abs(from_function.hessian[:6]).max() > 1


def test_the_error_estimate_is_the_error_of_noisy_forces() -> None:
    atoms, sigma, step = ethanol(), 1e-3, 0.01
    n = len(atoms)
    random = np.random.default_rng(0)
    found = finite_difference_hessian(lambda x: sigma * random.standard_normal(x.shape), atoms, step)
    off_diagonal = found.hessian[~np.eye(3 * n, dtype=bool)]
    assert found.error == pytest.approx(sigma / (2 * step), rel=0.1)
    assert found.error == pytest.approx(np.sqrt((off_diagonal**2).mean()), rel=0.1)


def test_the_toy_backbone_keeps_its_contract(toy: ToyBackbone) -> None:
    atoms = diamond()
    atoms.calc = toy.calculator()
    numerical = calculate_numerical_stress(atoms, eps=1e-5)
    assert np.abs(atoms.get_stress() - numerical).max() < 1e-8 * np.abs(numerical).max() + 1e-9

    structures = Structures.from_ase([ethanol(), charged()])
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    rotation = -torch.sign(torch.linalg.det(rotation)) * rotation
    assert float(torch.linalg.det(rotation)) == pytest.approx(-1.0)
    here = toy.evaluate(structures)
    there = toy.evaluate(structures.with_positions(structures.positions @ rotation.T))
    assert here.features.widths == toy.widths
    assert float(here.features.tensors.abs().max()) > 0.1
    close(there.energy, here.energy, 1e-12)
    close(there.forces, here.forces @ rotation.T, 1e-12)
    close(there.features.scalars, here.features.scalars, 1e-12)
    close(there.features.vectors, here.features.vectors @ rotation.T, 1e-12)
    close(there.features.tensors, rotation @ here.features.tensors @ rotation.T, 1e-12)
