"""The whole page: head, policy, sections, and the script that makes it move.

The policy lets in nothing but this page's own style and script, which it knows by their digests. So nothing is asked of
the network, and text that got into the page as markup after all would still not run.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

from hip_ext.report.bands import bands
from hip_ext.report.heat_map import heat_map
from hip_ext.report.markup import Markup, tag
from hip_ext.report.parts import (
    Bands,
    EnergyProfile,
    Flags,
    HessianMap,
    Modes,
    Note,
    Part,
    Provenance,
    Section,
    Structure3D,
    Table,
)
from hip_ext.report.profile import profile
from hip_ext.report.scenes import Scene, frames_scene, modes_scene, profile_scene
from hip_ext.report.spectrum import spectrum
from hip_ext.report.stage import stage
from hip_ext.report.texts import flags, note, provenance, table


def page(title: str, parts: Sequence[Part | Section]) -> str:
    """The page as HTML.

    Args:
        title: at its top.
        parts: in the order shown; consecutive ones outside a `Section` make one without a title.
    """
    sections = _grouped(parts)
    named = [(f"s{k}", section.title) for k, section in enumerate(sections) if section.title]
    links = [tag("li", tag("a", name, href=f"#{place}")) for place, name in named]
    menu = tag("nav", tag("ol", links), aria_label="Sections") if len(named) > 1 else ""
    body = [_section(f"s{k}", section) for k, section in enumerate(sections)]
    style = _asset("report.css")
    # One function, so that no name of ours takes the place of one of the browser's.
    script = "(() => {\n" + "\n".join(map(_asset, ("viewer.js", "report.js"))) + "})();"
    policy = (
        f"default-src 'none'; style-src {_digest(style)}; script-src {_digest(script)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        tag("style", Markup(style)),
    ]
    aloud = tag("noscript", tag("p", "The 3D view needs JavaScript; the rest does not.", class_="note"))
    main = tag("main", tag("h1", title), aloud, menu, body)
    whole = tag("html", tag("head", head), tag("body", main, tag("script", Markup(script))), lang="en")
    return f"<!doctype html>\n{whole}\n"


def _grouped(parts: Sequence[Part | Section]) -> list[Section]:
    sections: list[Section] = []
    loose: list[Part] = []
    for part in parts:
        if isinstance(part, Section):
            sections += [Section("", loose)] if loose else []
            sections.append(part)
            loose = []
        else:
            loose.append(part)
    return sections + ([Section("", loose)] if loose else [])


def _section(place: str, section: Section) -> Markup:
    scenes: list[Scene] = []
    shown = [_part(f"{place}p{k}", part, scenes) for k, part in enumerate(section.parts)]
    heading = tag("h2", section.title) if section.title else ""
    if not scenes:
        return tag("section", heading, tag("div", shown, class_="parts"), id=place)
    data = _data([scene.data for scene in scenes])
    side = tag("div", stage(place, scenes), class_="side")
    return tag("section", heading, tag("div", side, tag("div", shown, class_="parts"), class_="both"), data, id=place)


def _part(place: str, part: Part, scenes: list[Scene]) -> Markup:
    """One part; what it shows in 3D joins the scenes of its section."""
    match part:
        case Structure3D():
            scenes.append(frames_scene(part))
            return Markup("")
        case Modes():
            scenes.append(modes_scene(part))
            return spectrum(place, part, len(scenes) - 1, scenes[-1].count if scenes[-1].animated else 0)
        case EnergyProfile():
            if part.frames is not None:
                scenes.append(profile_scene(part))
            return profile(place, part, len(scenes) - 1 if part.frames is not None else None)
        case Bands():
            return bands(part)
        case HessianMap():
            return heat_map(place, part)
        case Table():
            return table(part)
        case Flags():
            return flags(part)
        case Provenance():
            return provenance(part)
        case Note():
            return note(part)


def _data(value: Any) -> Markup:
    """Data for the script. Nothing in it can end the element, and the policy would not run it."""
    told = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=True)
    for sign in "<>&":
        told = told.replace(sign, f"\\u{ord(sign):04x}")
    return tag("script", Markup(told), type="application/json", class_="scenes")


def _digest(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


@cache
def _asset(name: str) -> str:
    return resources.files("hip_ext.report").joinpath("assets", name).read_text(encoding="utf-8")
