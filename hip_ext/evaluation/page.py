"""report.html: one file with all tables and pictures in it, which asks nothing of the network."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from hip_ext.evaluation.plots import plots

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1f2933; background: #fff; max-width: 72rem; margin: 0 auto;
  padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem .25rem 0; text-align: right; border-bottom: 1px solid #d9dee3; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } thead th { white-space: normal; vertical-align: bottom; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(17rem, 100%), 1fr)); gap: 1rem; }
figure { margin: 0; break-inside: avoid; } figure img { width: 100%; height: auto; }
figcaption { font-size: .9rem; font-weight: 600; }
@media print { body { max-width: none; font-size: 10pt; } .scroll { overflow: visible; }
  th, td { white-space: normal; } tr { break-inside: avoid; } h2 { break-after: avoid; } }
"""


def page(
    lines: Sequence[dict[str, Any]],
    summary: dict[str, Any],
    tables: Iterable[tuple[str, Sequence[str], Sequence[Sequence[str]]]],
    notes: Sequence[str],
) -> str:
    """The page.

    Args:
        lines: one for each structure, model and reference.
        summary: the contents of summary.json.
        tables: title, header and rows of each; the first comes before the pictures.
        notes: sentences below the first table.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    first, *rest = tables
    title = f"Evaluation on {escape(Path(summary['data']['path']).name)}"
    body = [f"<h1>{title}</h1>", _table(*first), "<ul>", *(f"<li>{escape(note)}</li>" for note in notes), "</ul>"]
    for result in summary["results"]:
        own = [
            line
            for line in lines
            if (line["model"], line["reference"]) == (result["model"], result["reference"]) and "metrics" in line
        ]
        if own:
            body += [f"<h2>{escape(result['model'])} against {escape(result['against'])}</h2>", '<div class="plots">']
            body += [_figure(name, svg) for name, svg in plots(own, result)]
            body += ["</div>"]
    body += [_table(*table) for table in rest]
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style>"
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(body) + "\n</body></html>\n"


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"
    return f'<h2>{escape(title)}</h2>\n<div class="scroll">{table}</div>'


def _figure(name: str, svg: str) -> str:
    data = base64.b64encode(svg.encode()).decode()
    picture = f'<img alt="{escape(name)}" src="data:image/svg+xml;base64,{data}">'
    return f"<figure><figcaption>{escape(name)}</figcaption>{picture}</figure>"
