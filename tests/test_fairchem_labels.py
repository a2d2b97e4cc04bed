"""The label files that go to fairchem: written here, read here, and read by fairchem's own data set."""

import numpy as np
import pytest

pytest.importorskip("fairchem.core", reason="needs fairchem-core")

from fairchem.core.datasets.ase_datasets import AseDBDataset
from test_formats_files import RECORDS, assert_same

from hip_ext.data.formats import read_records, write_records
from hip_ext.plugins.fairchem import HessianDataset

FULL = [record for record in RECORDS if record.energy is not None]


def test_a_round_trip(tmp_path):
    write_records(tmp_path / "a.aselmdb", RECORDS)
    for place in (tmp_path / "a.aselmdb", tmp_path):
        for found, record in zip(read_records(place), RECORDS, strict=True):
            assert_same(found, record)


def test_fairchem_reads_what_is_written(tmp_path):
    write_records(tmp_path / "a.aselmdb", FULL)
    items = AseDBDataset({"src": str(tmp_path / "a.aselmdb"), "a2g_args": {"r_data_keys": ["charge", "spin"]}})
    assert len(items) == len(FULL)
    for index, record in enumerate(FULL):
        item, atoms = items[index], items.get_atoms(index)
        np.testing.assert_array_equal(item.atomic_numbers.numpy(), record.numbers)
        np.testing.assert_allclose(item.pos.numpy(), record.positions, rtol=0, atol=1e-6)
        assert atoms.get_potential_energy() == pytest.approx(record.energy)
        np.testing.assert_allclose(atoms.get_forces(), record.forces, rtol=0, atol=1e-10)
        assert (int(item.charge), int(item.spin)) == (record.charge, record.unpaired + 1)


def test_its_trainers_data_set_finds_the_hessians(tmp_path):
    write_records(tmp_path / "a.aselmdb", FULL)
    items = HessianDataset({"src": str(tmp_path / "a.aselmdb"), "a2g_args": {"r_data_keys": ["charge", "spin"]}})
    for index, record in enumerate(FULL):
        found = items[index].hessian.numpy()
        if record.is_complete:
            np.testing.assert_allclose(found.ravel(), record.hessian().ravel(), rtol=1e-6, atol=1e-6)
        else:
            assert not np.isfinite(found).any()
