"""The conformance suite on SevenNet, with random and with trained weights, and what holds for SevenNet alone.

It is among the tests of fairchem because both need an e3nn newer than MACE's and live in one environment.
"""

from __future__ import annotations

import copy
import json
import pickle
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import requests
import torch
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from ase.calculators.mixing import SumCalculator
from ase.stress import voigt_6_to_full_3x3_stress
from shipped_cases import assert_as_good_as_its_card
from torch import nn

pytest.importorskip("sevenn", reason="needs sevenn")

import sevenn.util
from sevenn._const import DEFAULT_E3_EQUIVARIANT_MODEL_CONFIG
from sevenn.calculator import SevenNetCalculator
from sevenn.model_build import build_E3_equivariant_model

from hip_ext import from_pretrained
from hip_ext.backbones import Backbone, load_backbone
from hip_ext.backbones.sevennet import SevenNetBackbone
from hip_ext.displacements import displaced_phonons
from hip_ext.errors import BackboneError, MissingDependencyError
from hip_ext.phonons import band_path, phonon_wavenumbers
from hip_ext.reference import autograd_hessian, finite_difference_hessian
from hip_ext.structures import Structures
from hip_ext.testing import (
    BackboneCase,
    BackboneConformance,
    assert_close,
    assert_same_features,
    default_dtype,
    features_of,
    organic_structures,
    random_orthogonal,
    turned,
)
from hip_ext.testing.compare import framework_results
from hip_ext.testing.motions import turned_atoms

pytestmark = pytest.mark.filterwarnings("ignore:No tensor product accelerator", "ignore:.*TorchScript type system")

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"

attach = partial(load_backbone, "sevennet")


class DoubleCalculator(SevenNetCalculator):
    """SevenNet's own calculator with double precision wherever it writes single precision."""

    def calculate(self, *args: Any, **kwargs: Any) -> None:
        double = partial(sevenn.util.dtype_correct, float_dtype=torch.float64)
        with (
            mock.patch("sevenn.util.dtype_correct", double),
            mock.patch.object(torch.Tensor, "float", torch.Tensor.double),
        ):
            super().calculate(*args, **kwargs)


@cache
def released(name: str, modal: str | None = None) -> Backbone:
    """A model of the sevenn wheel as it is; loaded once for all tests."""
    return attach(name, modal=modal)


@cache
def released_model(name: str) -> nn.Module:
    """A model of the sevenn wheel in float64, with coupling constants in full precision: the file's are in single."""
    parameters = dict(released(name).model.named_parameters())
    with default_dtype(torch.float64):
        model = build_E3_equivariant_model(sevenn.util.load_checkpoint(name).config).double()
    model.load_state_dict(parameters, strict=False)
    return model


def own_calculator(model: nn.Module, modal: str | None = None) -> Calculator:
    return DoubleCalculator(model, device="cpu", modal=modal)


@cache
def random_model(parity: bool = True, lmax: int = 2) -> nn.Module:
    """Three layers with random weights in float64 for H, C, N, O."""
    config = copy.deepcopy(DEFAULT_E3_EQUIVARIANT_MODEL_CONFIG) | {
        "cutoff": 4.0,
        "channel": 8,
        "lmax": lmax,
        "is_parity": parity,
        "num_convolution_layer": 3,
        "radial_basis": {"radial_basis_name": "bessel", "bessel_basis_num": 5},
        "weight_nn_hidden_neurons": [8],
        "conv_denominator": 6.0,
        "shift": [-1.0, -3.0, -4.0, -5.0],
        "scale": 1.3,
        "_number_of_species": 4,
        "_type_map": {1: 0, 6: 1, 7: 2, 8: 3},
    }
    with default_dtype(torch.float64), torch.random.fork_rng():
        torch.manual_seed(0)
        return build_E3_equivariant_model(config).double()


CASES = {
    "random, with parity": BackboneCase(lambda: copy.deepcopy(random_model()), attach, own_calculator),
    "7net-0": BackboneCase(
        lambda: copy.deepcopy(released_model("7net-0")), attach, own_calculator, unknown_element="Fr"
    ),
}


@pytest.fixture(scope="module", params=list(CASES))
def case(request) -> BackboneCase:
    return CASES[request.param]


class TestSevenNet(BackboneConformance):
    def test_features_take_one_forward_pass(self, case, model, backbone):
        """The layers of SevenNet are runs of the modules of one sequence: each is called once, up to the last gate."""
        calls = []
        counters = [part.register_forward_pre_hook(lambda module, args: calls.append(module)) for part in model]
        try:
            features_of(backbone, case.structures()[0])
        finally:
            for counter in counters:
                counter.remove()
        names = [name for name, part in model.named_children() if part in calls]
        assert calls == list(model)[: len(calls)]
        assert names[-1].endswith("equivariant_gate")
        assert not any("gate" in name for name, _ in list(model.named_children())[len(calls) :])

    def test_the_parts_of_the_model_stay_as_they_were(self, case, model, backbone):
        """SevenNet's own calculator marks every part; a model that it has marked stays marked."""
        for marked in (model, own_calculator(copy.deepcopy(model)).model):
            attached = attach(marked)
            before = [dict(vars(part)) for part in marked.modules()]
            structures = Structures.from_ase(list(case.structures()))
            attached.evaluate(structures)
            attached.features(attached.prepare(structures))
            attached.calculator().get_potential_energy(case.structures()[0])
            for part, attributes in zip(marked.modules(), before, strict=True):
                assert vars(part).keys() == attributes.keys()
                assert all(vars(part)[name] is value for name, value in attributes.items())


@pytest.mark.parametrize(("parity", "lmax"), [(True, 1), (False, 3)])
def test_degrees_and_parity_are_those_of_the_model(parity, lmax):
    backbone = attach(random_model(parity, lmax))
    assert backbone.parity == ("o3" if parity else "so3")
    assert backbone.widths == (24, 16, 16 if lmax > 1 else 0)
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.1, seed=4)
    plain = features_of(backbone, atoms)
    for determinant in (1, -1):
        q = random_orthogonal(5, determinant)
        found, expected = features_of(backbone, turned_atoms(atoms, q)), turned(plain, q)
        if parity or determinant > 0:
            assert_same_features(found, expected)
        else:
            with pytest.raises(AssertionError):
                assert_same_features(found, expected, 1e-7)


@pytest.mark.parametrize("name", ["7net-0", "7net-l3i5"])
def test_released_models_are_sevennets_own(name):
    """Its calculator to the last bit, and `evaluate` to single precision, also far from the origin."""
    backbone = released(name)
    assert (backbone.parity, backbone.widths, backbone.cutoff) == ("so3", (640, 256, 128), 5.0)
    assert backbone.elements == set(range(1, 84)) | set(range(89, 95))
    assert backbone.dtype == torch.float32
    assert (backbone.source.name, backbone.source.options) == (name, {})
    own, calculator = SevenNetCalculator(name, device="cpu"), backbone.calculator()
    salt = bulk("NaCl", "rocksalt", 5.6, cubic=True)
    salt.rattle(0.05, seed=0)
    far = salt.copy()
    far.positions += [1000.0, -700.0, 300.0]
    for atoms in (molecule("CH3CH2OH"), salt, far):
        expected = framework_results(own, atoms, ["energy"])
        found = framework_results(calculator, atoms, ["energy"])
        assert found.keys() == expected.keys()
        for key in found:
            np.testing.assert_array_equal(found[key], expected[key], err_msg=key)
        evaluated = backbone.evaluate(Structures.from_ase(atoms), stress=True)
        assert evaluated.forces.dtype == torch.float32
        assert_close(evaluated.energy[0], expected["energy"], 1e-6)
        np.testing.assert_allclose(evaluated.forces, expected["forces"], rtol=0, atol=1e-5)
        if atoms.pbc.all():
            assert_close(evaluated.stress[0], voigt_6_to_full_3x3_stress(expected["stress"]), 1e-5)


def test_autograd_hessian_is_that_of_sevennets_own_forces():
    """Finite differences of forces that SevenNet sums from the gradients of its edges, outside of the adapter."""
    water = molecule("H2O")
    water.rattle(0.05, seed=0)
    exact = autograd_hessian(attach(random_model()), Structures.from_ase(water)).numpy()
    found = finite_difference_hessian(own_calculator(copy.deepcopy(random_model())), water, step=1e-4)
    np.testing.assert_allclose(found.hessian, exact, rtol=0, atol=1e-6 * np.abs(exact).max())


def test_fingerprint_does_not_depend_on_how_the_model_came():
    """Also where TorchScript lists more constants in a copy than in the original."""
    backbone, path = released("7net-0"), sevenn.util.pretrained_name_to_path("7net-0")
    others = [
        attach(path),
        attach(backbone.model, dtype=torch.float64),
        attach(pickle.loads(pickle.dumps(backbone.model))),
        attach(SevenNetCalculator(copy.deepcopy(backbone.model), device="cpu")),
    ]
    assert {other.source.fingerprint for other in others} == {backbone.source.fingerprint}
    assert [other.source.name for other in others] == [path, "in-memory", "in-memory", "calculator"]


def test_loading_leaves_the_process_alone():
    with default_dtype(torch.float64):
        state = torch.get_rng_state()
        backbone = attach("7net-0")
        assert backbone.dtype == torch.float32
        assert torch.get_default_dtype() == torch.float64
        assert torch.equal(torch.get_rng_state(), state)


def test_modals():
    """A model of two levels of theory has the energies of each, in batches too; the level comes with a calculator."""
    many = list(organic_structures())
    model, energies = released("7net-mf-0", "PBE").model, []
    for modal in ("PBE", "R2SCAN"):
        own = SevenNetCalculator(copy.deepcopy(model), device="cpu", modal=modal)
        backbone = attach(own)
        assert backbone.source.options == {"modal": modal}
        assert attach(own, modal="PBE").modal == "PBE"
        found = backbone.evaluate(Structures.from_ase(many))
        for b, atoms in enumerate(many):
            expected = framework_results(own, atoms, ["energy"])["energy"]
            assert_close(found.energy[b], expected, 1e-6)
            assert_close(framework_results(backbone.calculator(), atoms, ["energy"])["energy"], expected, 0)
        energies.append(found.energy)
    assert (energies[0] - energies[1]).abs().min() > 0.1


def test_modal_must_fit_the_model():
    both, one = released("7net-mf-0", "PBE").model, released("7net-0").model
    for model, modal, message in [
        (both, None, r"has several levels of theory: give modal, one of R2SCAN, PBE$"),
        (both, "R2SCN", r"has no modal 'R2SCN'; did you mean 'R2SCAN'\?; it has R2SCAN, PBE$"),
        (one, "PBE", r"has no modal 'PBE'; it has one level of theory, so leave modal out$"),
    ]:
        with pytest.raises(BackboneError, match=message):
            attach(model, modal=modal)


def test_sources_that_are_none(tmp_path):
    damaged, foreign = tmp_path / "damaged.pth", tmp_path / "foreign.pth"
    damaged.write_bytes(b"no pickle")
    torch.save({"weights": torch.zeros(3)}, foreign)
    lammps = copy.deepcopy(random_model())
    lammps.key_grad = "pos"
    for source, message in {
        "7net-9": r"^there is no SevenNet checkpoint at '7net-9' and .*; did you mean '7net-0'\?; released are",
        "no/such.pth": r"^there is no SevenNet checkpoint at 'no/such.pth'",
        damaged: r"damaged.pth' cannot be read as a SevenNet checkpoint: ",
        foreign: r"foreign.pth' cannot be read as a SevenNet checkpoint: ",
        None: r"^the sevennet backbone cannot be made without a source: give a name such as '7net-0'",
        torch.nn.Linear(2, 2): r"^expected a SevenNet model \(AtomGraphSequential\), found a Linear",
        lammps: r"was built for LAMMPS or without its elements",
        EMT(): r"^the sevennet backbone needs a SevenNetCalculator, found EMT: .* D3, would be missing",
        SumCalculator(
            [own_calculator(copy.deepcopy(random_model())), EMT()]
        ): r"SevenNetCalculator, found SumCalculator",
    }.items():
        with pytest.raises(BackboneError, match=message) as raised:
            attach(source)
        assert "\n" not in str(raised.value)


def test_a_model_that_cannot_be_fetched_is_named(capsys):
    """Without a network; what SevenNet says of its downloads does not go to standard output."""
    with (
        mock.patch("requests.get", side_effect=requests.ConnectionError("no network")),
        pytest.raises(BackboneError, match=r"^7net-omat could not be fetched \(ConnectionError\): download the check"),
    ):
        attach("7net-omat")
    assert capsys.readouterr().out == ""


def test_missing_sevennet_is_named(monkeypatch):
    monkeypatch.setattr("hip_ext.backbones.frameworks.installed_version", lambda requirement: None)
    for load in (attach, SevenNetBackbone.load):
        with pytest.raises(
            MissingDependencyError, match=r"^SevenNet is not installed: pip install 'hip-ext\[sevennet\]'$"
        ):
            load("7net-0")


def test_the_shipped_head_is_as_good_as_its_card_says(tmp_path, request):
    assert_as_good_as_its_card("hip-7net-0", tmp_path, request)


def test_phonons_of_the_shipped_head_are_those_that_were_measured():
    """Bands of salt from one pass over the primitive cell, against displacements, as in benchmarks/phonons.py."""
    pytest.importorskip("phonopy", reason="needs phonopy")
    expected = json.loads((RESULTS / "phonons.json").read_text())["NaCl"]
    model = from_pretrained("hip-7net-0")
    salt = bulk("NaCl", "rocksalt", expected["lattice_constant"])
    points = band_path(salt, npoints=100).kpts
    displaced = displaced_phonons(model.backbone.calculator(), salt, points, 10.0)
    found = phonon_wavenumbers(model.hessian(salt), salt.get_masses(), points)
    assert displaced.wavenumbers.max() == pytest.approx(expected["highest"], rel=1e-3)
    assert np.abs(found - displaced.wavenumbers).mean() == pytest.approx(expected["band_mae"], rel=0.02)
