"""A record: what it refuses, what it gives back, and its bytes."""

from dataclasses import fields, replace

import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator

from hip_ext.data.encoding import decode, encode
from hip_ext.data.record import HessianRecord
from hip_ext.errors import DataError

N = 3
RNG = np.random.default_rng(0)
WATER = HessianRecord(
    numbers=np.array([8, 1, 1]),
    positions=molecule("H2O").positions,
    charge=1,
    unpaired=1.0,
    energy=-2000.5,
    forces=RNG.normal(size=(N, 3)),
    probes=RNG.normal(size=(2, N, 3)),
    products=RNG.normal(size=(2, N, 3)).astype(np.float32),
    method="wB97X/6-31G(d)",
    origin="here",
    info={"smiles": "O", "step": 3},
)
SQUARE = RNG.normal(size=(9, 9))


def assert_same(first: HessianRecord, second: HessianRecord) -> None:
    for field in fields(HessianRecord):
        one, other = getattr(first, field.name), getattr(second, field.name)
        if isinstance(one, np.ndarray):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
        else:
            assert one == other


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"numbers": np.array([], dtype=int)}, "atomic numbers"),
        ({"numbers": np.array([8, 1, 0])}, "atomic numbers"),
        ({"numbers": np.array([8.0, 1.0, 1.0])}, "atomic numbers"),
        ({"numbers": np.array([[8, 1, 1]])}, "atomic numbers"),
        ({"positions": np.zeros((2, 3))}, r"shape \(2, 3\), expected \(3, 3\)"),
        ({"positions": np.full((3, 3), "x")}, "no numbers"),
        ({"forces": np.full((3, 3), np.nan)}, "9 numbers not finite"),
        ({"energy": float("inf")}, "energy"),
        ({"labelled": np.array([0])}, "both or neither"),
        ({"labelled": np.array([0, 0]), "rows": np.zeros((2, 3, 3, 3))}, "distinct"),
        ({"labelled": np.array([3]), "rows": np.zeros((1, 3, 3, 3))}, "below 3"),
        ({"products": None}, "both or neither"),
    ],
)
def test_what_does_not_fit_is_refused(change, words):
    with pytest.raises(DataError, match=words):
        replace(WATER, **change)


def test_a_hessian_is_symmetrised_and_its_asymmetry_kept():
    record = WATER.with_hessian(SQUARE.ravel())
    np.testing.assert_array_equal(record.hessian(), (SQUARE + SQUARE.T) / 2)
    assert record.info["asymmetry"] == np.abs(SQUARE - SQUARE.T).max()
    assert record.is_complete and not WATER.is_complete
    with pytest.raises(DataError, match="81 entries, found 80"):
        WATER.with_hessian(SQUARE.ravel()[1:])
    with pytest.raises(DataError, match="rows of 0 of 3 atoms"):
        WATER.hessian()


def test_rows_in_any_order_make_the_matrix():
    full = SQUARE.reshape(3, 3, 3, 3)
    record = replace(WATER, labelled=np.array([2, 0, 1]), rows=full[[2, 0, 1]])
    np.testing.assert_array_equal(record.hessian(), SQUARE)


def test_through_ase_and_back():
    record = replace(WATER, probes=None, products=None)
    assert_same(HessianRecord.from_atoms(record.atoms(), method=record.method, origin=record.origin), record)
    atoms = molecule("CH3")
    atoms.info.update(multiplicity=2, count=np.int64(3), big=np.zeros(3))
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0)
    found = HessianRecord.from_atoms(atoms)
    assert (found.unpaired, found.energy, found.forces, dict(found.info)) == (1.0, -1.0, None, {"count": 3})


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bytes_hold_everything_and_half_of_a_symmetric_matrix(dtype):
    assert_same(decode(encode(WATER)), replace(WATER, charge=1.0))
    symmetric = WATER.with_hessian(SQUARE.astype(dtype))
    assert_same(decode(encode(symmetric)), symmetric)
    skew = replace(WATER, labelled=np.arange(3), rows=SQUARE.astype(dtype).reshape(3, 3, 3, 3))
    assert_same(decode(encode(skew)), skew)
    saved = len(encode(skew)) - len(encode(replace(symmetric, info=WATER.info)))
    assert saved > 36 * np.dtype(dtype).itemsize - 100
    part = replace(WATER, labelled=np.array([1]), rows=SQUARE[:3].reshape(1, 3, 3, 3))
    assert_same(decode(encode(part)), part)
    crystal = replace(WATER, cell=4 * np.eye(3), pbc=np.array([True, True, False]))
    assert_same(decode(encode(crystal)), crystal)


def test_damage_of_any_byte_is_noticed():
    data = encode(WATER.with_hessian(SQUARE))
    for place in range(0, len(data), 7):
        changed = bytearray(data)
        changed[place] ^= 1
        with pytest.raises(DataError, match="damaged record"):
            decode(bytes(changed))
    for end in (0, 3, 50, len(data) - 1):
        with pytest.raises(DataError, match="damaged record"):
            decode(data[:end])


def test_info_must_be_json():
    for value in (np.zeros(3), float("nan"), {1, 2}):
        with pytest.raises(DataError, match="JSON"):
            encode(replace(WATER, info={"x": value}))
