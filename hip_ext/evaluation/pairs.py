"""Differences between two structures of one formula: errors common to both cancel, as they do in a reaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations

from hip_ext.evaluation.lines import Line


def pairs_of(lines: Sequence[Line]) -> tuple[str, list[tuple[Line, Line]]]:
    """Pairs of structures with one formula and charge, and how they were found.

    Where any line declares a pair, these are all combinations of lines that declare the same; else successive lines of
    one formula are paired, each line once, so that the pairs are independent draws.

    Args:
        lines: results of one model against one reference, in the order of the data.
    """
    declared = any(line["pair"] is not None for line in lines)
    groups = defaultdict(list)
    for line in lines:
        if line["pair"] is not None or not declared:
            groups[line["pair"], line["formula"]].append(line)
    if declared:
        return "declared", [pair for group in groups.values() for pair in combinations(group, 2)]
    return "formula", [pair for group in groups.values() for pair in zip(group[::2], group[1::2], strict=False)]


def delta_zpe_error(first: Line, second: Line) -> float:
    """Error of the difference of two zero-point energies, eV."""
    a, b = first["metrics"], second["metrics"]
    return abs((b["zpe"] - a["zpe"]) - (b["zpe_reference"] - a["zpe_reference"]))


def delta_energy_error(first: Line, second: Line) -> float | None:
    """Error of the difference of two energies, eV, as far as the data have both."""
    if first["energy"] is None or second["energy"] is None:
        return None
    (a, exact_a), (b, exact_b) = first["energy"], second["energy"]
    return float(abs((b - a) - (exact_b - exact_a)))
