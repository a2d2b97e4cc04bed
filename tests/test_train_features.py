"""Cached features, energies and features from one pass, optimisers, and what is measured before the first step."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.build import molecule
from toy_backbone import ToyBackbone
from training_cases import labelled, toy, write_store

from hip_ext.backbones import load_backbone
from hip_ext.backbones.base import Backbone
from hip_ext.data.store import HessianStore
from hip_ext.errors import DataError
from hip_ext.structures import Structures
from hip_ext.training.batches import collate
from hip_ext.training.features import PAGE, FeatureCache, FeatureStore
from hip_ext.training.normalisation import fit_references
from hip_ext.training.optimisers import RunningAverage, learning_rate, make_optimisers
from hip_ext.training.records import RecordSet
from hip_ext.training.settings import OptimiserSettings

COUNT = 5 * PAGE + 3
MB = 1 << 20


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    bare = [replace(r, labelled=None, rows=None, info={}) for r in labelled(COUNT)]
    path = write_store(tmp_path_factory.mktemp("features") / "bare.lmdb", bare)
    return RecordSet.open([path], toy().elements)


def check(cache, records, seed=0):
    """Random batches against the backbone's own features."""
    rng = np.random.default_rng(seed)
    for _ in range(12):
        indices = rng.permutation(COUNT)[:6].tolist()
        structures = collate([records[i] for i in indices], indices, torch.float64).structures
        found = cache(indices, structures)
        exact = cache.backbone.features(cache.backbone.prepare(structures))
        for name in ("scalars", "vectors", "tensors"):
            torch.testing.assert_close(getattr(found, name), getattr(exact, name), rtol=1e-12, atol=1e-12)


def page_bytes(records, pages):
    c0, c1, c2 = toy().widths
    return int(records.sizes[: pages * PAGE].sum()) * (c0 + 3 * c1 + 9 * c2) * 8


@pytest.mark.parametrize("pages", [0, 2, 100])
def test_features_are_right_whatever_fits_in_memory(records, pages):
    cache = FeatureCache(toy(), records, page_bytes(records, min(pages, 5)) if pages < 100 else 1 << 30)
    check(cache, records)
    assert cache.kept == min(pages, 6)
    before = cache.computed
    check(cache, records)
    again = cache.computed - before
    assert again == (0 if pages == 100 else again)
    assert len(cache._memory) <= cache.kept


def test_the_disk_serves_the_next_run_and_stays_below_its_bound(records, tmp_path):
    for _ in range(2):
        store = FeatureStore(tmp_path / "features.lmdb", 4 * MB)
        cache = FeatureCache(toy(), records, 0, store)
        check(cache, records)
        computed = cache.computed
        store.close()
    assert computed == 0
    assert (tmp_path / "features.lmdb").stat().st_size <= 4 * MB
    store = FeatureStore(tmp_path / "features.lmdb", 4 * MB)
    other = FeatureCache(toy(seed=5), records, 0, store)
    check(other, records)
    assert other.computed > 0
    store.close()


def test_a_full_disk_cache_is_no_error(records, tmp_path):
    store = FeatureStore(tmp_path / "features.lmdb", MB)
    store.put(b"large", {"x": torch.zeros(MB // 16, dtype=torch.float64)})
    store.put(b"larger", {"x": torch.zeros(MB // 8, dtype=torch.float64)})
    assert store.get(b"larger") is None
    store.limit = 100 * MB
    check(FeatureCache(toy(), records, 0, store), records)
    store.close()


def test_features_of_a_record_do_not_depend_on_what_is_cached(records, tmp_path):
    structures = collate([records[9]], [9], torch.float64).structures
    first = FeatureCache(toy(), records, 1 << 30)([9], structures)
    warm = FeatureCache(toy(), records, 1 << 30)
    check(warm, records)
    assert torch.equal(warm([9], structures).vectors, first.vectors)


@pytest.mark.parametrize("kind", ["so3lr", "mace"])
def test_energy_and_features_come_from_one_pass(kind):
    """The same numbers and the same gradients as from two passes; forces stay −dE/dx with their history."""
    if kind == "so3lr":
        pytest.importorskip("so3krates_torch", reason="SO3LR is not installed")
        backbone = load_backbone("so3lr", dtype=torch.float64)
    else:
        pytest.importorskip("mace", reason="MACE is not installed")
        from backbone_cases import random_mace

        backbone = load_backbone("mace", random_mace(), dtype=torch.float64)
    structures = Structures.from_ase([molecule("H2O"), molecule("CH3OH")])
    found = []
    for method in (backbone.energy_and_features, lambda inputs: Backbone.energy_and_features(backbone, inputs)):
        inputs = backbone.prepare(structures)
        positions = inputs["positions"].requires_grad_(True)
        energy, features = method(inputs)
        (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=True)
        loss = gradient.square().sum() + features.vectors.square().sum() + features.scalars.sum()
        parameters = [p for p in backbone.model.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        found.append((energy, gradient, features, gradients))
    one, two = found
    torch.testing.assert_close(one[0], two[0], rtol=1e-12, atol=1e-10)
    torch.testing.assert_close(one[1], two[1], rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(one[2].tensors, two[2].tensors, rtol=1e-12, atol=1e-12)
    assert any(g is not None and bool(g.abs().sum() > 0) for g in one[3])
    for a, b in zip(one[3], two[3], strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def test_references_are_constants_per_element():
    sample = labelled(10)
    constants = {1: -0.5, 6: 3.0, 7: 1.25, 8: -2.0}
    shifted = [replace(r, energy=r.energy + sum(constants[int(z)] for z in r.numbers)) for r in sample]
    found = fit_references(shifted, [r.energy for r in sample])
    assert found == pytest.approx({z: constants[z] for z in found}, abs=1e-8)


def test_every_parameter_is_stepped_by_exactly_one_optimiser():
    model = ToyBackbone.load().model
    head = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    optimisers = make_optimisers(head.parameters(), model.parameters(), OptimiserSettings())
    stepped = [id(p) for o in optimisers for group in o.param_groups for p in group["params"]]
    assert sorted(stepped) == sorted(map(id, [*head.parameters(), *model.parameters()]))
    assert [type(o).__name__ for o in optimisers] == ["Muon", "AdamW"]


def test_learning_rate_rises_holds_and_falls_to_zero():
    settings = OptimiserSettings(warmup=100, decay=0.5, learning_rate=1.0)
    rates = np.array([learning_rate(step, 1000, settings) for step in range(1001)])
    assert rates[0] == pytest.approx(0.01)
    assert rates[99] == rates[500] == 1.0
    assert (np.diff(rates[500:]) <= 0).all()
    assert rates[1000] == pytest.approx(0.0, abs=1e-12)


def test_the_running_average_is_what_it_says_and_can_be_exchanged():
    value = torch.zeros(2)
    average = RunningAverage({"a": value}, decay=0.5)
    expected = torch.zeros(2)
    for step in range(1, 60):
        value.copy_(torch.full((2,), float(step)))
        average.update(step)
        decay = min(0.5, step / (step + 20))
        expected = decay * expected + (1 - decay) * value
    torch.testing.assert_close(average.values["a"], expected)
    average.exchange()
    torch.testing.assert_close(value, expected)
    average.exchange()
    assert value.tolist() == [59.0, 59.0]


def test_single_atoms_are_left_out_and_an_empty_set_is_named(tmp_path):
    one = replace(labelled(1)[0], labelled=None, rows=None, forces=None, info={})
    lone = replace(one, numbers=one.numbers[:1], positions=one.positions[:1])
    path = write_store(tmp_path / "mixed.lmdb", [lone, one, lone])
    assert len(RecordSet.open([path], toy().elements)) == 1
    path = write_store(tmp_path / "lone.lmdb", [lone])
    with pytest.raises(DataError, match="no records of two atoms"):
        RecordSet.open([path], toy().elements)
    assert len(HessianStore(path)) == 1
