"""Where backbones come from and what they read: files, calculators, heads, charge and spin, layouts, and all errors."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from backbone_cases import (
    assert_same_features,
    default_dtype,
    mace_calculator,
    methanol_crystal,
    random_mace,
    random_orthogonal,
    so3lr_calculator,
    turned,
)

import hip_ext
from hip_ext.backbones import Backbone, load_backbone
from hip_ext.backbones.mace_messages import MessageLayout
from hip_ext.errors import BackboneError
from hip_ext.features import NodeFeatures
from hip_ext.structures import Structures

pytest.importorskip("mace", reason="needs mace-torch")
pytest.importorskip("so3krates_torch", reason="needs so3krates-torch")


def features_of(backbone: Backbone, atoms: Atoms) -> NodeFeatures:
    with torch.no_grad():
        return backbone.features(backbone.prepare(Structures.from_ase(atoms)))


def assert_one_line(error: pytest.ExceptionInfo[BackboneError]) -> None:
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


# Files


@pytest.fixture(scope="module", params=["mace", "so3lr"])
def saved(request, tmp_path_factory):
    """A kind, its module, and the file that torch.save makes of the module."""
    model = random_mace() if request.param == "mace" else load_backbone("so3lr").model
    path = tmp_path_factory.mktemp(request.param) / "my.model"
    torch.save(model, path)
    return request.param, model, path


@pytest.mark.parametrize("as_text", [True, False])
def test_model_file(saved, as_text):
    kind, model, path = saved
    backbone, direct = load_backbone(kind, str(path) if as_text else path), load_backbone(kind, model)
    assert backbone.source.name == str(path)
    assert backbone.source.fingerprint == direct.source.fingerprint
    assert backbone.dtype == direct.dtype
    assert_same_features(features_of(backbone, molecule("CH3OH")), features_of(direct, molecule("CH3OH")), 0.0)
    single = load_backbone(kind, path, device="cpu", dtype=torch.float32)
    assert {p.dtype for p in single.model.parameters()} == {torch.float32}


def test_a_saved_user_module_does_not_know_of_us(saved, tmp_path):
    kind, model, _ = saved
    backbone = load_backbone(kind, model)
    features_of(backbone, molecule("CH3OH"))
    torch.save(model, tmp_path / "again.model")
    assert b"hip_ext" not in (tmp_path / "again.model").read_bytes()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_truncated_file(saved, tmp_path, share):
    kind, _, path = saved
    data = path.read_bytes()
    (tmp_path / "cut.model").write_bytes(data[: int(share * len(data))])
    with pytest.raises(BackboneError, match=r"cut\.model' cannot be read as a (MACE|SO3LR) model") as error:
        load_backbone(kind, tmp_path / "cut.model")
    assert_one_line(error)


def test_missing_and_foreign_files(saved, tmp_path):
    kind, model, _ = saved
    with pytest.raises(BackboneError, match=r"there is no (MACE|SO3LR) model file at '.*nowhere\.model'") as error:
        load_backbone(kind, tmp_path / "nowhere.model")
    assert_one_line(error)
    with pytest.raises(BackboneError, match="there is no"):
        load_backbone(kind, tmp_path)
    (tmp_path / "text.model").write_text("energy: -1.0\n")
    with pytest.raises(BackboneError, match=r"text\.model' cannot be read") as error:
        load_backbone(kind, tmp_path / "text.model")
    assert_one_line(error)
    torch.save(model.state_dict(), tmp_path / "state.pt")
    with pytest.raises(BackboneError, match=r"holds a \w*[dD]ict, not a whole \w+ model: give the file"):
        load_backbone(kind, tmp_path / "state.pt")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "linear.pt")
    with pytest.raises(BackboneError, match=r"expected a .* model, found a Linear \(.*linear\.pt\)"):
        load_backbone(kind, tmp_path / "linear.pt")


@pytest.mark.parametrize("kind", ["mace", "so3lr"])
def test_other_sources_are_refused(kind):
    with pytest.raises(BackboneError, match="found a Linear"):
        load_backbone(kind, torch.nn.Linear(2, 2))
    with pytest.raises(BackboneError, match="cannot be made from int"):
        load_backbone(kind, 3)
    with pytest.raises(BackboneError, match=r"torch\.float32 or torch\.float64, not in torch\.float16"):
        load_backbone(kind, random_mace() if kind == "mace" else None, dtype=torch.float16)
    with pytest.raises(BackboneError, match="device 'nowhere' cannot be used here"):
        load_backbone(kind, random_mace() if kind == "mace" else None, device="nowhere")


def test_released_mace_names():
    with pytest.raises(BackboneError, match="mace_mp has no model 'smal'; did you mean 'small'"):
        load_backbone("mace", "mace_mp:smal")
    with pytest.raises(BackboneError, match="mace_omol has no model 'large'"):
        load_backbone("mace", "mace_omol:large")
    with pytest.raises(BackboneError, match="as family:name, such as 'mace_mp:small'"):
        load_backbone("mace", "small")


@pytest.mark.parametrize("name", ["mace_mp", "mace_mp:small", "mace_off:medium", "mace_omol"])
def test_released_mace_model_without_a_network(name, tmp_path, monkeypatch):
    """The real download, refused by a proxy that is not there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for variable in ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("NO_PROXY", "")
    with pytest.raises(BackboneError, match=f"{name} could not be fetched .*download the file") as error:
        load_backbone("mace", name)
    assert_one_line(error)


def test_released_mace_model_from_the_cache(tmp_path, monkeypatch):
    """MACE keeps mace_off models under their own names; a file there is loaded although it is a pickle."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", raising=False)
    model = random_mace()
    (tmp_path / "mace").mkdir()
    torch.save(model, tmp_path / "mace" / "MACE-OFF23_small.model")
    backbone = load_backbone("mace", "mace_off:small")
    assert backbone.source.name == "mace_off:small"
    assert backbone.source.fingerprint == load_backbone("mace", model).source.fingerprint
    assert "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD" not in os.environ


def test_mace_import_leaves_safe_loading_on():
    """In a fresh process: loading MACE through us neither opens torch.load for pickles nor warns."""
    code = (
        "import os, warnings; warnings.simplefilter('error', UserWarning)\n"
        "from hip_ext.backbones.mace_models import import_mace\n"
        "import_mace('mace.modules'); import_mace('mace.calculators')\n"
        "assert 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD' not in os.environ"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=Path(hip_ext.__file__).parents[1])


# Calculators


def test_open_calculators():
    model = random_mace()
    calculator = mace_calculator(model)
    backbone = load_backbone("mace", calculator)
    assert backbone.model is model
    assert backbone.source.name == "calculator"
    with default_dtype(torch.float32):
        shared = so3lr_calculator(load_backbone("so3lr", dtype=torch.float64).model)
    assert load_backbone("so3lr", shared).model is shared.models[0]


def test_open_so3lr_calculator_that_has_run_can_be_converted():
    """so3krates-torch leaves the tensors of its last pass on the model, which cannot be copied as they are."""
    with default_dtype(torch.float64):
        calculator = so3lr_calculator(load_backbone("so3lr", dtype=torch.float64).model)
        calculator.calculate(molecule("CH3OH"), ["energy"])
    single = load_backbone("so3lr", calculator, dtype=torch.float32)
    assert_same_features(
        features_of(single, molecule("H2O")), features_of(load_backbone("so3lr"), molecule("H2O")), 1e-5
    )


def test_calculators_that_mean_something_else_are_refused():
    from ase.calculators.lj import LennardJones
    from mace.calculators import MACECalculator

    with pytest.raises(BackboneError, match="a calculator with one model, found MACECalculator with 2"):
        load_backbone("mace", MACECalculator(models=[random_mace(seed=1), random_mace(seed=2)]))
    with pytest.raises(BackboneError, match="this calculator converts units"):
        load_backbone("mace", MACECalculator(models=[random_mace()], energy_units_to_eV=27.2))
    for kind in ("mace", "so3lr"):
        with pytest.raises(BackboneError, match="a calculator with one model, found LennardJones with 0"):
            load_backbone(kind, LennardJones())


# MACE: heads, charge and spin, parity, degrees


def two_headed(heads: list[str]) -> torch.nn.Module:
    """Two heads with their own atomic energies, scales and shifts."""
    energies = np.array([[-1.0, -3.0, -4.0, -5.0], [-1.5, -3.5, -4.5, -5.5]])
    return random_mace(
        heads=heads, atomic_energies=energies, atomic_inter_scale=[1.0, 2.0], atomic_inter_shift=[0.0, 0.1]
    )


def test_heads():
    from mace.calculators import MACECalculator

    atoms = molecule("CH3OH")
    model = two_headed(["dft", "ccsd"])
    energies = {}
    for head in ("dft", "ccsd"):
        expected = MACECalculator(models=[copy.deepcopy(model)], default_dtype="float64", head=head)
        expected.calculate(atoms)
        backbone = load_backbone("mace", model, head=head)
        found = backbone.evaluate(Structures.from_ase([atoms, atoms]))
        assert found.energy.tolist() == pytest.approx([expected.results["energy"]] * 2, rel=1e-12)
        np.testing.assert_allclose(found.forces[: len(atoms)], expected.results["forces"], atol=1e-12)
        assert backbone.source.options == {"head": head}
        assert backbone.calculator().head == head
        assert load_backbone("mace", expected).head == head
        energies[head] = float(found.energy[0])
    assert abs(energies["dft"] - energies["ccsd"]) > 0.1
    assert load_backbone("mace", model).head == "ccsd"
    assert load_backbone("mace", two_headed(["Default", "ccsd"])).head == "Default"
    with pytest.raises(BackboneError, match=r"no head 'cssd'; did you mean 'ccsd'\?; it has dft, ccsd"):
        load_backbone("mace", model, head="cssd")


ELECTRONS = {
    "total_charge": {"type": "categorical", "per": "graph", "num_classes": 7, "emb_dim": 8, "offset": 3},
    "total_spin": {"type": "categorical", "per": "graph", "num_classes": 4, "emb_dim": 8, "offset": 0},
}


@pytest.mark.parametrize("continuous", [False, True])
def test_charge_and_spin_as_mace_reads_them(continuous):
    specs = copy.deepcopy(ELECTRONS)
    if continuous:
        for spec in specs.values():
            spec.update(type="continuous", in_dim=1)
    model = random_mace(embedding_specs=specs, use_embedding_readout=True)
    backbone, calculator = load_backbone("mace", model), mace_calculator(copy.deepcopy(model))
    states = [("CH3OH", 0, 1), ("CH3OH", 1, 2), ("OH", 0, 2), ("OH", -1, 1), ("O2", 0, 3)]
    many = [molecule(name) for name, _, _ in states]
    for atoms, (_, charge, multiplicity) in zip(many, states, strict=True):
        atoms.info |= {"charge": charge, "spin": multiplicity}
    found = backbone.evaluate(Structures.from_ase(many))
    start = 0
    for b, atoms in enumerate(many):
        calculator.calculate(atoms)
        assert float(found.energy[b]) == pytest.approx(calculator.results["energy"], rel=1e-12)
        np.testing.assert_allclose(found.forces[start : start + len(atoms)], calculator.results["forces"], atol=1e-12)
        start += len(atoms)
    assert abs(found.energy[0] - found.energy[1]) > 1e-4
    if not continuous:
        many[0].info |= {"charge": 5, "spin": 2}
        with pytest.raises(BackboneError, match=r"knows total_charge from -3 to 3, found \[5\.0"):
            backbone.prepare(Structures.from_ase(many))


def test_unknown_embedding_is_refused():
    model = random_mace(
        embedding_specs={"elec_temp": {"type": "continuous", "per": "graph", "in_dim": 1, "emb_dim": 4}}
    )
    with pytest.raises(BackboneError, match="reads elec_temp"):
        load_backbone("mace", model)


def test_mace_without_parity_promises_rotations_only():
    backbone = load_backbone("mace", random_mace("16x0e+16x1e", use_so3=True))
    assert backbone.parity == "so3"
    assert backbone.widths == (32, 32, 32)
    atoms = methanol_crystal()
    q = random_orthogonal(5, 1)
    moved = atoms.copy()
    moved.positions, moved.cell = atoms.positions @ q.numpy().T, atoms.cell.array @ q.numpy().T
    assert_same_features(features_of(backbone, moved), turned(features_of(backbone, atoms), q))


@pytest.mark.parametrize(("max_ell", "widths"), [(1, (32, 32, 0)), (2, (32, 32, 32)), (3, (32, 32, 32))])
def test_mace_degrees(max_ell, widths):
    backbone = load_backbone("mace", random_mace(max_ell=max_ell))
    assert backbone.widths == features_of(backbone, molecule("CH3OH")).widths == widths


@pytest.mark.parametrize(
    "block",
    [
        "RealAgnosticDensityInteractionBlock",
        "RealAgnosticDensityResidualInteractionBlock",
        "RealAgnosticResidualNonLinearInteractionBlock",
    ],
)
def test_every_interaction_block_of_the_released_models(block):
    from mace.modules import interaction_classes

    changes = {"interaction_cls": interaction_classes[block], "interaction_cls_first": interaction_classes[block]}
    backbone = load_backbone("mace", random_mace(**changes))
    atoms, q = methanol_crystal(), random_orthogonal(7, -1)
    moved = atoms.copy()
    moved.positions, moved.cell = atoms.positions @ q.numpy().T, atoms.cell.array @ q.numpy().T
    assert_same_features(features_of(backbone, moved), turned(features_of(backbone, atoms), q))


def test_messages_are_read_in_both_layouts():
    """The same irreps laid out flat in both orders and reshaped as MACE's last step does it, degree by degree."""
    generator = torch.Generator().manual_seed(0)
    atoms, channels = 5, 6
    degrees = [torch.randn(atoms, channels, 2 * degree + 1, generator=generator) for degree in range(4)]
    by_channel = torch.cat(degrees, dim=-1)
    by_component = torch.cat([x.transpose(1, 2).reshape(atoms, -1, channels) for x in degrees], dim=-2)
    columns = {0: 0, 1: 1, 2: 4}
    for message, components_first in ((by_channel, False), (by_component, True)):
        layout = MessageLayout(channels, columns, components_first)
        assert layout.widths == (channels, channels, channels)
        for found, expected in zip(layout.split(message), degrees, strict=False):
            assert torch.equal(found, expected)
    flat = MessageLayout(channels, {0: 0, 1: 1})
    assert flat.widths == (channels, channels, 0)
    assert flat.split(by_channel)[2].shape == (atoms, 0, 5)


@pytest.mark.parametrize("layout", ["mul_ir", "ir_mul"])
def test_cuequivariance_models_give_the_same_features(layout):
    pytest.importorskip("cuequivariance_torch", reason="needs cuequivariance-torch")
    from mace.cli.convert_e3nn_cueq import run

    model = random_mace()
    with default_dtype(torch.float64):
        converted = run(copy.deepcopy(model), device="cpu", layout=layout)
    plain, fast = load_backbone("mace", model), load_backbone("mace", converted)
    for atoms in (molecule("CH3CH2OH"), methanol_crystal()):
        assert_same_features(features_of(fast, atoms), features_of(plain, atoms))
        found, expected = (b.evaluate(Structures.from_ase(atoms), stress=True) for b in (fast, plain))
        torch.testing.assert_close(found.forces, expected.forces, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(found.stress, expected.stress, rtol=1e-10, atol=1e-12)
