"""From the results of single structures to means, breakdowns and comparisons, each with its interval."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

import numpy as np

from hip_ext.evaluation.blocks import distance_classes
from hip_ext.evaluation.lines import Line
from hip_ext.evaluation.metrics import DEGENERATE, QUANTITIES
from hip_ext.evaluation.pairs import delta_energy_error, delta_zpe_error, pairs_of
from hip_ext.evaluation.spectra import LOWEST_WAVENUMBER, NEGATIVE, TEMPERATURE
from hip_ext.evaluation.statistics import LEVEL, RESAMPLES, SEED, estimates
from hip_ext.version import version

FORMAT = "hip-ext evaluation 1"
SIZES = (5, 10, 15, 20, 30, 50, 100)
SHORT = ("hessian_mae", "hessian_relative", "eigenvalue_mae_eckart", "cos1_eckart", "negative_agrees", "frequency_mae")
"""What the breakdowns and the comparison of models show."""

Label = tuple[int, str]
"""Rank and name of a group of structures."""

AGAINST = {
    "data": "the Hessians of the data",
    "autograd": "the model's own backbone, −∂F/∂x by autograd, on the same structures",
}


def summary(lines: Sequence[Line], described: dict[str, Any], count: int) -> dict[str, Any]:
    """The contents of summary.json.

    Args:
        lines: one for each structure, model and reference.
        described: the contents of run.json.
        count: structures of the data that were looked at.
    """
    keys = list(dict.fromkeys((line["model"], line["reference"]) for line in lines))
    groups = {key: [line for line in lines if (line["model"], line["reference"]) == key] for key in keys}
    return {
        **described,
        "structures": count,
        "versions": _versions(),
        "definitions": {
            "negative eigenvalue": f"Eckart eigenvalue below {NEGATIVE:g} eV/(Å²·amu)",
            "lowest subspace": f"modes within {DEGENERATE:g} cm⁻¹ of the lowest one",
            "free energy": f"harmonic, {TEMPERATURE} K, real modes, raised to at least {LOWEST_WAVENUMBER:g} cm⁻¹",
            "interval": f"{LEVEL:.0%} percentile bootstrap over structures, {RESAMPLES} samples, seed {SEED}",
        },
        "units": {name: quantity.unit or "1" for name, quantity in QUANTITIES.items()},
        "results": [_result(model, reference, group) for (model, reference), group in groups.items()],
        "differences": _differences(groups),
    }


def _versions() -> dict[str, str]:
    packages = {name: metadata.version(name) for name in ("torch", "numpy", "scipy", "ase")}
    return {"hip-ext": version(), "python": platform.python_version(), **packages}


def _result(model: str, reference: str, lines: Sequence[Line]) -> dict[str, Any]:
    good = [line for line in lines if "metrics" in line]
    result: dict[str, Any] = {
        "model": model,
        "reference": reference,
        "against": AGAINST[reference],
        "evaluated": len(good),
        "skipped": dict(Counter(line["skipped"] for line in lines if "skipped" in line)),
        "failures": dict(Counter(line["failure"] for line in lines if "failure" in line)),
        "metrics": _means(good, [name for name in QUANTITIES if any(name in line["metrics"] for line in good)]),
        "pairs": _pairs(good),
        "by_size": _broken_down(good, _size),
        "by_group": _broken_down(good, _group),
        "by_negative_count": _broken_down(good, _order),
        "by_lowest_mode": _broken_down(good, _isolation),
        "by_element_pair": _by_block(good, "element_pairs"),
        "by_distance": _by_block(good, "distances", distance_classes()),
    }
    if reference == "autograd" and good:
        result["force_consistency"] = result["metrics"]["hessian_relative"]
    return result


def _means(lines: Sequence[Line], names: Sequence[str]) -> dict[str, Any]:
    if not lines:
        return {}
    table = np.array([[line["metrics"].get(name) for name in names] for line in lines], dtype=float)
    found = zip(names, estimates(table), strict=True)
    return {name: one.plain() | {"unit": QUANTITIES[name].unit} for name, one in found if one.n}


def _pairs(lines: Sequence[Line]) -> dict[str, Any]:
    how, pairs = pairs_of(lines)
    if not pairs:
        return {"how": how, "count": 0}
    table = np.array([[delta_zpe_error(a, b), delta_energy_error(a, b)] for a, b in pairs], dtype=float)
    names = ("delta_zpe_mae", "delta_energy_mae")
    found = {
        name: one.plain() | {"unit": QUANTITIES[name].unit}
        for name, one in zip(names, estimates(table), strict=True)
        if one.n
    }
    return {"how": how, "count": len(pairs), **found}


def _broken_down(lines: Sequence[Line], label: Callable[[Line], Label | None]) -> dict[str, Any]:
    """Means of each group, in the order of the groups' ranks."""
    groups: dict[Label, list[Line]] = {}
    for line in lines:
        found = label(line)
        if found is not None:
            groups.setdefault(found, []).append(line)
    return {found[1]: {"structures": len(groups[found]), **_means(groups[found], SHORT)} for found in sorted(groups)}


def _by_block(lines: Sequence[Line], key: str, order: Sequence[str] | None = None) -> dict[str, Any]:
    """Mean |ΔH| over the entries of each class of blocks, all structures together."""
    found = {name for line in lines for name in line[key]}
    names = (
        sorted(found, key=lambda name: (", " not in name, name)) if order is None else [n for n in order if n in found]
    )
    if not names:
        return {}
    table = np.array([[line[key].get(name, (0.0, 0.0, 0.0)) for name in names] for line in lines])
    entries, error, size = table.transpose(2, 0, 1)
    unit = QUANTITIES["hessian_mae"].unit
    result = {}
    for column, (name, one) in enumerate(zip(names, estimates(error, entries), strict=True)):
        total = entries[:, column].sum()
        result[name] = {
            "entries": int(total),
            "hessian_mae": one.plain() | {"n": int((entries[:, column] > 0).sum()), "unit": unit},
            "mean_abs": float(size[:, column].sum() / total),
        }
    return result


def _differences(groups: dict[tuple[str, str], list[Line]]) -> list[dict[str, Any]]:
    """Every later model minus every earlier one, structure by structure, where both have a result."""
    result = []
    keys = list(groups)
    for place, first in enumerate(keys):
        for second in keys[place + 1 :]:
            if first[1] != second[1]:
                continue
            ours = {line["index"]: line["metrics"] for line in groups[first] if "metrics" in line}
            theirs = {line["index"]: line["metrics"] for line in groups[second] if "metrics" in line}
            common = sorted(ours.keys() & theirs.keys())
            if not common:
                continue
            table = np.array([[_number(theirs[i][n]) - _number(ours[i][n]) for n in SHORT] for i in common])
            named = zip(SHORT, estimates(table), strict=True)
            metrics = {name: one.plain() | {"unit": QUANTITIES[name].unit} for name, one in named}
            result.append({"reference": first[1], "model": second[0], "minus": first[0], "metrics": metrics})
    return result


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _size(line: Line) -> Label:
    low = 1
    for rank, high in enumerate(SIZES):
        if line["atoms"] <= high:
            return rank, f"{low}–{high} atoms"
        low = high + 1
    return len(SIZES), f"more than {SIZES[-1]} atoms"


def _group(line: Line) -> Label | None:
    return None if line["group"] is None else (0, line["group"])


def _order(line: Line) -> Label:
    rank = min(line["metrics"]["negative_count_reference"], 2)
    return rank, ("none", "one (transition state, if stationary)", "several")[rank]


def _isolation(line: Line) -> Label:
    isolated = line["metrics"]["lowest_subspace_size"] == 1
    return (0, "lowest mode isolated") if isolated else (1, "lowest mode nearly degenerate")
