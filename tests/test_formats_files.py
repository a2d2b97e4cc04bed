"""Other programs' files: read with the right units, order and signs, and written so that their own readers agree."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.data import atomic_masses, chemical_symbols
from ase.db import connect
from ase.units import Bohr, Hartree

pytest.importorskip("h5py", reason="h5py is not installed")
pytest.importorskip("lmdb", reason="lmdb is not installed")
import h5py

from hip_ext.data.formats import FORMATS, find_format, read_each, read_records, write_records
from hip_ext.data.formats.table import unit_factor
from hip_ext.data.record import HessianRecord
from hip_ext.errors import ConfigError, CutShortError, DataError, HipExtError, MissingDependencyError
from hip_ext.vibrations import analyse

AU = Hartree / Bohr**2


def labelled(name: str, seed: int = 0, **changes) -> HessianRecord:
    rng = np.random.default_rng(seed)
    atoms = molecule(name)
    n = len(atoms)
    square = rng.normal(size=(3 * n, 3 * n))
    plain = HessianRecord(
        numbers=atoms.numbers,
        positions=atoms.positions,
        energy=-1000.0 - seed,
        forces=rng.normal(size=(n, 3)),
        method="PBE0/def2-SVP",
        origin=f"{name}.out",
        info={"smiles": name, "step": seed},
    )
    return replace(plain.with_hessian(square + square.T), **changes)


RECORDS = [
    labelled("H2O"),
    labelled("CH4", 1, energy=None, forces=None),
    labelled("CH3", 2, unpaired=1.0),
    labelled("NH3", 3, labelled=None, rows=None),
    labelled("OH", 4, charge=-1.0),
]
CRYSTAL = HessianRecord.from_atoms(bulk("NaCl", "rocksalt", a=5.64), method="PBE").with_hessian(np.eye(6))


def assert_same(found: HessianRecord, expected: HessianRecord, decimals: int = 12, texts: bool = True) -> None:
    np.testing.assert_array_equal(found.numbers, expected.numbers)
    np.testing.assert_allclose(found.positions, expected.positions, rtol=0, atol=10.0**-decimals)
    np.testing.assert_allclose(found.cell, expected.cell, rtol=0, atol=1e-8)
    assert found.pbc.tolist() == expected.pbc.tolist()
    assert (found.charge, found.unpaired, found.is_complete) == (
        expected.charge,
        expected.unpaired,
        expected.is_complete,
    )
    assert (found.energy is None, found.forces is None) == (expected.energy is None, expected.forces is None)
    if expected.energy is not None:
        assert found.energy == pytest.approx(expected.energy, rel=1e-14)
        np.testing.assert_allclose(found.forces, expected.forces, rtol=0, atol=10.0**-decimals)
    if expected.is_complete:
        np.testing.assert_allclose(found.hessian(), expected.hessian(), rtol=1e-14, atol=1e-14)
    if texts:
        assert (found.method, found.origin, dict(found.info)) == (expected.method, expected.origin, dict(expected.info))


@pytest.mark.parametrize(
    ("name", "decimals", "texts"),
    [("a.lmdb", 15, True), ("a.xyz", 7, True), ("a.db", 15, True), ("a.h5", 15, False)],
)
def test_round_trips(tmp_path, name, decimals, texts):
    path = tmp_path / name
    records = [*RECORDS, replace(CRYSTAL, origin="x")]
    assert write_records(path, records) == len(records)
    assert find_format(path).name == {".lmdb": "store", ".xyz": "extxyz", ".db": "ase_db", ".h5": "mace"}[path.suffix]
    found = list(read_records(path))
    assert len(found) == len(records)
    for one, other in zip(found, records, strict=True):
        assert_same(one, other, decimals, texts)
    left = {entry.name for entry in tmp_path.iterdir()} - {name, f"{name}-lock"}
    assert left == set()


def test_aselmdb_round_trip_and_the_error_without_its_backend(tmp_path):
    path = tmp_path / "a.aselmdb"
    try:
        import ase_db_backends  # noqa: F401
    except ImportError:
        with pytest.raises(MissingDependencyError, match=r"hip-ext\[fairchem\]"):
            write_records(path, RECORDS)
        assert list(tmp_path.iterdir()) == []
        return
    write_records(path, RECORDS)
    for one, other in zip(read_records(path), RECORDS, strict=True):
        assert_same(one, other)
    for one, other in zip(read_records(tmp_path), RECORDS, strict=True):
        assert_same(one, other)


def test_a_failed_write_leaves_what_was_there(tmp_path):
    def failing():
        yield RECORDS[0]
        raise DataError("halfway")

    for suffix in (".lmdb", ".xyz", ".db", ".h5"):
        path = tmp_path / f"a{suffix}"
        path.write_text("precious")
        with pytest.raises(DataError, match="halfway"):
            write_records(path, failing())
        with pytest.raises(DataError, match="no records"):
            write_records(path, [])
        assert path.read_text() == "precious"
    assert len(list(tmp_path.glob("*"))) == 4


@pytest.mark.parametrize("where", ["info", "arrays"])
@pytest.mark.parametrize("key", ["hessian", "REF_hessian"])
@pytest.mark.parametrize("shape", ["flat", "square", "blocks"])
def test_hessians_of_any_shape_in_extxyz_and_databases(tmp_path, where, key, shape):
    record, n = RECORDS[0], 3
    square = record.hessian()
    atoms = record.atoms()
    if where == "arrays":
        atoms.arrays[key] = square.reshape(n, 9 * n)
    else:
        atoms.info[key] = {"flat": square.ravel(), "square": square, "blocks": square.reshape(n, 3, n, 3)}[shape]
    ase.io.write(tmp_path / "a.xyz", atoms, format="extxyz")
    atol = 1e-8 if where == "arrays" else 1e-14
    (found,) = read_records(tmp_path / "a.xyz")
    np.testing.assert_allclose(found.hessian(), square, rtol=0, atol=atol)
    (scaled,) = read_records(tmp_path / "a.xyz", units="Hartree/Bohr^2")
    np.testing.assert_allclose(scaled.hessian(), square * 97.17362, rtol=1e-6, atol=atol * 100)
    assert found.info.keys() <= {"smiles", "step", "asymmetry"}
    if where == "info":
        with connect(tmp_path / "a.db") as database:
            database.write(record.atoms(), data={key: atoms.info[key]})
        (found,) = read_records(tmp_path / "a.db")
        np.testing.assert_array_equal(found.hessian(), square)


@pytest.mark.parametrize(
    ("spelling", "factor"),
    [
        *(
            (text, 1.0)
            for text in ("eV/Å²", "eV/A^2", "ev/a2", "EV/Å**2", "eV / A\u030a^2", "eV/\u212b²", "eV/Angstrom^2")
        ),
        *(
            (text, AU)
            for text in ("Hartree/Bohr²", "hartree/bohr^2", "Ha/Bohr²", "Eh/a0^2", "HARTREE/BOHR**2", "au", "a.u.")
        ),
    ],
)
def test_usual_spellings_of_units(spelling, factor):
    assert unit_factor(spelling) == factor


def test_one_atom_in_extxyz(tmp_path):
    atoms = molecule("H")
    atoms.info["hessian"] = np.arange(9.0).reshape(3, 3) + np.arange(9.0).reshape(3, 3).T
    ase.io.write(tmp_path / "a.xyz", atoms, format="extxyz")
    (found,) = read_records(tmp_path / "a.xyz")
    np.testing.assert_array_equal(found.hessian(), atoms.info["hessian"])


def test_units_and_formats_that_make_no_sense(tmp_path):
    write_records(tmp_path / "a.lmdb", RECORDS[:1])
    write_records(tmp_path / "a.xyz", RECORDS[:1])
    for work, words in (
        (lambda: list(read_records(tmp_path / "a.lmdb", units="Hartree/Bohr²")), "has its own"),
        (
            lambda: list(read_records(tmp_path / "a.xyz", units="Rydberg")),
            r"unknown units 'Rydberg' .*eV/A\^2.*Ha/Bohr\^2",
        ),
        (lambda: list(read_records(tmp_path / "a.xyz", "extxys")), "did you mean 'extxyz'"),
        (lambda: write_records(tmp_path / "a.out", RECORDS), "no format is known by the extension '.out'"),
        (lambda: write_records(tmp_path / "a.fchk", RECORDS, "gaussian"), "gaussian is only read"),
    ):
        with pytest.raises(ConfigError, match=words):
            work()
    with pytest.raises(DataError, match="there is no such file"):
        find_format(tmp_path / "nothing")
    with pytest.raises(DataError, match="a folder without labels"):
        find_format(tmp_path)


@pytest.mark.parametrize("suffix", ["lmdb", "aselmdb", "h5", "chk", "fchk", "hess", "xyz", "db"])
@pytest.mark.parametrize("content", [b"", b"rubbish\n" * 30, b"\x89HDF\r\n\x1a\n" + bytes(500), bytes(4096)])
def test_rubbish_is_one_line(tmp_path, suffix, content):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    with pytest.raises(HipExtError) as caught:
        list(read_records(path))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("suffix", ["lmdb", "xyz", "db", "h5"])
def test_truncated_files_are_one_line(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    write_records(path, RECORDS)
    size = path.stat().st_size
    for share in (0.3, 0.6, 0.9):
        (tmp_path / f"b.{suffix}").write_bytes(path.read_bytes()[: int(share * size)])
        try:
            found = list(read_each(tmp_path / f"b.{suffix}"))
        except DataError as error:
            found = [error]
        assert any(isinstance(one, DataError) for one in found) or suffix == "xyz"
        assert all(len(str(one).splitlines()) == 1 for one in found if isinstance(one, DataError))


def test_a_bad_structure_in_a_file_is_named(tmp_path):
    frames = [record.atoms() for record in RECORDS[:3]]
    frames[1].info["hessian"] = np.zeros(17)
    ase.io.write(tmp_path / "a.xyz", frames, format="extxyz")
    with pytest.raises(DataError, match=r"a\.xyz, structure 1: a Hessian of 5 atoms has 225 entries, found 17"):
        list(read_records(tmp_path / "a.xyz"))
    frames[1].info["hessian"] = "unknown"
    ase.io.write(tmp_path / "a.xyz", frames, format="extxyz")
    with pytest.raises(DataError, match="structure 1: hessian is no array of numbers"):
        list(read_records(tmp_path / "a.xyz"))


def _spoil(path: Path) -> None:
    """Puts a NaN into the Hessian of the second structure, whose label is the only one with 225 entries."""
    if path.suffix == ".h5":
        with h5py.File(path, "r+") as file:
            file["config_batch_0/config_1/properties/hessian"][7] = np.nan
    elif path.suffix == ".db":
        with connect(path) as database:
            database.update(2, data={"hessian": np.full(225, np.nan)})
    else:
        frames = ase.io.read(path, index=":")
        frames[1].info["REF_hessian"][7] = np.nan
        ase.io.write(path, frames, format="extxyz")


@pytest.mark.parametrize("suffix", ["xyz", "db", "h5"])
def test_a_bad_record_in_the_middle_leaves_the_others(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    write_records(path, RECORDS)
    _spoil(path)
    found = list(read_each(path))
    assert [place for place, one in enumerate(found) if isinstance(one, DataError)] == [1] and len(found) == 5
    what = "row" if suffix == "db" else "structure"
    assert f"a.{suffix}, {what} 1: " in str(found[1]) and "not finite" in str(found[1])
    assert_same(found[4], RECORDS[4], 7, texts=False)
    with pytest.raises(DataError, match=f"{what} 1: .* not finite"):
        list(read_records(path))


def test_a_bad_first_record_leaves_the_others(tmp_path):
    write_records(tmp_path / "a.h5", RECORDS)
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        del file["config_batch_0/config_0/positions"]
    assert [isinstance(one, DataError) for one in read_each(tmp_path / "a.h5")] == [True, *[False] * 4]


def test_a_row_that_ase_cannot_decode_leaves_the_others(tmp_path):
    write_records(tmp_path / "a.db", RECORDS)
    with closing(sqlite3.connect(tmp_path / "a.db")) as database, database:
        database.execute("UPDATE systems SET positions = x'0011' WHERE id = 2")
        database.execute("UPDATE systems SET numbers = x'00' WHERE id = 5")
    assert [isinstance(one, DataError) for one in read_each(tmp_path / "a.db")] == [False, True, False, False, True]


def test_a_parser_that_dies_says_that_the_rest_is_lost(tmp_path):
    path = tmp_path / "a.xyz"
    write_records(path, RECORDS)
    path.write_text(path.read_text().replace("\nC ", "\nC x ", 1))
    *before, last = read_each(path)
    assert len(before) == 1 and isinstance(last, CutShortError)
    assert "after 1 structures" in str(last) and str(last).endswith(", and nothing after it could be read")


def test_mace_reads_what_is_written(tmp_path):
    pytest.importorskip("mace", reason="MACE is not installed")
    from hip_ext.backbones.mace_models import import_mace

    dataset, tools = import_mace("mace.data.hdf5_dataset"), import_mace("mace.tools")
    records = [record for record in RECORDS if record.is_complete]
    write_records(tmp_path / "a.h5", records)
    table = tools.AtomicNumberTable([1, 6, 7, 8])
    items = dataset.HDF5Dataset(str(tmp_path / "a.h5"), r_max=4.0, z_table=table)
    assert len(items) == len(records)
    for item, record in zip((items[k] for k in range(len(items))), records, strict=True):
        np.testing.assert_allclose(item.positions.numpy(), record.positions, rtol=0, atol=1e-6)
        np.testing.assert_allclose(item.hessian.numpy().ravel(), record.hessian().ravel(), rtol=1e-6, atol=1e-6)
        assert float(item.energy_weight) == float(record.energy is not None)
        assert (float(item.total_charge), float(item.total_spin)) == (record.charge, record.unpaired + 1)
        if record.energy is not None:
            assert float(item.energy) == pytest.approx(record.energy)
            np.testing.assert_allclose(item.forces.numpy(), record.forces, rtol=0, atol=1e-6)


def test_mace_reads_extended_xyz(tmp_path):
    pytest.importorskip("mace", reason="MACE is not installed")
    from hip_ext.backbones.mace_models import import_mace

    data = import_mace("mace.data")
    records = [record for record in RECORDS if record.is_complete]
    write_records(tmp_path / "a.xyz", records)
    names = {"energy": "REF_energy", "hessian": "REF_hessian", "stress": "REF_stress", "head": "head"}
    keys = data.KeySpecification().update(names, {"forces": "REF_forces"})
    _, found = data.load_from_xyz(str(tmp_path / "a.xyz"), keys, head_name="Default")
    for one, record in zip(found, records, strict=True):
        np.testing.assert_allclose(one.positions, record.positions, rtol=0, atol=1e-7)
        np.testing.assert_allclose(one.properties["hessian"].ravel(), record.hessian().ravel(), rtol=1e-12)
        assert one.property_weights["energy"] == float(record.energy is not None)
        if record.energy is not None:
            assert one.properties["energy"] == pytest.approx(record.energy)
            np.testing.assert_allclose(one.properties["forces"], record.forces, rtol=0, atol=1e-7)


def test_what_mace_writes_is_read(tmp_path):
    pytest.importorskip("mace", reason="MACE is not installed")
    from hip_ext.backbones.mace_models import import_mace

    data = import_mace("mace.data.utils")
    full, bare = RECORDS[0], RECORDS[3]
    configurations = [
        data.Configuration(
            r.numbers,
            r.positions,
            {"energy": r.energy, "forces": r.forces, "stress": None, "hessian": r.hessian().ravel() if h else None},
            {},
            cell=np.zeros((3, 3)),
            pbc=(False, False, False),
        )
        for r, h in ((full, True), (bare, False))
    ]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data.save_configurations_as_HDF5(configurations, None, file)
    found = list(read_records(tmp_path / "a.h5"))
    assert_same(found[0], full, texts=False)
    assert_same(found[1], bare, texts=False)


@pytest.fixture(scope="module")
def water(tmp_path_factory) -> tuple[Path, HessianRecord, np.ndarray]:
    """A folder with PySCF's Hessian of a water cation, bent and stretched; the record; PySCF's frequencies in cm⁻¹."""
    pyscf = pytest.importorskip("pyscf", reason="PySCF is not installed")
    from pyscf import lib
    from pyscf.hessian import thermo

    folder = tmp_path_factory.mktemp("water")
    geometry = "O 0 0 0.12; H@2 0 0.80 -0.48; H 0.02 -0.75 -0.51"
    mol = pyscf.gto.M(atom=geometry, basis="sto-3g", charge=1, spin=1, verbose=0)
    field = pyscf.scf.UHF(mol).set(chkfile=str(folder / "water.chk"), conv_tol=1e-12).run()
    hessian, gradient = field.Hessian().kernel(), field.Gradients().kernel()
    lib.chkfile.dump(field.chkfile, "hessian", hessian)
    lib.chkfile.dump(field.chkfile, "gradient", gradient)
    frequencies = thermo.harmonic_analysis(mol, hessian, imaginary_freq=False)["freq_wavenumber"]
    record = HessianRecord(
        numbers=np.array([8, 1, 1]),
        positions=mol.atom_coords() * Bohr,
        charge=1.0,
        unpaired=1.0,
        energy=field.e_tot * Hartree,
        forces=-gradient * Hartree / Bohr,
    ).with_hessian(hessian.transpose(0, 2, 1, 3).reshape(9, 9) * AU)
    _write_fchk(folder / "water.fchk", record)
    _write_hess(folder / "water.hess", record)
    return folder, record, frequencies


def _write_fchk(path: Path, record: HessianRecord) -> None:
    """A formatted checkpoint file with the sections that Gaussian writes first, and gradient and force constants."""
    n = len(record.numbers)
    triangle = (record.hessian() / AU)[np.tril_indices(3 * n)]

    def section(name: str, kind: str, values: np.ndarray) -> str:
        width, each = ("16.8E", 5) if kind == "R" else ("12d", 6)
        head = f"{name:<40}   {kind}   N={len(values):12d}\n"
        lines = ["".join(f"{x:{width}}" for x in values[k : k + each]) for k in range(0, len(values), each)]
        return head + "\n".join(lines) + "\n"

    def scalar(name: str, kind: str, value: float) -> str:
        return f"{name:<40}   {kind}     " + (f"{value:22.15E}\n" if kind == "R" else f"{value:12d}\n")

    assert record.energy is not None and record.forces is not None
    path.write_text(
        f"{'water cation':<72}\nFreq      {'UHF':<30}{'STO-3G':<30}\n"
        + scalar("Number of atoms", "I", n)
        + scalar("Charge", "I", round(record.charge))
        + scalar("Multiplicity", "I", round(record.unpaired) + 1)
        + scalar("Number of electrons", "I", 9)
        + scalar("Number of alpha electrons", "I", 5)
        + scalar("Number of beta electrons", "I", 4)
        + section("Atomic numbers", "I", record.numbers)
        + section("Current cartesian coordinates", "R", (record.positions / Bohr).ravel())
        + scalar("SCF Energy", "R", record.energy / Hartree)
        + section("Cartesian Gradient", "R", (-record.forces * Bohr / Hartree).ravel())
        + section("Cartesian Force Constants", "R", triangle)
    )


def _write_hess(path: Path, record: HessianRecord) -> None:
    """A .hess file as ORCA writes it: the matrix in groups of five columns."""
    hessian, size = record.hessian() / AU, 3 * len(record.numbers)
    text = "\n$orca_hessian_file\n\n$act_atom\n  0\n\n$act_energy\n        0.000000\n\n$hessian\n" + f"{size}\n"
    for first in range(0, size, 5):
        columns = range(first, min(first + 5, size))
        text += " " * 8 + "".join(f"{c:19d}" for c in columns) + "\n"
        text += "".join(f"{r:5d}  " + "".join(f"{hessian[r, c]:19.10E}" for c in columns) + "\n" for r in range(size))
    text += f"\n$vibrational_frequencies\n{size}\n" + "".join(f"{k:5d}  {0.0:15.6f}\n" for k in range(size))
    text += f"\n#\n# The atoms: label  mass x y z (in bohrs)\n#\n$atoms\n{len(record.numbers)}\n"
    for z, place in zip(record.numbers, record.positions / Bohr, strict=True):
        text += f" {chemical_symbols[z]:<3}{atomic_masses[z]:12.5f}" + "".join(f"{x:19.12f}" for x in place) + "\n"
    path.write_text(text + "\n$end\n")


@pytest.mark.parametrize(("name", "digits"), [("water.chk", 1e-12), ("water.fchk", 2e-6), ("water.hess", 1e-7)])
def test_quantum_chemistry_files_give_the_frequencies_of_the_program(water, name, digits):
    folder, expected, frequencies = water
    assert find_format(folder / name).name == {"chk": "pyscf", "fchk": "gaussian", "hess": "orca"}[name.split(".")[1]]
    (record,) = read_records(folder / name)
    np.testing.assert_allclose(record.hessian(), expected.hessian(), rtol=0, atol=digits * 100)
    np.testing.assert_allclose(record.positions, expected.positions, rtol=0, atol=1e-6)
    assert record.numbers.tolist() == [8, 1, 1] and record.origin == name
    if name != "water.hess":
        assert (record.charge, record.unpaired) == (1.0, 1.0)
        assert record.energy == pytest.approx(expected.energy, rel=1e-7)
        np.testing.assert_allclose(record.forces, expected.forces, rtol=0, atol=1e-5)
    assert record.method == ("UHF/STO-3G" if name == "water.fchk" else "")
    vibrations = analyse(record.atoms(), record.hessian(), masses=[15.999, 1.008, 1.008])
    assert len(vibrations.frequencies) == len(frequencies) == 3
    np.testing.assert_allclose(vibrations.frequencies, frequencies, rtol=2e-4)


@pytest.mark.parametrize("name", ["water.fchk", "water.hess"])
def test_files_without_a_hessian_or_cut_short_are_refused(water, tmp_path, name):
    text = (water[0] / name).read_text()
    for end in (text.index("SCF Energy" if "fchk" in name else "$vibrational"), int(0.6 * len(text)), len(text) // 3):
        (tmp_path / name).write_text(text[:end])
        with pytest.raises(DataError, match=name):
            list(read_records(tmp_path / name))


def test_a_checkpoint_without_a_hessian_says_how_to_save_one(water, tmp_path):
    with h5py.File(water[0] / "water.chk") as source, h5py.File(tmp_path / "bare.chk", "w") as target:
        source.copy("mol", target)
    with pytest.raises(DataError, match=r"bare\.chk has no Hessian: save it with pyscf\.lib\.chkfile\.dump"):
        list(read_records(tmp_path / "bare.chk"))
    with h5py.File(tmp_path / "bare.chk", "a") as target:
        target["hessian"] = np.zeros((2, 2, 3, 3))
    with pytest.raises(DataError, match=r"shape \(2, 2, 3, 3\), expected \(3, 3, 3, 3\)"):
        list(read_records(tmp_path / "bare.chk"))


def test_every_format_of_the_table_has_what_it_promises():
    for name, entry in FORMATS.items():
        assert entry.name == name and callable(entry.module.matches) and callable(entry.module.read)
        assert hasattr(entry.module, "write") == bool(entry.suffixes)
