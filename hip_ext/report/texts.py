"""The parts of a report that are text: tables, checks, provenance, notes."""

from __future__ import annotations

import re

from hip_ext.report.markup import Markup, tag
from hip_ext.report.parts import Flags, Note, Provenance, Table

NUMBER = re.compile(r"[-−+]?[\d.,]+([eE][-+]?\d+)?i?[%°×]?|–|not a number|∞|−∞|")
VERDICTS = {True: ("passed", "✓"), False: ("failed", "✗"), None: ("not done", "–")}


def table(part: Table) -> Markup:
    """A table with a caption; columns of numbers stand on the right."""
    columns = range(len(part.header))
    right = [bool(part.rows) and all(NUMBER.fullmatch(str(row[k])) for row in part.rows) for k in columns]
    head = [tag("th", part.header[k], scope="col", class_="number" if right[k] else None) for k in columns]
    rows = [tag("tr", [tag("td", row[k], class_="number" if right[k] else None) for k in columns]) for row in part.rows]
    if not rows:
        rows = [tag("tr", tag("td", "nothing", colspan=len(part.header)))]
    return part_of(part.title, scroller(part.title, tag("table", tag("thead", tag("tr", head)), tag("tbody", rows))))


def flags(part: Flags) -> Markup:
    """A list of checks, each with its verdict as a word and not only as a colour."""
    items = []
    for name, passed, said in part.checks:
        word, sign = VERDICTS[None if passed is None else bool(passed)]
        verdict = tag("span", tag("span", sign, aria_hidden="true"), " ", word, class_="verdict")
        kind = word.replace(" ", "-")
        items.append(tag("li", verdict, tag("span", tag("strong", name), ": ", said), class_=f"flag {kind}"))
    return part_of(part.title, tag("ul", items, class_="flags") if items else tag("p", "No checks were made."))


def provenance(part: Provenance) -> Markup:
    """Names and values."""
    rows = [(tag("dt", name), tag("dd", value)) for name, value in part.values.items()]
    return part_of(part.title, tag("dl", rows))


def note(part: Note) -> Markup:
    """A paragraph."""
    return tag("p", part.text, class_="note")


def part_of(title: str, *content: object, kind: str = "") -> Markup:
    """A part with its heading."""
    return tag("div", tag("h3", title) if title else "", content, class_=f"part {kind}".strip())


def scroller(title: str, *content: object) -> Markup:
    """What may be wider than a phone, in a box that also the keyboard can scroll."""
    return tag("div", content, class_="scroll", tabindex=0, role="region", aria_label=title or "table")
