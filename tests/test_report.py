"""Reports as files: what they hold, that text stays text, and that bad input is told or shown as what it is."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import struct
import zlib
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import report_cases as cases
from ase import Atoms
from ase.build import bulk, molecule
from hypothesis import given, settings
from hypothesis import strategies as st

from hip_ext import atomic
from hip_ext.errors import ConfigError, DataError, StructureError
from hip_ext.report import (
    Bands,
    EnergyProfile,
    Flags,
    HessianMap,
    Modes,
    Note,
    Provenance,
    Section,
    Structure3D,
    Table,
    check_report,
    write_report,
)
from hip_ext.report.axes import ticks
from hip_ext.report.page import page
from hip_ext.report.png import png
from hip_ext.report.spectrum import lorentzians

NAN = float("nan")


class Elements(HTMLParser):
    """Start tags with their attributes, visible text, and what scripts hold; fails on tags that do not match."""

    VOID = ("meta", "link", "input", "br", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.raw: list[tuple[dict[str, str | None], str]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        assert len(attrs) == len(dict(attrs)), f"an attribute twice in {tag}"
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in {"script", "style"}:
            self.raw.append((self.tags[-1][1] | {"tag": self.open[-1]}, data))
        else:
            self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)


def scenes(html: str) -> list[dict]:
    return [one for about, data in Elements(html).raw if about.get("class") == "scenes" for one in json.loads(data)]


def unpack(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype=kind)


def test_page_is_whole_and_tells_everything(tmp_path):
    write_report(tmp_path / "all.html", "Everything", cases.full())
    html = (tmp_path / "all.html").read_text(encoding="utf-8")
    found = Elements(html)
    for said in (
        "Everything", "512.3i", "3700.0", "✗ failed", "2 imaginary modes", "reactant",
        "saddle, 0.800 eV (18.4 kcal/mol)",
        "Thermochemistry", "−1.204", "hip-so3lr-organic", "A note.", "C1", "H9", "Γ", "X|K",
    ):  # fmt: skip
        assert said in found.text, said
    ids = [given["id"] for _, given in found.tags if "id" in given]
    assert len(ids) == len(set(ids))
    for svg in re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL):
        ElementTree.fromstring(svg)
    assert len(html) < 300_000


def test_same_parts_give_the_same_file():
    assert page("One", cases.full()) == page("One", cases.full())


def test_policy_lets_in_the_own_script_and_style_and_nothing_else():
    found = Elements(page("One", cases.full()))
    (policy,) = (given["content"] for _, given in found.tags if given.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert "unsafe" not in policy and "http" not in policy
    for about, content in found.raw:
        if about.get("type") == "application/json":
            continue
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules[f"{about['tag']}-src"] == f"'sha256-{digest}'"
    assert not any(name.startswith("on") or name == "style" for _, given in found.tags for name in given)
    places = [given[name] for _, given in found.tags for name in ("src", "href") if given.get(name)]
    assert places and all(place.startswith(("data:", "#")) for place in places)
    assert "://" not in re.sub(r"base64,[\w+/=]+", "", page("One", cases.full()))


def hostile(words: str) -> list:
    atoms = molecule("H2O")
    atoms.info["comment"] = words
    frames = [atoms, atoms]
    return [
        Section(
            words,
            [
                Flags([(words, False, words)], words),
                Structure3D(frames, words, [words, words]),
                Modes(atoms, [1.0], np.ones((1, 3, 3)), None, words),
                EnergyProfile([words, words], [0, 1], [0, 1], frames, words, words),
                EnergyProfile([words, ""], None, [0, 1], None, words),
                HessianMap(atoms, np.eye(9), words),
                Table(words, [words], [[words]]),
                Provenance({words: words}, words),
                Note(words),
                Bands([0, 1], [[1], [2]], [words, words], [0, 1], None, [[1], [2]], words, words),
            ],
        )
    ]


@pytest.mark.parametrize(
    "words",
    [
        "<script>alert(1)</script>",
        "</script><script>alert(1)</script>",
        "<!--<script>",
        "\"'><img src=x onerror=alert(1)>",
        "</title></style></svg><svg onload=alert(1)>",
        "]]>&lt;&#x3c;script&#62;",
        "a\u2028b\u2029c\x00\x1b[31m\u202egnp.exe",
        "\ud800",
    ],
)
def test_hostile_text_stays_text(words):
    plain, found = Elements(page("x", hostile("x"))), Elements(page(words, hostile(words)))
    assert [tag for tag, _ in found.tags] == [tag for tag, _ in plain.tags]
    assert [set(given) for _, given in found.tags] == [set(given) for _, given in plain.tags]
    if not re.search("[\x00-\x1f\ud800\u202e]", words):
        assert found.text.count(words) >= 10
        assert all(words in " ".join(scene["captions"]) for scene in scenes(page("x", hostile(words)))[:1])


@given(st.text(max_size=40))
@settings(max_examples=40, deadline=None)
def test_any_text_stays_text(words):
    html = page(words, hostile(words or "x"))
    html.encode()
    plain, found = Elements(page("x", hostile("x"))), Elements(html)
    # A cell that is a number gets a class, so that it stands on the right.
    names = [[(tag, set(given) - {"class"}) for tag, given in one.tags] for one in (plain, found)]
    assert names[0] == names[1]


def test_what_turns_text_around_is_replaced():
    assert "\u202e" not in page("\u202eabc", [Note("\u202e\x07")])


def test_scenes_hold_the_structure():
    part = cases.modes()
    (scene,) = scenes(page("One", [part]))
    np.testing.assert_allclose(unpack(scene["positions"], "<f4").reshape(-1, 3), part.atoms.positions, atol=1e-6)
    vectors = unpack(scene["vectors"], "<i2").reshape(-1, 9, 3) / 32767
    moves = np.asarray(part.displacements)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=2).max(axis=1), 1, atol=1e-4)
    cos = (vectors * moves).sum(axis=(1, 2)) / np.linalg.norm(vectors, axis=(1, 2)) / np.linalg.norm(moves, axis=(1, 2))
    np.testing.assert_allclose(cos, 1, atol=1e-6)
    assert scene["names"][:4] == ["C1", "C2", "O3", "H4"]
    assert scene["captions"][1] == "Mode 2: 280.0 cm⁻¹, 9.8 km/mol"


def test_view_looks_at_the_flat_side():
    benzene = molecule("C6H6")
    benzene.rotate(50, (1, 2, 3))
    (scene,) = scenes(page("One", [Structure3D(benzene)]))
    turn = np.reshape(scene["turn"], (3, 3))
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-5)
    assert np.linalg.det(turn) == pytest.approx(1, abs=1e-5)
    assert scene["extent"][2] < 1e-3 < scene["extent"][1]


def test_profile_starts_at_its_highest_frame():
    (scene,) = scenes(page("One", [cases.path()]))
    assert (scene["start"], scene["frames"]) == (cases.POINTS // 2, cases.POINTS)
    assert scene["captions"][scene["start"]] == "saddle, 0.800 eV (18.4 kcal/mol)"


def test_cell_of_a_crystal_is_drawn():
    (scene,) = scenes(page("One", [Structure3D(bulk("Cu"))]))
    edges = np.reshape(scene["cell"], (12, 2, 3))
    np.testing.assert_allclose(np.linalg.norm(edges[:, 0] - edges[:, 1], axis=1), 3.61 / np.sqrt(2), atol=1e-3)


def pixels(data: bytes) -> np.ndarray:
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    place, body, size = 8, b"", (0, 0)
    while place < len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        name, chunk = data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        assert struct.unpack(">I", data[place + 8 + length : place + 12 + length]) == (zlib.crc32(name + chunk),)
        if name == b"IHDR":
            size = struct.unpack(">II", chunk[:8])
        body += chunk if name == b"IDAT" else b""
        place += 12 + length
    rows = np.frombuffer(zlib.decompress(body), np.uint8).reshape(size[1], 1 + 4 * size[0])
    return rows[:, 1:].reshape(size[1], size[0], 4)


def test_png_comes_back():
    given = np.random.default_rng(0).integers(0, 256, size=(5, 7, 4), dtype=np.uint8)
    np.testing.assert_array_equal(pixels(png(given)), given)


def test_map_shows_sign_size_and_what_is_unknown():
    matrix = np.zeros((9, 9))
    matrix[0, 1], matrix[2, 3], matrix[4, 5], matrix[8, 8] = 10.0, -10.0, 0.1, NAN
    html = page("One", [HessianMap(molecule("H2O"), matrix)])
    image = pixels(base64.b64decode(re.search(r"png;base64,([\w+/=]+)", html).group(1)))
    assert image.shape == (9, 9, 4)
    assert image[0, 1, 3] == image[2, 3, 3] == 255 and image[4, 5, 3] == 128 and image[0, 0, 3] == 0
    assert image[0, 1, 0] > image[0, 1, 2] and image[2, 3, 0] < image[2, 3, 2]
    assert "1 of 81 entries are not finite" in Elements(html).text


def test_numbers_that_are_none_are_told_and_not_drawn():
    atoms = molecule("H2O")
    parts = [
        Modes(atoms, [NAN, 1000.0, np.inf], np.ones((3, 3, 3)), [1.0, NAN, 2.0]),
        EnergyProfile(["a", "b", "c"], [0, 1, 2], [NAN, 0.5, 0.7]),
        EnergyProfile(["a", "b"], None, [NAN, NAN]),
        Bands([0, 1], [[NAN, 5.0], [1.0, np.inf]], ["G", "X"], [0, 1]),
        HessianMap(atoms, np.full((9, 9), NAN)),
        Table("T", ["x"], [[NAN]]),
    ]
    html = page("One", parts)
    for svg in re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL):
        assert not re.search(r"\b(nan|inf)\b", re.sub(r'data-\w+="[^"]*"', "", svg)), svg
    found = Elements(html).text
    assert "not a number" in found and "1 of 3 energies are not known" in found and "81 of 81 entries" in found
    assert "No point has an energy" in found
    assert "b, 0.000 eV (0.0 kcal/mol)" in found, "energies are above the first that is known"
    page("One", [Modes(atoms, [NAN], np.ones((1, 3, 3)))])


def test_edge_cases_make_pages():
    atom, flat = Atoms("He", [[0, 0, 0]]), molecule("H2")
    page("", [Modes(atom, [], np.zeros((0, 1, 3))), HessianMap(atom, np.zeros((3, 3)))])
    page("x", [Modes(flat, [0.0], np.zeros((1, 2, 3)), [0.0]), EnergyProfile(["one"], [0.0], [0.0], [flat])])
    page("x", [Flags([]), Table("empty", ["a", "b"], []), Provenance({})])
    page("x", [Bands([0, 1], [[0.0], [0.0]], [], [])])
    page("x", [Structure3D(Atoms("XLi", [[0, 0, 0], [0, 0, 9]]))])


@pytest.mark.parametrize(("atoms", "side"), [(64, 192), (65, 65), (900, 400)])
def test_large_maps_are_drawn_by_blocks_and_then_by_groups(atoms, side):
    chain = Atoms(f"H{atoms}", np.arange(3.0 * atoms).reshape(-1, 3))
    matrix = np.full((3 * atoms, 3 * atoms), 0.5)
    html = page("Large", [HessianMap(chain, matrix)])
    assert pixels(base64.b64decode(re.search(r"png;base64,([\w+/=]+)", html).group(1))).shape[:2] == (side, side)
    assert len(html) < 3_000_000
    told = re.search(r'data-norms="([^"]+)"', html)
    assert (told is not None) == (atoms == 65)
    if told:
        np.testing.assert_allclose(unpack(told.group(1), "<f4"), 1.5)


def test_large_sets_of_modes_and_frames_are_cut_and_say_so():
    n = 400
    chain = Atoms(f"H{n}", np.arange(3.0 * n).reshape(-1, 3))
    moves = np.broadcast_to(np.float64(1), (3 * n, n, 3))
    html = page("Large", [Modes(chain, np.arange(3.0 * n), moves)])
    assert "can be animated" not in html
    big = Atoms(f"H{2 * n}", np.arange(6.0 * n).reshape(-1, 3))
    html = page("Large", [Modes(big, np.arange(6.0 * n), np.broadcast_to(np.float64(1), (6 * n, 2 * n, 3)))])
    assert "Only the first 625 of 2400 modes can be animated" in Elements(html).text
    assert len(html) < 8_000_000
    (scene,) = scenes(page("Long", [Structure3D([big] * 3000)]))
    assert scene["frames"] == 625 and scene["captions"][-1].endswith("frame 3000")


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: Modes(molecule("H2O"), [1.0], np.ones((1, 2, 3))), DataError, "shape any × 3 × 3 expected"),
        (lambda: Modes(molecule("H2O"), [1.0], np.ones((2, 3, 3))), DataError, "1 frequencies but displacements of 2"),
        (lambda: Modes(molecule("H2O"), [1.0], np.full((1, 3, 3), NAN)), DataError, "not all finite"),
        (lambda: Modes(molecule("H2O"), ["x"], np.ones((1, 3, 3))), DataError, "numbers expected"),
        (lambda: Modes(molecule("H2O"), [1.0], np.ones((1, 3, 3)), [1, 2]), DataError, "intensities"),
        (lambda: Structure3D([]), StructureError, "no structure"),
        (lambda: Structure3D(Atoms()), StructureError, "no structure"),
        (lambda: Structure3D([molecule("H2O"), molecule("CO2")]), StructureError, "frame 1 has other atoms"),
        (lambda: Structure3D(Atoms("H", [[0, 0, NAN]])), StructureError, "not finite"),
        (lambda: Structure3D(molecule("H2O"), "t", ["a", "b"]), DataError, "1 frames but 2 captions"),
        (lambda: EnergyProfile(["a"], None, [1, 2]), DataError, "2 energies but 1 labels"),
        (lambda: EnergyProfile(["a"], [NAN], [1]), DataError, "coordinate"),
        (lambda: EnergyProfile(["a"], [0], [1], [molecule("H2O")] * 2), DataError, "1 energies but 2 frames"),
        (lambda: HessianMap(molecule("H2O"), np.eye(8)), DataError, "shape 9 × 9 expected, found 8 × 8"),
        (lambda: Table("t", ["a"], [["x", "y"]]), DataError, "a row of 2 cells under 1 names"),
        (lambda: Bands([0, 1], [[1.0]], [], []), DataError, "shape 2 × any expected"),
    ],
)
def test_parts_that_do_not_fit_are_refused_in_one_line(make, error, said):
    with pytest.raises(error, match=re.escape(said)) as raised:
        make()
    assert "\n" not in str(raised.value)


def test_nothing_is_no_report(tmp_path):
    for parts in ([], [Section("s", [])]):
        with pytest.raises(DataError, match="nothing to report"):
            write_report(tmp_path / "x.html", "x", parts)
    assert not list(tmp_path.iterdir())


def test_paths_that_cannot_be_written_are_refused_before_the_work(tmp_path):
    (tmp_path / "folder.html").mkdir()
    for name, said in (("x.pdf", "unknown extension"), ("no/x.html", "does not exist"), ("folder.html", "a folder")):
        with pytest.raises(ConfigError, match=said):
            check_report(tmp_path / name)
        with pytest.raises(ConfigError, match=said):
            write_report(tmp_path / name, "x", [Note("x")])
    check_report(None)


def test_a_write_that_fails_leaves_the_old_report(tmp_path, monkeypatch):
    target = tmp_path / "x.html"
    write_report(target, "old", [Note("old")])
    old = target.read_bytes()

    def full(self: Path, *_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.Path, "write_text", full)
    with pytest.raises(ConfigError, match=r"cannot write .*: No space left"):
        write_report(target, "new", [Note("new")])
    assert target.read_bytes() == old and list(tmp_path.iterdir()) == [target]


def test_ticks_are_round_and_within():
    for low, high in ((0, 3800), (-0.03, 0.47), (-1e-9, 1e-9), (1200, 1201), (-5e6, 3e6)):
        found = ticks(low, high, 6)
        assert 2 <= len(found) <= 7 and low <= found[0] and found[-1] <= high
        steps = np.diff(found)
        np.testing.assert_allclose(steps, steps[0], rtol=1e-6)


def test_lines_have_their_height_and_width():
    found = lorentzians(np.array([90.0, 100.0, 110.0]), np.array([100.0]), np.array([7.0]), 20.0)
    np.testing.assert_allclose(found, [3.5, 7.0, 3.5])
