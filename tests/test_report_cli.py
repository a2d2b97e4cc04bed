"""`--report` of every command that has it: the page holds what the command found, and moves in a browser."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import molecule
from test_report import scenes, unpack
from typer.testing import CliRunner

from hip_ext.cli import app
from hip_ext.cli.options import DEFAULT_MODEL
from hip_ext.shipped import shipped_checkpoints
from hip_ext.testing import methanol_crystal

pytest.importorskip("so3krates_torch", reason="needs so3krates-torch")
if DEFAULT_MODEL not in shipped_checkpoints():
    pytest.skip(f"the checkpoint {DEFAULT_MODEL} is not in checkpoints/", allow_module_level=True)


def hip_ext(*arguments: object, code: int = 0):
    result = CliRunner().invoke(app, [str(a) for a in arguments], prog_name="hip-ext")
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code == code, result.output
    return result


class Words(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.said: list[str] = []
        self.feed(re.sub(r"<(script|style).*?</\1>", "", text, flags=re.DOTALL))

    def handle_data(self, data: str) -> None:
        self.said.append(data)


def words(path: Path) -> str:
    return " ".join(Words(path.read_text(encoding="utf-8")).said)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("structures")
    up = molecule("NH3")
    down = up.copy()
    down.positions[:, 2] *= -1
    ase.io.write(folder / "water.xyz", molecule("H2O"))
    ase.io.write(folder / "two.xyz", [molecule("H2O"), molecule("CH4")])
    ase.io.write(folder / "up.xyz", up)
    ase.io.write(folder / "down.xyz", down)
    ase.io.write(folder / "crystal.extxyz", methanol_crystal())
    return folder


def test_frequencies(folder, tmp_path, visit):
    page = tmp_path / "water.html"
    arguments = ("frequencies", folder / "water.xyz", "--infrared", "--temperature", 298.15, "--json", "--report", page)
    (found,) = json.loads(hip_ext(*arguments).stdout)
    (scene,) = scenes(page.read_text(encoding="utf-8"))
    assert scene["captions"][1].startswith(f"Mode 2: {found['frequencies'][1]:.1f} cm⁻¹, ")
    assert unpack(scene["vectors"], "<i2").shape == (3 * 9,)
    said = words(page)
    for flag in found["flags"]:
        assert flag["name"] in said
    assert DEFAULT_MODEL in said and "Thermochemistry" in said and f"{found['zero_point_energy']:.4f} eV" in said
    opened = visit(page)
    before = opened.locator("canvas").screenshot()
    opened.wait_for_timeout(150)
    assert opened.locator("canvas").screenshot() != before
    opened.get_by_role("listbox").focus()
    opened.keyboard.press("End")
    assert opened.locator(".caption").inner_text() == scene["captions"][-1]


def test_frequencies_of_several_frames_and_of_a_hessian_from_a_file(folder, tmp_path):
    page = tmp_path / "two.html"
    hip_ext("frequencies", folder / "two.xyz", "--report", page, "--out", tmp_path / "two.npz")
    assert [scene["n"] for scene in scenes(page.read_text(encoding="utf-8"))] == [3, 5]
    assert "0: H2O" in words(page) and "1: CH4" in words(page)
    np.save(tmp_path / "h.npy", np.load(tmp_path / "two.npz")["hessian_0"])
    printed = hip_ext("frequencies", folder / "water.xyz", "--hessian", tmp_path / "h.npy", "--report", page).stdout
    assert f"written to {page}" in printed
    assert len(scenes(page.read_text(encoding="utf-8"))) == 1


def test_frequencies_of_free_atoms(folder, tmp_path):
    page = tmp_path / "free.html"
    hip_ext("frequencies", folder / "water.xyz", "--free", "1,2", "--report", page)
    assert len(scenes(page.read_text(encoding="utf-8"))[0]["captions"]) == 6


def test_hessian_with_errors(folder, tmp_path):
    page = tmp_path / "h.html"
    hip_ext("hessian", folder / "water.xyz", "--compare", "autograd", "--report", page)
    assert page.read_text(encoding="utf-8").count("data-entries=") == 2
    assert "MAE against the exact Hessian" in words(page)


def test_phonons(folder, tmp_path):
    page = tmp_path / "bands.html"
    arguments = ("phonons", folder / "crystal.extxyz", "--path", "XG", "--points", 6, "--dos", "--report", page)
    assert f"written to {page}" in hip_ext(*arguments).stdout
    said = words(page)
    assert "18 bands" in said and "Γ" in said and "states" in said and "stability" in said
    (scene,) = scenes(page.read_text(encoding="utf-8"))
    assert scene["n"] == 8 * 6 and len(scene["cell"]) == 72


def test_relaxations(folder, tmp_path, visit):
    page = tmp_path / "relaxed.html"
    arguments = ("relax", folder / "water.xyz", folder / "up.xyz", "--out", tmp_path / "run", "--report", page)
    (water, _) = json.loads(hip_ext(*arguments, "--json").stdout)
    ends, ways = scenes(page.read_text(encoding="utf-8"))[::2], scenes(page.read_text(encoding="utf-8"))[1::2]
    assert [scene["n"] for scene in ends] == [3, 4]
    assert "All results" in words(page) and "minimum" in words(page)
    assert ways[0]["frames"] == water["steps"] + 1 > 1
    assert ways[0]["captions"][0].startswith("start, 0.000 eV")
    fallen = f"{water['start_energy'] - water['energy']:.3f}"
    assert ways[0]["captions"][-1].startswith(f"end, −{fallen} eV")
    opened = visit(page)
    profile = opened.get_by_role("listbox", name="Relaxation").first
    profile.focus()
    for key, caption in (("End", ways[0]["captions"][-1]), ("Home", ways[0]["captions"][0])):
        opened.keyboard.press(key)
        assert opened.locator(".caption").first.inner_text() == caption


def test_relaxations_that_were_done_before_a_page_was_wanted(folder, tmp_path):
    page = tmp_path / "relaxed.html"
    hip_ext("relax", folder / "water.xyz", "--out", tmp_path / "run")
    hip_ext("relax", folder / "water.xyz", folder / "up.xyz", "--out", tmp_path / "run", "--report", page)
    found = scenes(page.read_text(encoding="utf-8"))
    assert [(scene["n"], scene["frames"] > 1) for scene in found] == [(3, False), (4, False), (4, True)]


def test_a_transition_state_and_its_path(folder, tmp_path, visit):
    for package in ("sella", "geodesic_interpolate"):
        pytest.importorskip(package, reason=f"needs {package}")
    page = tmp_path / "ts.html"
    (found,) = json.loads(hip_ext("ts", folder / "up.xyz", folder / "down.xyz", "--report", page, "--json").stdout)
    path, modes, *ends = scenes(page.read_text(encoding="utf-8"))
    assert path["frames"] > 4 and modes["captions"][0] == f"Mode 1: {-found['imaginary_wavenumber']:.1f}i cm⁻¹"
    assert len(modes["captions"]) == 6 and "can be animated" not in words(page)
    assert [scene["captions"][0].split(":")[0] for scene in ends] == ["Reactant", "Product", "Guess"]
    highest = path["captions"][path["start"]]
    assert highest.startswith(f"saddle, {found['forward_barrier']:.3f} eV")
    opened = visit(page)
    assert opened.locator(".caption").inner_text() == highest
    opened.get_by_role("listbox", name="Reaction path").focus()
    opened.keyboard.press("Home")
    assert opened.locator(".caption").inner_text() == path["captions"][0]
    opened.get_by_role("listbox", name="Modes of the saddle").focus()
    opened.keyboard.press("End")
    assert opened.locator(".caption").inner_text() == modes["captions"][-1]


def test_a_search_without_a_saddle_is_reported_too(folder, tmp_path):
    pytest.importorskip("sella", reason="needs sella")
    page = tmp_path / "none.html"
    hip_ext("ts", folder / "water.xyz", "--report", page, code=1)
    assert "✗" in words(page) and "no imaginary mode" in words(page)


@pytest.mark.parametrize("command", ["frequencies", "hessian", "phonons", "ts", "irc", "relax"])
def test_a_page_that_cannot_be_written_is_refused_before_the_work(command, folder, tmp_path):
    more = ("--out", tmp_path / "run") if command == "relax" else ()
    file = folder / ("crystal.extxyz" if command == "phonons" else "water.xyz")
    for name in ("x.pdf", "no/x.html"):
        result = hip_ext(command, file, "--report", tmp_path / name, *more, code=2)
        assert "--report" in result.output and result.output.count("\n") <= 2
    assert not list(tmp_path.iterdir())


def test_a_hostile_comment_and_file_name_stay_text(tmp_path):
    file = tmp_path / "<script>alert(1)</script>.extxyz".replace("/", "∕")
    atoms = molecule("H2O")
    atoms.info["comment"] = "</script><script>alert(1)</script>"
    ase.io.write(file, atoms)
    page = tmp_path / "page.html"
    hip_ext("hessian", file, "--report", page)
    assert "<script>alert" not in page.read_text(encoding="utf-8")
    assert "<script>alert" in words(page)


def test_very_many_structures_are_cut(folder, tmp_path):
    ase.io.write(tmp_path / "many.xyz", [molecule("H2")] * 52)
    page = tmp_path / "many.html"
    hip_ext("hessian", tmp_path / "many.xyz", "--report", page)
    assert "The first 50 of 52 structures are shown." in words(page)
    assert len(scenes(page.read_text(encoding="utf-8"))) == 50
