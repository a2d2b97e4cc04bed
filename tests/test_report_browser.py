"""Reports in a real Chromium: they move, answer to mouse, touch and keys, fit phone and paper, and ask for nothing.

That the console is silent and no request leaves is asserted after every test, by the fixture `visit`.
"""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import report_cases as cases

from hip_ext.report import Modes, Note, Section, Structure3D, Table, write_report

PIXELS = """canvas => {
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let sum = 2166136261;
  for (const value of data) sum = Math.imul(sum ^ value, 16777619);
  return sum;
}"""
OPAQUE = """canvas => {
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let count = 0;
  for (let k = 3; k < data.length; k += 4) count += data[k] > 0;
  return count / (canvas.width * canvas.height);
}"""


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, "Everything", cases.full())
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("report") / "small.html"
    write_report(path, "Ethanol", [cases.modes(), cases.hessian()])
    return path


def looks(page: Any, times: int = 4, pause: int = 120) -> set[int]:
    """What the first view shows at several moments."""
    found = set()
    for _ in range(times):
        found.add(page.locator("canvas").first.evaluate(PIXELS))
        page.wait_for_timeout(pause)
    return found


def caption(page: Any, section: int = 0) -> str:
    return page.locator(".caption").nth(section).inner_text()


def test_the_mode_moves_until_it_is_stopped(visit, small):
    page = visit(small)
    assert page.locator("canvas").evaluate(OPAQUE) > 0.03, "the molecule is drawn"
    assert len(looks(page)) > 2
    page.get_by_role("button", name="Stop").click()
    still = looks(page)
    assert len(still) == 1
    page.get_by_role("button", name="Play").click()
    assert len(looks(page)) > 2


def test_the_swing_is_along_the_mode(visit, tmp_path):
    """One atom moves to the right and back, the other stands still."""
    from ase import Atoms

    atoms = Atoms("OC", [[-2, 0, 0], [2, 0.001, 0]])
    write_report(tmp_path / "one.html", "One", [Modes(atoms, [100.0], [[[0, 0, 0], [1, 0, 0]]])])
    page = visit(tmp_path / "one.html")
    spans = """canvas => {
      const {width: w, height: h} = canvas, seen = new Set();
      const data = canvas.getContext("2d").getImageData(0, 0, w, h).data;
      for (let k = 0; k < w * h; k++) if (data[4 * k + 3] > 128) seen.add(k % w);
      return [Math.min(...seen), Math.max(...seen)];
    }"""
    found = []
    for _ in range(25):
        found.append(page.locator("canvas").evaluate(spans))
        page.wait_for_timeout(60)
    left, right = ([one[side] for one in found] for side in (0, 1))
    moved = sorted([max(left) - min(left), max(right) - min(right)])
    assert moved[0] <= 1 and moved[1] > 20


def test_a_mode_that_is_pressed_in_the_list_is_shown(visit, small):
    page = visit(small)
    page.get_by_role("button", name="show mode 5,").click()
    assert caption(page).startswith("Mode 5: 820.0 cm⁻¹")
    assert page.locator(".list tr.on").inner_text().split()[0] == "5"
    assert page.get_by_role("option", name="mode 5,").get_attribute("aria-selected") == "true"


def test_the_spectrum_answers_to_clicks(visit, small):
    page = visit(small)
    spectrum = page.get_by_role("listbox")
    line = page.get_by_role("option", name="mode 12,").locator("line").bounding_box()
    spectrum.scroll_into_view_if_needed()
    page.mouse.click(line["x"] + 4, line["y"] + line["height"] / 2)
    assert caption(page).startswith("Mode 12: ")
    assert page.get_by_role("option", selected=True).count() == 1
    assert len(looks(page)) > 2, "and it is the one that moves"


def test_the_spectrum_answers_to_keys(visit, small):
    page = visit(small)
    spectrum = page.get_by_role("listbox")
    spectrum.focus()
    for key, mode in (
        ("ArrowRight", 2),
        ("ArrowRight", 3),
        ("ArrowLeft", 2),
        ("End", 21),
        ("ArrowRight", 21),
        ("Home", 1),
    ):
        page.keyboard.press(key)
        assert caption(page).startswith(f"Mode {mode}: "), key
    active = spectrum.get_attribute("aria-activedescendant")
    assert page.locator(f"#{active}").get_attribute("aria-label").startswith("mode 1, 512.3i cm⁻¹")
    page.keyboard.press("Enter")
    assert len(looks(page)) == 1
    page.keyboard.press("Enter")
    assert len(looks(page)) > 2


def test_the_view_turns_zooms_and_comes_back(visit, small):
    page = visit(small, reduced_motion="reduce")
    canvas = page.locator("canvas")
    (first,) = looks(page)
    canvas.focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowDown")
    (turned,) = looks(page)
    page.keyboard.press("+")
    (larger,) = looks(page)
    assert len({first, turned, larger}) == 3
    page.keyboard.press("0")
    assert looks(page) == {first}
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 50, box["y"] + 90)
    page.mouse.down()
    page.mouse.move(box["x"] + 150, box["y"] + 120, steps=4)
    page.mouse.up()
    assert looks(page) != {first}
    page.get_by_role("button", name="Reset view").click()
    assert looks(page) == {first}
    page.get_by_label("Labels").check()
    assert looks(page) != {first}
    page.get_by_label("Labels").uncheck()
    page.get_by_label("Arrows").check()
    assert looks(page) != {first}


def test_nothing_moves_by_itself_for_those_who_asked_for_that(visit, small):
    page = visit(small, reduced_motion="reduce")
    assert len(looks(page)) == 1
    page.get_by_role("button", name="show mode 5,").click()
    assert len(looks(page)) == 1
    page.get_by_role("button", name="Play").click()
    assert len(looks(page)) > 2


def test_distances_and_angles_are_measured(visit, small):
    atoms = cases.ethanol()
    page = visit(small, reduced_motion="reduce")
    field, said = page.get_by_label("Measure atoms"), page.locator(".measured")
    field.fill("1 2")
    assert said.inner_text() == f"C1–C2: {atoms.get_distance(0, 1):.3f} Å"
    field.fill("1 2 3")
    assert said.inner_text() == f"C1–C2–O3: {atoms.get_angle(0, 1, 2):.1f}°"
    field.fill("4 3 2 6")
    turn = atoms.get_dihedral(3, 2, 1, 5)
    assert said.inner_text() == f"H4–O3–C2–H6: {turn - 360 if turn > 180 else turn:.1f}°"
    field.fill("99 x -1")
    assert "NaN" not in said.inner_text() and "undefined" not in said.inner_text()
    box = page.locator("canvas").bounding_box()
    page.mouse.click(box["x"] + 3, box["y"] + box["height"] - 3)
    assert field.input_value() == "", "a click beside the molecule takes the marks away"


def test_a_point_of_the_profile_chooses_the_frame(visit, report):
    page = visit(report)
    section = page.locator("section").nth(1)
    assert caption(page, 1).startswith("saddle, 0.800 eV"), "the highest point comes first"
    profile = section.get_by_role("listbox", name="Reaction path")
    profile.focus()
    page.keyboard.press("Home")
    assert caption(page, 1).startswith("reactant, 0.000 eV")
    point = section.get_by_role("option", name="product").locator("circle").bounding_box()
    page.mouse.click(point["x"] + point["width"] / 2, point["y"] + point["height"] / 2)
    assert caption(page, 1).startswith("product, 0.000 eV")
    section.get_by_role("radio", name="Product").check()
    assert caption(page, 1) == "C2H6O"
    section.get_by_role("radio", name="Reaction path").check()
    assert caption(page, 1).startswith("product"), "where it was left"
    section.get_by_role("button", name="Play").click()
    for _ in range(100):
        if caption(page, 1).startswith("point"):
            break
        page.wait_for_timeout(50)
    assert caption(page, 1).startswith("point"), "it steps by itself"
    section.get_by_role("button", name="Stop").click()
    section.get_by_role("button", name="show mode 3,").click()
    assert caption(page, 1).startswith("Mode 3: ")
    assert section.get_by_role("radio", name="Modes of the saddle").is_checked()


def test_blocks_of_the_hessian_are_read(visit, small):
    matrix = cases.hessian().matrix
    page = visit(small, reduced_motion="reduce")
    (first,) = looks(page)
    heat = page.get_by_role("application", name="Hessian")
    heat.focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    lines = page.locator(".readout").inner_text().replace("−", "-").splitlines()
    assert lines[0] == f"C2 – O3, {cases.ethanol().get_distance(1, 2):.2f} Å apart"
    for line, row in zip(lines[1:], matrix[3:6, 6:9], strict=True):
        assert [float(cell) for cell in line.split()] == pytest.approx(row, abs=1e-4)
    assert looks(page) != {first}, "both atoms are marked in the view"
    box = heat.bounding_box()
    page.mouse.move(box["x"] + 0.99 * box["width"], box["y"] + 0.99 * box["height"])
    assert page.locator(".readout").inner_text().startswith("H9 – H9")


@pytest.mark.parametrize("width", [320, 768, 1280])
def test_the_page_is_as_wide_as_the_screen(visit, report, width):
    page = visit(report, viewport={"width": width, "height": 800}, reduced_motion="reduce")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    beside = page.locator("canvas, .plot, .map, .scroll, .controls button, input").evaluate_all(
        """(all, width) => all.filter((one) => one.checkVisibility())
             .filter((one) => one.getBoundingClientRect().left < 0 || one.getBoundingClientRect().right > width + 0.5)
             .map((one) => one.outerHTML.slice(0, 80))""",
        width,
    )
    assert beside == []
    sizes = page.locator("svg .tick").evaluate_all(
        "all => all.filter((one) => one.checkVisibility()).map((one) => one.getBoundingClientRect().height)"
    )
    assert min(sizes) > 9, "pixels of the smallest writing"


def test_touch(visit, small):
    page = visit(small, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page.get_by_role("button", name="show mode 3,").tap()
    assert caption(page).startswith("Mode 3: ")
    canvas = page.locator("canvas").bounding_box()
    assert canvas["y"] >= 0 and canvas["y"] + canvas["height"] <= 844, "what was chosen can be seen"
    line = page.get_by_role("option", name="mode 15,").locator("line")
    line.scroll_into_view_if_needed()
    place = line.bounding_box()
    page.touchscreen.tap(place["x"] + 1, place["y"] + place["height"] - 2)
    assert caption(page).startswith("Mode 15: ")


def test_every_control_has_a_name_and_the_keyboard_reaches_it(visit, small):
    page = visit(small, reduced_motion="reduce")
    controls = page.locator("button, input, canvas, [tabindex]")
    named = controls.evaluate_all(
        """all => all.map((one) => one.getAttribute("aria-label") || one.textContent.trim()
             || [...(one.labels ?? [])].map((label) => label.textContent).join(""))"""
    )
    assert all(named)
    seen = []
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.className + ' ' + document.activeElement.tagName"))
    for name in (" CANVAS", "play BUTTON", "index INPUT", "amplitude INPUT", "measure INPUT", "scroll DIV"):
        assert name in seen, name
    page.get_by_role("application", name="Hessian").focus()
    assert page.evaluate("document.activeElement.classList.contains('map')")


CONTRAST = """() => {
  const light = (colour) => {
    const part = colour.match(/[\\d.]+/g).slice(0, 3).map((x) => x / 255)
      .map((x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4));
    return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2];
  };
  const behind = (one) => {
    for (let at = one; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (!/, 0\\)$|transparent/.test(colour)) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const low = [];
  const names = "h1, h2, h3, p, li, td, th, dt, dd, button, label, output, legend, text, .verdict";
  for (const one of document.querySelectorAll(names)) {
    if (!one.textContent.trim() || one.closest(".unseen")) continue;
    const style = getComputedStyle(one), ink = light(one.tagName === "text" ? style.fill : style.color);
    const paper = light(behind(one)), contrast = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    if (contrast < 4.5) low.push(`${one.tagName} ${one.className.baseVal ?? one.className} ${contrast.toFixed(2)}`);
  }
  return low;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_writing_has_contrast(visit, report, scheme):
    page = visit(report, color_scheme=scheme)
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    assert page.evaluate(CONTRAST) == []


def test_paper_is_white_and_has_everything(visit, report):
    page = visit(report, color_scheme="dark")
    page.emulate_media(media="print")
    page.wait_for_timeout(100)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate(CONTRAST) == []
    assert not page.get_by_role("button", name="Reset view").first.is_visible()
    assert page.locator(".list td").last.is_visible()
    assert page.locator(".scroll").evaluate_all("all => all.every((one) => one.scrollHeight <= one.clientHeight + 1)")
    assert page.locator("canvas").first.evaluate(OPAQUE) > 0.02
    assert page.pdf(format="A4")[:5] == b"%PDF-"


def test_hostile_text_is_shown_and_does_nothing(visit, tmp_path):
    words = (
        "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>\"'><svg onload=hacked=1>"
    )
    atoms = cases.ethanol()
    parts = [
        Structure3D([atoms] * 2, words, [words] * 2),
        cases.modes(title=words),
        Table(words, [words], [[words]]),
        Note(words),
    ]
    write_report(tmp_path / "hostile.html", words, [Section(words, parts)])
    page = visit(tmp_path / "hostile.html")
    page.wait_for_timeout(200)
    assert page.evaluate("window.hacked") is None
    assert page.title() == page.locator("h1").inner_text() == caption(page) == words
    assert page.locator("img").count() == 0


def test_the_policy_holds_back_whatever_got_in(browser, report):
    """A script, a style, a picture and a request that are put into the page by force, beside a server that counts."""
    hits = []

    class Counting(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hits.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Counting)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    place = f"http://127.0.0.1:{server.server_port}"
    page = browser.new_page()
    try:
        page.goto(report.as_uri())
        found = page.evaluate(
            """async (place) => {
              const broken = [];
              document.addEventListener("securitypolicyviolation", (event) => broken.push(event.effectiveDirective));
              const add = (name, set) => document.body.append(Object.assign(document.createElement(name), set));
              add("script", { textContent: "window.hacked = 1" });
              add("script", { src: place + "/script.js" });
              add("img", { src: place + "/image.png" });
              add("iframe", { src: place + "/frame" });
              add("link", { rel: "stylesheet", href: place + "/style.css" });
              document.body.insertAdjacentHTML("beforeend", "<p onclick='window.hacked = 1' id=trap>x</p>");
              document.getElementById("trap").click();
              const failed = await fetch(place + "/fetch").then(() => false, () => true);
              navigator.sendBeacon(place + "/beacon");
              await new Promise((done) => setTimeout(done, 300));
              return [window.hacked ?? null, failed, broken];
            }""",
            place,
        )
    finally:
        page.close()
        server.shutdown()
        server.server_close()
    hacked, failed, broken = found
    assert hacked is None and failed and not hits
    assert {"script-src-elem", "script-src-attr", "img-src", "style-src-elem", "connect-src"} <= set(broken)
