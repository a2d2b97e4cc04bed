"""The tables of docs/optimisation.md and docs/refinement.md say what the benchmarks' results say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def results(name: str) -> dict:
    return json.loads((ROOT / f"benchmarks/results/{name}.json").read_text(encoding="utf-8"))


def rows(page: str) -> list[list[str]]:
    """Cells of all tables, without bold type and what stands behind the first one."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8").replace("**", "")
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return [[first.removesuffix(" (the default)"), *rest] for first, *rest in found]


def test_optimisers():
    found = rows("optimisation.md")
    for one in results("optimisation")["methods"].values():
        seconds = one["cpu_seconds_total"]
        assert [
            one["what"],
            f"{one['molecules']}",
            f"{one['converged']}",
            f"{one['steps_mean']:.2f}",
            f"{one['steps_median']:g}",
            f"{one['steps_max']}",
            f"{seconds:.1f}",
            f"{seconds / one['molecules']:.2f}",
        ] in found


@pytest.mark.parametrize("method", results("refinement")["sets"]["minima"]["lowest pair"])
def test_products_for_the_lowest_pair(method):
    counts = [one["lowest pair"][method]["value"] for one in results("refinement")["sets"].values()]
    assert [method, *(f"{one['mean']:.1f} ({one['q90']:.0f})" for one in counts)] in rows("refinement.md")


@pytest.mark.parametrize("modes", results("refinement")["sets"]["minima"]["stopping rule"])
def test_where_a_refinement_stops(modes):
    cells = [modes]
    for one in results("refinement")["sets"].values():
        rule = one["stopping rule"][modes]
        right = f"{rule['errors within 1e-3']:.0%}, {rule['largest error']:.1g}"
        cells.append(f"{rule['products']['mean']:.1f}; {right}")
    assert cells in rows("refinement.md")


@pytest.mark.parametrize("products", ["1", "2", "3"])
def test_rank_correlations_of_the_estimate(products):
    cells = [products]
    for one in results("refinement")["sets"].values():
        found = one["estimate"][products]
        rms, mae = found["rank correlation with true rms"], found["rank correlation with true mae"]
        cells.append(f"{rms['value']:.2f} ({rms['low']:.2f} to {rms['high']:.2f}); {mae['value']:.2f}")
    assert cells in rows("refinement.md")
