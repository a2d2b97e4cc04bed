"""Gaussian's External and ORCA's ExtOpt: the scripts are called as these programs call them, their answers read anew.

Neither program can be installed here. What is checked: the documented formats, by readers of this file that go by
columns, by this package's readers of the programs' own files, and by ASE's; and a search for a minimum that knows
nothing but these files.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule
from ase.io.orca import read_orca_engrad
from integration_cases import BOHR, HARTREE, exact, shipped_calculator, toy_calculator

from hip_ext.data.formats import gaussian as checkpoint_file
from hip_ext.data.formats import orca as hessian_file
from hip_ext.errors import ConfigError, DataError, HipExtError
from hip_ext.integrations import gaussian, orca
from hip_ext.integrations.atomic_units import AtomicUnits, structure
from hip_ext.integrations.server import ask, serve

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def units() -> AtomicUnits:
    calculator = toy_calculator()
    return AtomicUnits(calculator, exact(calculator))


def run(*arguments: object, cwd: Path, code: str = "from hip_ext.cli import main; main()"):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


# Gaussian


def gaussian_input(numbers, bohr, derivatives: int, charge: int = 0, multiplicity: int = 1) -> str:
    """As its manual prints the format: 4I10, then I10,4F20.12 for each atom; newer releases add the type."""
    lines = [f"{len(numbers):10d}{derivatives:10d}{charge:10d}{multiplicity:10d}"]
    for z, place in zip(numbers, np.reshape(bohr, (-1, 3)), strict=True):
        lines.append(f"{z:10d}" + "".join(f"{x:20.12f}" for x in (*place, 0.0)) + f"  {'X-type'}")
    return "\n".join([*lines, ""])


def fields(text: str) -> list[list[float]]:
    """The numbers of every line, by columns of 20."""
    lines = text.splitlines()
    assert all(len(line) % 20 == 0 for line in lines)
    cells = [[line[k : k + 20] for k in range(0, len(line), 20)] for line in lines]
    assert all("D" in cell and len(cell.split("D")[1]) == 3 for line in cells for cell in line)
    return [[float(cell.replace("D", "E")) for cell in line] for line in cells]


def gaussian_output(text: str, n: int, derivatives: int):
    """Energy, dipole, gradient and force constants, from the lines where Gaussian expects them."""
    lines = fields(text)
    assert len(lines[0]) == 4
    energy, dipole, rest = lines[0][0], lines[0][1:], lines[1:]
    if derivatives == 0:
        assert not rest
        return energy, dipole, None, None
    assert all(len(line) == 3 for line in rest)
    gradient, rest = np.array(rest[:n]), rest[n:]
    if derivatives == 1:
        assert not rest
        return energy, dipole, gradient.ravel(), None
    rest = rest[2 + 3 * n :]  # polarizability, dipole derivatives
    triangle = np.concatenate(rest)
    assert len(triangle) == 3 * n * (3 * n + 1) // 2
    hessian = np.zeros((3 * n, 3 * n))
    hessian[np.tril_indices(3 * n)] = triangle
    return energy, dipole, gradient.ravel(), np.tril(hessian) + np.tril(hessian, -1).T


@pytest.mark.parametrize("derivatives", [0, 1, 2])
def test_gaussian_reads_what_it_asked_for(units, derivatives, tmp_path):
    atoms = molecule("CH3OH")
    asked, answered = tmp_path / "Gau-1.EIn", tmp_path / "Gau-1.EOu"
    asked.write_text(gaussian_input(atoms.numbers, atoms.positions / BOHR, derivatives), encoding="ascii")
    gaussian.answer(units, asked, answered)
    found = gaussian_output(answered.read_text(encoding="ascii"), 6, derivatives)
    assert found[0] * HARTREE == pytest.approx(units.calculator.get_potential_energy(atoms), rel=1e-7)
    if derivatives > 0:
        forces = units.calculator.get_forces(atoms).ravel()
        np.testing.assert_allclose(found[2] * HARTREE / BOHR, -forces, rtol=1e-6, atol=1e-9)
    if derivatives > 1:
        hessian = units.calculator.get_hessian(atoms, method="autograd")
        np.testing.assert_allclose(found[3] * HARTREE / BOHR**2, hessian, rtol=1e-6, atol=1e-7)


def test_force_constants_are_in_the_order_of_gaussians_checkpoint_files(units, tmp_path):
    """Printed into one of them, they are read by this package as what they were."""
    atoms = molecule("H2O")
    text = gaussian.format_answer(0.0, np.zeros(3), np.zeros(9), units.hessian(atoms))
    triangle = [x for line in fields(text)[1 + 3 + 2 + 9 :] for x in line]

    def section(name: str, kind: str, values: list[float]) -> str:
        form, columns = ("{:12d}", 6) if kind == "I" else ("{:16.8E}", 5)
        cells = [form.format(int(x) if kind == "I" else x) for x in values]
        rows = ["".join(cells[k : k + columns]) for k in range(0, len(cells), columns)]
        return "\n".join([f"{name:40s}   {kind}   N={len(values):12d}", *rows])

    parts = [
        "title",
        "Freq      External            none",
        f"{'Charge':40s}   I{0:17d}",
        f"{'Multiplicity':40s}   I{1:17d}",
        section("Atomic numbers", "I", list(atoms.numbers)),
        section("Current cartesian coordinates", "R", list(atoms.positions.ravel() / BOHR)),
        section("Cartesian Force Constants", "R", triangle),
    ]
    path = tmp_path / "job.fchk"
    path.write_text("\n".join([*parts, ""]), encoding="ascii")
    (record,) = checkpoint_file.read(path)
    hessian = units.calculator.get_hessian(atoms, method="autograd")
    np.testing.assert_allclose(record.hessian(), hessian, rtol=1e-6, atol=1e-5)


def test_a_search_that_knows_only_gaussians_files_finds_the_minimum(units, tmp_path):
    """Newton's steps with gradient and force constants from the files: units, signs and order together."""
    atoms = molecule("H2O")
    place = atoms.positions.ravel() / BOHR
    asked, answered = tmp_path / "in", tmp_path / "out"
    for _ in range(30):
        asked.write_text(gaussian_input(atoms.numbers, place, 2), encoding="ascii")
        gaussian.answer(units, asked, answered)
        _, _, gradient, hessian = gaussian_output(answered.read_text(encoding="ascii"), 3, 2)
        if np.abs(gradient).max() < 1e-8:
            break
        values, vectors = np.linalg.eigh(hessian)
        along = vectors.T @ gradient
        step = -vectors @ np.where(np.abs(values) > 1e-3, along / np.maximum(np.abs(values), 1e-3), 0)
        place = place + step * min(1, 0.3 / np.abs(step).max())
    found = structure(atoms.numbers, place)
    assert np.abs(units.calculator.get_forces(found)).max() < 1e-5


def test_the_script_as_gaussian_calls_it(tmp_path):
    """Options, then the six arguments; the two last files are named but not there."""
    calculator = shipped_calculator()
    atoms = molecule("CH3OH")
    (tmp_path / "Gau.EIn").write_text(gaussian_input(atoms.numbers, atoms.positions / BOHR, 2), encoding="ascii")
    names = [f"Gau.{end}" for end in ("EIn", "EOu", "EMs", "EFC", "EUF")]
    done = run("external", "gaussian", "--model", "hip-so3lr-organic", "R", *names, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    energy, dipole, gradient, hessian = gaussian_output((tmp_path / "Gau.EOu").read_text(encoding="ascii"), 6, 2)
    assert energy * HARTREE == pytest.approx(calculator.get_potential_energy(atoms), rel=1e-6)
    np.testing.assert_allclose(gradient * HARTREE / BOHR, -calculator.get_forces(atoms).ravel(), atol=1e-3)
    np.testing.assert_allclose(hessian * HARTREE / BOHR**2, calculator.get_hessian(atoms), atol=1e-2)
    np.testing.assert_allclose(np.array(dipole) * BOHR, calculator.results["dipole"], atol=1e-3)
    assert 1.0 < np.linalg.norm(dipole) * BOHR / 0.2081943 < 2.5  # debye; experiment: 1.7
    assert not (tmp_path / "Gau.EMs").exists()


def test_errors_are_for_gaussian_to_print(tmp_path):
    shipped_calculator()
    for text, words in ((gaussian_input([118, 1], np.eye(2, 3) * 3, 1), "does not know Og"), ("", "is not an input")):
        (tmp_path / "in").write_text(text, encoding="ascii")
        done = run("external", "gaussian", "R", "in", "out", "messages", "fchk", "matel", cwd=tmp_path)
        assert done.returncode == 2
        assert words in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert words in (tmp_path / "messages").read_text(encoding="utf-8")
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a b c d\n", "invalid literal"),
        ("1 1 0\n", "four whole numbers"),
        (gaussian_input([1, 8], np.zeros(6), 1).rsplit("\n", 2)[0], "before the last of 2 atoms"),
        (gaussian_input([1], np.zeros(3), 3), "order 0, 1 or 2"),
        (gaussian_input([0], np.zeros(3), 1), "dummy"),
    ],
)
def test_what_gaussian_does_not_write_is_refused(text, words):
    with pytest.raises(ValueError, match=words):
        gaussian.read_input(text)


def test_charge_and_small_numbers():
    atoms, derivatives = gaussian.read_input(gaussian_input([8, 1], [0, 0, 0, 0, 0, 1.8], 1, -1, 1))
    assert (atoms.info["charge"], atoms.info["multiplicity"], derivatives) == (-1, 1, 1)
    assert atoms.get_distance(0, 1) == pytest.approx(1.8 * BOHR, rel=1e-8)
    assert fields(gaussian.format_answer(-1e-120, [1e-99, -2e-8, 3e7]))[0] == [0, 0, -2e-8, 3e7]


# ORCA


def orca_input(folder: Path, atoms, gradient: int = 1, charge: int = 0, multiplicity: int = 1, more: str = "") -> Path:
    """As ORCA 6 leaves it; the structure beside it, and a folder of ORCA's as the working directory."""
    rows = [f"  {s}  {x:.10f} {y:.10f} {z:.10f}" for s, (x, y, z) in zip(atoms.symbols, atoms.positions, strict=True)]
    (folder / "job_EXT.xyz").write_text("\n".join([str(len(rows)), "Coordinates from ORCA-job job", *rows, ""]))
    path = folder / "job_EXT.extinp.tmp"
    path.write_text(
        "job_EXT.xyz # xyz filename: string, ending in '.xyz'\n"
        f"{charge} # charge: integer\n{multiplicity} # multiplicity: positive integer\n"
        f"4 # NCores: positive integer\n{gradient} # do gradient: 0 or 1\n{more}"
    )
    return path


def test_orca_reads_what_it_asked_for(units, tmp_path):
    atoms = molecule("CH3OH")
    orca.answer(units, orca_input(tmp_path, atoms), tmp_path / "job.hess")
    lines = (tmp_path / "job_EXT.engrad").read_text(encoding="ascii").splitlines()
    # ORCA 5 reads by position: three comments before each part.
    assert [k for k, line in enumerate(lines) if line.startswith("#")] == [
        *range(3),
        *range(4, 7),
        *range(8, 11),
        29,
        30,
        31,
    ]
    assert int(lines[3]) == 6
    assert float(lines[7]) * HARTREE == pytest.approx(units.calculator.get_potential_energy(atoms), rel=1e-7)
    gradient = np.array(lines[11:29], dtype=float)
    np.testing.assert_allclose(gradient * HARTREE / BOHR, -units.calculator.get_forces(atoms).ravel(), atol=1e-6)
    with (tmp_path / "job_EXT.engrad").open(encoding="ascii") as file:
        forces = read_orca_engrad(file)
    np.testing.assert_allclose(forces, units.calculator.get_forces(atoms), atol=1e-6)

    assert hessian_file.matches(tmp_path / "job.hess")
    (record,) = hessian_file.read(tmp_path / "job.hess")
    hessian = units.calculator.get_hessian(atoms, method="autograd")
    np.testing.assert_allclose(record.hessian(), hessian, rtol=1e-7, atol=1e-6)
    np.testing.assert_allclose(record.positions, atoms.positions, atol=1e-7)
    assert record.energy == pytest.approx(units.calculator.get_potential_energy(atoms), rel=1e-7)


def test_orca_without_gradient_and_with_charge(units, tmp_path):
    atoms = molecule("H2O")
    path = orca_input(tmp_path, atoms, gradient=0, charge=1, multiplicity=2)
    request = orca.read_input(path)
    assert (request.atoms.info["charge"], request.atoms.info["multiplicity"], request.gradient) == (1, 2, False)
    orca.answer(units, path)
    lines = (tmp_path / "job_EXT.engrad").read_text(encoding="ascii").splitlines()
    assert len(lines) == 8
    atoms.info |= {"charge": 1, "multiplicity": 2}
    assert float(lines[7]) == pytest.approx(units.energy(atoms), abs=1e-11)


def test_the_script_as_orca_calls_it(tmp_path):
    """One word, the input, then Ext_Params; from a folder of ORCA's."""
    calculator, atoms = shipped_calculator(), molecule("CH3OH")
    orca_input(tmp_path, atoms)
    code = "from hip_ext.cli.external import orca_main; orca_main()"
    done = run("job_EXT.extinp.tmp", "--hess", "now.hess", "--model", "hip-so3lr-organic", cwd=tmp_path, code=code)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "job_EXT.engrad").read_text(encoding="ascii").splitlines()
    assert float(lines[7]) * HARTREE == pytest.approx(calculator.get_potential_energy(atoms), rel=1e-6)
    (record,) = hessian_file.read(tmp_path / "now.hess")
    np.testing.assert_allclose(record.hessian(), calculator.get_hessian(atoms), atol=1e-3)
    done = run("external", "hess", "job_EXT.xyz", "--out", "start.hess", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (start,) = hessian_file.read(tmp_path / "start.hess")
    np.testing.assert_allclose(start.hessian(), record.hessian(), atol=1e-3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda path: path.write_text(path.read_text() + "charges.pc # point charges\n"), "leave out QM/MM"),
        (lambda path: path.write_text("job_EXT.xyz\n0\n"), "is not an input that ORCA writes"),
        (lambda path: path.with_name("job_EXT.xyz").unlink(), "is not an input that ORCA writes"),
        (lambda path: path.unlink(), "is not an input that ORCA writes"),
    ],
)
def test_what_orca_does_not_write_is_refused(units, change, words, tmp_path):
    path = orca_input(tmp_path, molecule("H2O"))
    change(path)
    with pytest.raises(DataError, match=words):
        orca.answer(units, path)
    assert not (tmp_path / "job_EXT.engrad").exists()


# A server for both


def test_one_server_answers_both_and_outlives_bad_requests(units, tmp_path):
    socket, atoms = tmp_path / "s", molecule("H2O")
    with pytest.raises(ConfigError, match="no server answers"):
        ask(socket, "orca", [])
    threading.Thread(target=serve, args=(units, socket), daemon=True).start()
    for _ in range(200):
        if socket.exists():
            break
        time.sleep(0.05)
    assert socket.stat().st_mode & 0o077 == 0
    with pytest.raises(ConfigError, match="is there already"):
        serve(units, socket)
    with pytest.raises(HipExtError, match="is not an input that ORCA writes"):
        ask(socket, "orca", [tmp_path / "nothing.extinp.tmp"])
    with pytest.raises(HipExtError, match="programs are gaussian, orca"):
        ask(socket, "turbomole", [])
    with pytest.raises(HipExtError, match="TypeError"):
        ask(socket, "gaussian", [])
    ask(socket, "orca", [orca_input(tmp_path, atoms)])
    assert (tmp_path / "job_EXT.engrad").is_file()
    (tmp_path / "in").write_text(gaussian_input(atoms.numbers, atoms.positions / BOHR, 1), encoding="ascii")
    ask(socket, "gaussian", [tmp_path / "in", tmp_path / "out"])
    found = gaussian_output((tmp_path / "out").read_text(encoding="ascii"), 3, 1)
    assert found[0] == pytest.approx(units.energy(atoms), abs=1e-9)


def test_the_command_serves_until_it_is_ended(tmp_path):
    shipped_calculator()
    command = [sys.executable, "-m", "hip_ext.cli", "external", "serve", "s"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert "answering on s" in server.stderr.readline()
            assert (tmp_path / "s").exists()  # it says so once it does
            orca_input(tmp_path, molecule("CH3OH"))
            done = run("external", "orca", "job_EXT.extinp.tmp", "--server", "s", cwd=tmp_path)
            assert done.returncode == 0, done.stderr
            assert (tmp_path / "job_EXT.engrad").is_file()
        finally:
            server.terminate()
        server.wait(timeout=30)
    assert not (tmp_path / "s").exists()


def test_a_socket_that_cannot_be_made_is_one_line(tmp_path):
    shipped_calculator()
    done = run("external", "serve", "nowhere/s", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "cannot listen on nowhere/s: No such file or directory" in done.stderr
