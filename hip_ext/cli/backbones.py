"""`hip-ext backbones`: which backbones there are, and which can be used here."""

from __future__ import annotations

from dataclasses import asdict

from hip_ext.cli.options import JsonOption
from hip_ext.cli.output import print_json, print_tables, table


def backbones(as_json: JsonOption = False) -> None:
    """List the known backbones: who declares them, what they need, what is installed, what to do.

    A name that several packages want is listed several times; the first row has it.
    """
    from rich.markup import escape

    from hip_ext.backbones import availability

    found = availability()
    if as_json:
        print_json([asdict(one) for one in found])
        return
    rows = table("backbone", "from", "package", "installed", "usable", "what to do")
    for column in rows.columns:
        column.justify, column.no_wrap = "left", False
    for one in found:
        cells = (one.kind, one.origin, one.package or "–", one.version or ("no" if one.package else "–"))
        rows.add_row(*map(escape, cells), "yes" if one.usable else "no", escape(one.hint))
    print_tables(rows)
