"""What `hip-ext data` finds in label files: counts, broken rules, duplicates, leakage, damage, and wrong units."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.collections import g2
from ase.data import chemical_symbols, reference_states
from ase.units import Bohr, Hartree, kcal, mol
from scipy.spatial.transform import Rotation
from typer.testing import CliRunner

pytest.importorskip("lmdb", reason="lmdb is not installed")

from hip_ext.cli import app
from hip_ext.data.check import check
from hip_ext.data.formats import read_records, write_records
from hip_ext.data.plausibility import require_plausible, suspicions
from hip_ext.data.record import HessianRecord
from hip_ext.data.store import HessianStore
from hip_ext.errors import DataError

AU = Hartree / Bohr**2


def springs(name: str, seed: int = 0) -> HessianRecord:
    """A molecule with stretched springs between bonded and weak ones between other atoms: an exact energy model."""
    atoms = molecule(name)
    rest = atoms.get_all_distances()
    atoms.rattle(0.08, seed=seed)
    n, x = len(atoms), atoms.positions
    hessian, forces, energy = np.zeros((n, 3, n, 3)), np.zeros((n, 3)), 0.0
    for i in range(n):
        for j in range(i):
            r = x[j] - x[i]
            d = float(np.linalg.norm(r))
            k, unit = (30.0 if rest[i, j] < 1.7 else 1.0), r / d
            energy += 0.5 * k * (d - rest[i, j]) ** 2
            pull = k * (d - rest[i, j])
            forces[i] += pull * unit
            forces[j] -= pull * unit
            block = k * np.outer(unit, unit) + pull / d * (np.eye(3) - np.outer(unit, unit))
            hessian[i, :, j] -= block
            hessian[j, :, i] -= block
            hessian[i, :, i] += block
            hessian[j, :, j] += block
    return HessianRecord(atoms.numbers, x, energy=energy, forces=forces, method="springs").with_hessian(
        hessian.reshape(3 * n, 3 * n)
    )


def emt(metal: str) -> HessianRecord:
    atoms = bulk(metal, cubic=True) * (2, 1, 1)
    atoms.rattle(0.05, seed=0)
    atoms.calc = EMT()
    n, rows = len(atoms), []
    for k in range(3 * n):
        forces = []
        for sign in (1, -1):
            atoms.positions[k // 3, k % 3] += sign * 1e-3
            forces.append(atoms.get_forces().ravel())
            atoms.positions[k // 3, k % 3] -= sign * 1e-3
        rows.append((forces[1] - forces[0]) / 2e-3)
    return HessianRecord.from_atoms(atoms).with_hessian(np.array(rows))


MOLECULES = [springs(name, seed) for seed, name in enumerate(["CH3CH2OH", "C6H6", "CH3CONH2", "C2H6", "CO2"])]
METALS = [emt(name) for name in ("Al", "Cu", "Ag", "Au", "Ni", "Pt")]


def units_of(record: HessianRecord) -> list[tuple[str, str]]:
    return [(one.quantity, one.likely) for one in suspicions(record)]


# Units


def test_nothing_is_suspected_of_what_is_right():
    for record in (*MOLECULES, *METALS):
        assert units_of(record) == []
        require_plausible(record)
    for name in g2.names:
        assert units_of(HessianRecord.from_atoms(g2[name])) == [], name
    for number, state in enumerate(reference_states):
        if state and state["symmetry"] not in ("atom", "diatom"):
            try:
                crystal = bulk(chemical_symbols[number])
            except (ValueError, NotImplementedError, RuntimeError):
                continue
            assert units_of(HessianRecord.from_atoms(crystal)) == [], chemical_symbols[number]
    for name, kind, a in (("NaCl", "rocksalt", 5.64), ("CsCl", "cesiumchloride", 4.12), ("LiF", "rocksalt", 4.03)):
        assert units_of(HessianRecord.from_atoms(bulk(name, kind, a=a))) == []
    lonely = Atoms("H2", positions=[(0, 0, 0), (0, 0, 8)])
    assert units_of(HessianRecord.from_atoms(lonely)) == []
    assert units_of(HessianRecord.from_atoms(Atoms("Ar2", positions=[(0, 0, 0), (0, 0, 3.8)]))) == []


@pytest.mark.parametrize("constant", [-0.2, -5.6])
def test_a_bond_beyond_its_inflection_is_no_other_unit(constant):
    stretched = replace(MOLECULES[-1], rows=MOLECULES[-1].rows * constant / 30, forces=None)
    assert units_of(stretched) == []


def test_horm_is_plausible(shared):
    records = list(read_records(shared / "data" / "horm_t1x_60.lmdb"))
    assert [units_of(record) for record in records] == [[]] * 60
    for record in records:
        assert units_of(replace(record, energy=record.energy / Hartree)) == [("energy", "Hartree")]
        assert units_of(replace(record, rows=record.rows / AU)) == [("hessian", "Hartree/Bohr²")]
        assert units_of(replace(record, positions=record.positions / Bohr))[0] == ("positions", "Bohr")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda r: replace(r, positions=r.positions / Bohr), ("positions", "Bohr")),
        (lambda r: replace(r, positions=r.positions * 0.1), ("positions", "nm")),
        (lambda r: replace(r, rows=r.rows / AU), ("hessian", "Hartree/Bohr²")),
        (lambda r: replace(r, rows=r.rows / (kcal / mol)), ("hessian", "kcal/mol/Å²")),
        (lambda r: replace(r, rows=-r.rows), ("hessian", "derivatives of the forces, with the other sign")),
        (lambda r: replace(r, forces=r.forces * Bohr / Hartree), ("forces", "Hartree/Bohr")),
        (lambda r: replace(r, forces=r.forces / (kcal / mol)), ("forces", "kcal/mol/Å")),
        (lambda r: replace(r, forces=-r.forces), ("forces", "gradients, not forces, in eV/Å")),
    ],
)
def test_the_likely_unit_is_named(change: Callable[[HessianRecord], HessianRecord], expected):
    for record in MOLECULES:
        assert units_of(change(record)) == [expected]
        factor = suspicions(change(record))[0].factor
        value, right = (
            getattr(one, {"hessian": "rows"}.get(expected[0], expected[0])) for one in (change(record), record)
        )
        np.testing.assert_allclose(value * factor, right, rtol=1e-5)
        with pytest.raises(DataError, match=f"the {expected[0]} looks? like"):
            require_plausible(change(record))


def test_atomic_units_throughout_are_named_one_by_one():
    record = MOLECULES[0]
    mixed = replace(record, rows=record.rows / AU, forces=record.forces * Bohr / Hartree)
    assert units_of(mixed) == [("hessian", "Hartree/Bohr²"), ("forces", "Hartree/Bohr")]
    total = replace(record, energy=-154.9)  # ethanol, all electrons, Hartree
    assert units_of(total) == [("energy", "Hartree")] and units_of(replace(total, energy=-154.9 * Hartree)) == []


def test_metals_in_atomic_units_are_named():
    for record in METALS:
        assert units_of(replace(record, rows=record.rows / AU)) == [("hessian", "Hartree/Bohr²")]
        scaled = replace(record, positions=record.positions / Bohr, cell=record.cell / Bohr)
        assert units_of(scaled)[0] == ("positions", "Bohr")


# Counts, rules, duplicates


def turned(record: HessianRecord, seed: int) -> HessianRecord:
    """The molecule somewhere else, turned, mirrored, and with its atoms in another order."""
    rng = np.random.default_rng(seed)
    order, turn = rng.permutation(len(record.numbers)), -Rotation.random(rng=seed).as_matrix()
    positions = (record.positions @ turn.T + rng.normal(size=3))[order]
    return HessianRecord(record.numbers[order], positions)


def test_counts_and_violations():
    n = len(MOLECULES[0].numbers)
    broken = MOLECULES[0].hessian().copy()
    broken[0, 0] += 0.5
    part = replace(MOLECULES[3], labelled=np.array([2]), rows=MOLECULES[3].rows[2:3])
    probe = np.ones((1, 3, 3))
    products = replace(MOLECULES[4], labelled=None, rows=None, probes=probe, products=0 * probe)
    records = [*MOLECULES[:3], MOLECULES[0].with_hessian(broken), part, products, DataError("record 6: damaged")]
    records.append(replace(MOLECULES[1], labelled=None, rows=None, forces=None, positions=2 * MOLECULES[1].positions))
    found = check(records)
    assert found.labels == {
        "energy": 7, "forces": 6, "complete Hessian": 4, "some rows": 1, "products": 1, "no Hessian": 1,
    }  # fmt: skip
    assert found.elements["O"] == 1 + 1 + 1 + 2 and found.methods == {"springs": 7}
    summary = found.summary()
    assert summary["records"] == 8 and summary["damaged"] == {6: "record 6: damaged"}
    assert summary["atoms"] == {"least": 3, "median": 9.0, "most": 12, "total": n + 12 + 9 + n + 8 + 3 + 12}
    worst = summary["violations"]
    assert worst["translation"]["index"] == 3 and worst["translation"]["largest"] == pytest.approx(0.5, abs=1e-12)
    assert worst["translation"]["records"] == 5 and worst["rotation"]["records"] == 4
    assert worst["rotation"]["index"] == 3 and worst["rotation"]["median"] < 1e-10 < worst["rotation"]["largest"]
    assert worst["asymmetry"]["largest"] < 1e-12
    assert summary["duplicates"] == {"count": 1, "pairs": [(0, 3)]}
    assert json.loads(json.dumps(summary))["implausible"].keys() == {"7"}


def test_duplicates_in_any_place_and_order():
    same = [turned(record, seed) for seed, record in enumerate(MOLECULES)]
    moved = [
        replace(r, positions=r.positions + np.random.default_rng(1).normal(0, 0.02, r.positions.shape)) for r in same
    ]
    charged = [replace(one, charge=1.0) for one in same]
    twice = [turned(MOLECULES[0], 9)]
    found = check([*MOLECULES, *moved, *charged, *same, *twice]).summary()["duplicates"]["pairs"]
    assert found == [(k, 15 + k) for k in range(1) for _ in range(1)] + [(0, 20)] + [(k, 15 + k) for k in range(1, 5)]
    crystal = METALS[0]
    shifted = replace(crystal, positions=crystal.positions[::-1] + 0.3)
    assert check([crystal, shifted, METALS[1]]).summary()["duplicates"]["pairs"] == [(0, 1)]


def test_leakage_between_two_sets():
    train, test = check(MOLECULES[:3]), check([turned(MOLECULES[1], 3), springs("CH3CH2OH", 7), MOLECULES[4]])
    leak = test.summary(train)["leakage"]
    assert leak["same_structure"] == 1 and leak["pairs"] == [(0, 1)]
    assert leak["formulas"] == ["C2H6O", "C6H6"] and leak["same_formula"] == 2


# The command line


def run(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["data", *map(str, arguments)])
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    write_records(tmp_path / "labels.lmdb", MOLECULES)
    return tmp_path / "labels.lmdb"


def test_check_prints_writes_and_compares(labels, tmp_path):
    code, out, _ = run("check", labels)
    assert code == 0 and "5 records, 0 damaged" in out and "C 13" in out and "translation" in out
    code, out, _ = run("check", labels, "--against", labels, "--json", "--out", tmp_path / "report")
    document = json.loads(out)
    assert (
        code == 0 and document["leakage"]["same_structure"] == 5 and document["violations"]["rotation"]["records"] == 5
    )
    assert json.loads((tmp_path / "report" / "check.json").read_text()) == document
    assert (tmp_path / "report" / "check.png").read_bytes()[:4] == b"\x89PNG"
    code, _, err = run("check", tmp_path / "nothing")
    assert code == 2 and err.count("\n") == 1 and "there is no such file" in err


def test_convert_there_and_back(labels, tmp_path):
    for first, second in (("a.xyz", "b.h5"), ("a.db", "b.lmdb")):
        assert run("convert", labels, tmp_path / first)[0] == 0
        code, out, _ = run("convert", tmp_path / first, tmp_path / second)
        assert code == 0 and out.startswith("5 records written")
        for found, expected in zip(read_records(tmp_path / second), MOLECULES, strict=True):
            np.testing.assert_allclose(found.hessian(), expected.hessian(), rtol=1e-14)
    assert run("info", tmp_path / "b.lmdb", "--json")[0] == 0
    assert json.loads(run("info", labels, "--json")[1])["complete"] == 5
    assert "orca" in run("formats")[1]
    code, _, err = run("convert", labels, labels)
    assert code == 2 and "choose another name" in err


def test_convert_refuses_other_units_until_they_are_stated(tmp_path):
    write_records(tmp_path / "au.xyz", [replace(record, rows=record.rows / AU) for record in MOLECULES])
    code, _, err = run("convert", tmp_path / "au.xyz", tmp_path / "out.lmdb")
    assert code == 2 and err.count("\n") == 1 and "5 of 5 records" in err and "Hartree/Bohr²" in err
    assert not (tmp_path / "out.lmdb").exists()
    assert run("convert", tmp_path / "au.xyz", tmp_path / "same.lmdb", "--trust-units")[0] == 0
    code, out, _ = run("check", tmp_path / "au.xyz", "--json")
    assert code == 1 and len(json.loads(out)["implausible"]) == 5
    assert run("check", tmp_path / "au.xyz", "--units", "au")[0] == 0
    assert run("convert", tmp_path / "au.xyz", tmp_path / "out.lmdb", "--units", "Hartree/Bohr²")[0] == 0
    for found, expected in zip(HessianStore(tmp_path / "out.lmdb"), MOLECULES, strict=True):
        np.testing.assert_allclose(found.hessian(), expected.hessian(), rtol=1e-12)


def test_a_damaged_record_is_named_and_left_out_on_demand(labels, tmp_path):
    data = bytearray(labels.read_bytes())
    place = data.index(b'"method": "springs"')
    data[place + 2] ^= 1
    labels.write_bytes(bytes(data))
    code, out, _ = run("check", labels)
    assert code == 1 and "5 records, 1 damaged" in out and "the checksum" in out
    code, _, err = run("convert", labels, tmp_path / "a.xyz")
    assert code == 2 and "--skip-damaged" in err and not (tmp_path / "a.xyz").exists()
    code, out, _ = run("convert", labels, tmp_path / "a.xyz", "--skip-damaged")
    assert code == 0 and out.startswith("4 records written") and "1 damaged left out" in out


def test_the_others_are_converted_or_it_is_refused(tmp_path):
    path = tmp_path / "a.xyz"
    write_records(path, MOLECULES)
    whole = path.read_text()
    path.write_text(
        whole.replace('REF_hessian="', 'REF_hessian="nan', 2).replace('REF_hessian="nan', 'REF_hessian="', 1)
    )
    code, out, _ = run("convert", path, tmp_path / "b.lmdb", "--skip-damaged")
    assert code == 0 and out.startswith("4 records written") and "1 damaged left out" in out
    path.write_text(whole.replace("\nN ", "\nN x ", 1))
    code, out, _ = run("check", path)
    assert code == 1 and "3 records, 1 damaged" in out and "nothing after it could be read" in out.replace("\n", " ")
    code, _, err = run("convert", path, tmp_path / "c.lmdb", "--skip-damaged")
    assert code == 2 and err.count("\n") == 1 and "nothing was written" in err and not (tmp_path / "c.lmdb").exists()
