"""The files of a finished evaluation: a CSV of structures, summary.json, summary.md, report.html."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hip_ext.atomic import write_text
from hip_ext.errors import ConfigError
from hip_ext.evaluation.lines import Line
from hip_ext.evaluation.metrics import QUANTITIES
from hip_ext.evaluation.page import page
from hip_ext.evaluation.summary import SHORT

COLUMNS = ("index", "name", "formula", "group", "pair", "model", "reference")
BREAKDOWNS = {
    "by_size": "By size",
    "by_group": "By group",
    "by_negative_count": "By the reference's negative modes",
    "by_lowest_mode": "By how isolated the lowest mode is",
}


def write_tables(folder: Path, lines: Sequence[Line], summary: dict[str, Any]) -> None:
    """Writes all four files.

    Raises:
        ConfigError: one cannot be written.
        MissingDependencyError: matplotlib is not installed; the other files are there.
    """
    try:
        write_text(folder / "structures.csv", structure_table(lines))
        write_text(folder / "summary.json", json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        write_text(folder / "summary.md", markdown(summary))
        write_text(folder / "report.html", page(lines, summary, sections(summary), notes(summary)))
    except OSError as error:
        raise ConfigError(f"cannot write to {folder}: {error.strerror or error}") from None


def structure_table(lines: Sequence[Line]) -> str:
    """CSV, one row a line; units stand in the header, failures in the last column."""
    names = [name for name in QUANTITIES if any(name in line.get("metrics", {}) for line in lines)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *(_with_unit(name) for name in names), "failure"])
    for line in lines:
        metrics = line.get("metrics", {"atoms": line.get("atoms")})
        values = [_cell(metrics.get(name)) for name in names]
        reason = line.get("failure", line.get("skipped", ""))
        writer.writerow([*(_cell(line.get(name)) for name in COLUMNS), *values, reason])
    return text.getvalue()


Table = tuple[str, list[str], list[list[str]]]
"""Title, header, rows."""


def sections(summary: dict[str, Any]) -> Iterator[Table]:
    """Every table of the summary, as text."""
    results = [result for result in summary["results"] if result["evaluated"]]
    yield _overview(summary, results)
    for result in results:
        title = heading(result)
        for key, name in BREAKDOWNS.items():
            if result[key]:
                yield f"{title}: {name.lower()}", ["", "structures", *map(_title, SHORT)], _rows(result[key])
        for key, name in (("by_element_pair", "element pair"), ("by_distance", "distance of two atoms")):
            header = [name, "entries", _title("hessian_mae"), "95 %", _title("mean_abs")]
            yield f"{title}: Hessian error by {name}", header, _block_rows(result[key])
    for difference in summary["differences"]:
        title = f"{difference['model']} minus {difference['minus']}, against {_against(difference['reference'])}"
        rows = [[_title(name), show(one["mean"]), interval(one)] for name, one in difference["metrics"].items()]
        yield title, ["difference on the same structures", "mean", "95 %"], rows


def heading(result: dict[str, Any]) -> str:
    """A model and what it was compared with."""
    return f"{result['model']} against {_against(result['reference'])}"


def markdown(summary: dict[str, Any]) -> str:
    """summary.md."""
    parts = [f"# Evaluation on {Path(summary['data']['path']).name}", "", *(f"- {note}" for note in notes(summary)), ""]
    for title, header, rows in sections(summary):
        # A bar inside |cos| would end the cell.
        head, *body = ("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (header, *rows))
        parts += [f"## {title}", "", head, "|---" + "|---:" * (len(header) - 1) + "|", *body, ""]
    return "\n".join(parts)


def notes(summary: dict[str, Any]) -> list[str]:
    """What a reader has to know about the numbers, one sentence each."""
    data = summary["data"]
    lines = [f"{summary['structures']} structures of {Path(data['path']).name}, sha256 {data['sha256'][:12]}."]
    for name, model in summary["models"].items():
        lines.append(f"{name}: {model['hessian']}; backbone {model['backbone']}, {model['dtype']}.")
    for result in summary["results"]:
        if _other_zero(result):
            lines.append(f"{heading(result)}: energies have another zero than the data's; ΔE is what can be compared.")
        for what in ("skipped", "failures"):
            lines += [f"{heading(result)}: {n} {what}, {reason}." for reason, n in result[what].items()]
    return [*lines, *(f"{name[0].upper()}{name[1:]}: {text}." for name, text in summary["definitions"].items())]


def _other_zero(result: dict[str, Any]) -> bool:
    """Whether energies are off by more than any error of a potential, 1 eV an atom."""
    metrics = result["metrics"]
    return "energy_mae" in metrics and metrics["energy_mae"]["median"] > metrics["atoms"]["median"]


def _against(reference: str) -> str:
    return "the data" if reference == "data" else "its own backbone's autograd Hessian"


def _overview(summary: dict[str, Any], results: Sequence[dict[str, Any]]) -> Table:
    names = [name for name in summary["units"] if any(name in {**r["metrics"], **r["pairs"]} for r in results)]
    rows = [["structures", *(str(result["evaluated"]) for result in results)]]
    if any(result["pairs"]["count"] for result in results):
        rows.append(["pairs (Δ)", *(str(result["pairs"]["count"]) for result in results)])
    for name in names:
        found = [{**result["metrics"], **result["pairs"]}.get(name) for result in results]
        rows.append([_title(name), *(f"{show(f['mean'])} {interval(f)}" if f else "" for f in found)])
    return "Means and their intervals", ["", *map(heading, results)], rows


def _rows(groups: dict[str, Any]) -> list[list[str]]:
    return [
        [name, str(group["structures"]), *(show(group[metric]["mean"]) if metric in group else "" for metric in SHORT)]
        for name, group in groups.items()
    ]


def _block_rows(classes: dict[str, Any]) -> list[list[str]]:
    return [
        [name, str(c["entries"]), show(c["hessian_mae"]["mean"]), interval(c["hessian_mae"]), show(c["mean_abs"])]
        for name, c in classes.items()
    ]


def show(value: float | None) -> str:
    """Four significant digits."""
    return "" if value is None else f"{value:.4g}"


def interval(estimate: dict[str, Any]) -> str:
    """The two ends."""
    return f"[{show(estimate['low'])}, {show(estimate['high'])}]"


def _title(name: str) -> str:
    quantity = QUANTITIES[name]
    return f"{quantity.title} ({quantity.unit})" if quantity.unit else quantity.title


def _with_unit(name: str) -> str:
    unit = QUANTITIES[name].unit
    return f"{name} [{unit}]" if unit else name


def _cell(value: Any) -> str:
    return "" if value is None else str(int(value) if isinstance(value, bool) else value)
