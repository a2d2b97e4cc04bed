"""What a few exact products make of a predicted Hessian, and how well random ones estimate its error.

    OMP_NUM_THREADS=1 python benchmarks/refinement.py

1. Products until the lowest eigenpair is exact to 1e-3: this package beside Lanczos, LOBPCG and Sella's own iteration,
   with and without the prediction (`refinement_methods.py`).
2. The package's own stopping rule: products made, and how often what it calls exact is.
3. Error against the number of products: lowest eigenvalue, sign count, frequencies, whole matrix.
4. Error estimates from one to three random products: rank correlation with the true error.
5. The same with products by automatic differentiation, for some structures, with times.

1 to 4 take products from the stored exact Hessians of `benchmarks/references`, which counts them without making them;
what is left out of the stored matrix is the rounding of float32. `--store` adds further complete Hessians of SO3LR.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from refinement_methods import METHODS, Case, products_needed
from refinement_plot import plot
from scipy.stats import spearmanr

from hip_ext import HessianModel, from_pretrained
from hip_ext.atomic import write_text
from hip_ext.data.store import HessianStore
from hip_ext.evaluation.statistics import RESAMPLES, SEED
from hip_ext.reference import autograd_hessian
from hip_ext.refinement import SOFT, Refinement, refine, refine_matrix
from hip_ext.refinement.error import error_from_products, random_signs
from hip_ext.refinement.update import Array
from hip_ext.vibrations import analyse

ROOT = Path(__file__).resolve().parents[1]
SETS = ("random_states", "minima", "large")
RELATIVE, OVERLAP = 1e-3, 0.99
CURVE = (0, 1, 2, 3, 4, 6, 8, 12, 16)
"""Products after which errors are taken."""

MOST = 40
"""Structures of a set, evenly spaced, for all but the error estimate, which takes all of them."""

REAL = {"random_states": 6, "minima": 6, "large": 1}
"""Structures of each set whose products are made by automatic differentiation."""

Sample = tuple[Atoms, Array, Array, Array]
"""Structure, exact and predicted Hessian (eV/Å²), gradient (eV/Å)."""


def samples(model: HessianModel, path: Path) -> list[Sample]:
    """The records of a store with three atoms or more, and what the head predicts for them."""
    found = []
    for record in HessianStore(path):
        atoms = record.atoms()
        if len(atoms) > 2 and record.forces is not None:
            predicted = model.hessian(atoms).dense().double().numpy()
            found.append((atoms, record.hessian(), (predicted + predicted.T) / 2, -np.asarray(record.forces, float)))
    return found


def spread(values: list[float] | Array) -> dict[str, float]:
    """Mean, median and 90 % quantile."""
    return {
        "mean": float(np.mean(values)),
        "median": float(np.median(values)),
        "q90": float(np.quantile(values, 0.9)),
    }


def lowest_pair(given: list[Sample]) -> dict[str, Any]:
    """Products until the lowest eigenpair is exact, by method, and their ratio to this package's."""
    value: dict[str, list[float]] = {name: [] for name in METHODS}
    pair: dict[str, list[float]] = {name: [] for name in METHODS}
    rng = np.random.default_rng(SEED)
    for atoms, exact, predicted, _ in given:
        case = Case.of(atoms, exact, predicted)
        for name, method in METHODS.items():
            history = method(case, rng)
            value[name].append(products_needed(case, history, RELATIVE))
            pair[name].append(products_needed(case, history, RELATIVE, OVERLAP))
    first = next(iter(METHODS))
    return {
        name: {
            "value": spread(value[name]),
            "value and vector": spread(pair[name]),
            "times the products": float(np.sum(value[name]) / np.sum(value[first])),
            "times the products, median structure": float(np.median(np.divide(value[name], value[first]))),
        }
        for name in METHODS
    }


def simulated(sample: Sample, **limits: Any) -> Refinement:
    """A refinement whose products come from the stored matrix."""
    atoms, exact, predicted, gradient = sample

    def multiply(vectors: Array) -> Array:
        return (vectors.reshape(len(vectors), -1) @ exact).reshape(vectors.shape)

    return refine_matrix(atoms, predicted, multiply, gradient, **limits)


def stopping_rule(given: list[Sample], modes: int, spare: int = 0) -> dict[str, Any]:
    """Products until a refinement says that the lowest modes, and some to spare, are exact, and whether they are."""
    made, errors, overlaps = [], [], []
    for sample in given:
        found = simulated(sample, modes=modes + spare)
        truth = analyse(sample[0], sample[1])
        count = min(modes, len(found.eigenvalues))
        exact = truth.eigenvalues[:count]
        gaps = np.abs(found.eigenvalues[:count] - exact) / np.maximum(np.abs(exact), SOFT)
        made.append(found.products)
        errors.append(float(gaps.max()))
        overlaps.append(float(abs(np.einsum("i,ix,ix", truth.masses, found.modes[0], truth.modes[0]))))
    return {
        "products": spread(made),
        "part of all products": float(np.sum(made) / np.sum([3 * len(s[0]) - 6 for s in given])),
        "largest error": max(errors),
        "errors within 1e-3": float(np.mean(np.array(errors) <= RELATIVE)),
        "errors within 1e-2": float(np.mean(np.array(errors) <= 1e-2)),
        "overlap of the lowest mode": {**spread(overlaps), "least": min(overlaps)},
    }


def stopping_rules(given: list[Sample]) -> dict[str, Any]:
    """`stopping_rule` for several modes, and for one more than is wanted."""
    asked = {"1": (1, 0), "1, one to spare": (1, 1), "3": (3, 0), "3, one to spare": (3, 1), "6": (6, 0)}
    return {name: stopping_rule(given, *modes) for name, modes in asked.items()}


def curve(given: list[Sample]) -> dict[str, list[float]]:
    """Medians over structures (means for counts) after 0, 1, … products."""
    rows: dict[str, list[float]] = {"products": list(map(float, CURVE))}
    truths = [analyse(atoms, exact) for atoms, exact, _, _ in given]
    for made in CURVE:
        values: dict[str, list[float]] = {}
        for sample, truth in zip(given, truths, strict=True):
            atoms, exact, _, _ = sample
            hessian = simulated(sample, products=made).hessian
            ours = analyse(atoms, hessian)
            low = truth.eigenvalues[0]
            overlap = np.einsum("i,ix,ix", truth.masses, ours.modes[0], truth.modes[0])
            one = {
                "lowest eigenvalue, relative error": abs(ours.eigenvalues[0] - low) / max(abs(low), SOFT),
                "lowest mode, 1 − overlap": max(1 - abs(overlap), 0.0),
                "negative modes right": float((ours.eigenvalues < -1e-6).sum() == (truth.eigenvalues < -1e-6).sum()),
                "frequency MAE, cm⁻¹": np.abs(ours.frequencies - truth.frequencies).mean(),
                "Hessian MAE, eV/Å²": np.abs(hessian - exact).mean(),
            }
            for name, value in one.items():
                values.setdefault(name, []).append(float(value))
        for name, column in values.items():
            middle = np.mean(column) if name == "negative modes right" else np.median(column)
            rows.setdefault(name, []).append(float(middle))
    return rows


def estimated(given: list[Sample], products: int) -> dict[str, Any]:
    """Rank correlation of estimated and true errors, with 95 % bootstrap intervals over structures."""
    rows = []
    for number, (atoms, exact, predicted, _) in enumerate(given):
        signs = random_signs(len(atoms), products, seed=number)
        images = (signs.reshape(products, -1) @ exact).reshape(signs.shape)
        error = predicted - exact
        estimate = error_from_products(predicted, signs, images)
        size = float(np.sqrt((exact**2).mean()))
        rms = float(np.sqrt((error**2).mean()))
        rows.append((estimate.rms, estimate.relative, rms, float(np.abs(error).mean()), rms / size))
    table = np.array(rows)
    rng = np.random.default_rng(SEED)
    draws = [table[rng.integers(0, len(table), len(table))] for _ in range(RESAMPLES)]
    found: dict[str, Any] = {"structures": len(table)}
    for name, columns in {"rms": (0, 2), "mae": (0, 3), "relative": (1, 4)}.items():
        ends = np.quantile([spearmanr(*draw[:, columns].T).statistic for draw in draws], [0.025, 0.975])
        found[f"rank correlation with true {name}"] = {
            "value": float(spearmanr(*table[:, columns].T).statistic),
            "low": float(ends[0]),
            "high": float(ends[1]),
        }
    ratio = table[:, 0] / table[:, 2]
    found["estimate / true rms"] = {"q05": float(np.quantile(ratio, 0.05)), "q95": float(np.quantile(ratio, 0.95))}
    found["points"] = {"estimate": table[:, 0].tolist(), "rms": table[:, 2].tolist(), "mae": table[:, 3].tolist()}
    return found


def differentiated(name: str, model: HessianModel, given: list[Sample]) -> list[dict[str, Any]]:
    """Refinements with products by automatic differentiation in the model's dtype, beside the whole exact matrix."""
    rows = []
    for sample in given:
        atoms = sample[0]
        start = time.process_time()
        found = refine(model, atoms, modes=1)
        middle = time.process_time()
        exact = autograd_hessian(model.backbone, model.structures(atoms)).double().numpy()
        end = time.process_time()
        low = analyse(atoms, exact).eigenvalues[0]
        rows.append(
            {
                "set": name,
                "formula": atoms.get_chemical_formula(),
                "atoms": len(atoms),
                "products": found.products,
                "products from the stored matrix": simulated(sample, modes=1).products,
                "relative error": float(abs(found.eigenvalues[0] - low) / max(abs(low), SOFT)),
                "seconds": middle - start,
                "seconds of the exact Hessian": end - middle,
            }
        )
    return rows


def main() -> None:
    """Measures everything and writes the table and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="hip-so3lr-organic")
    parser.add_argument("--store", type=Path, action="append", default=[], help="further complete Hessians of SO3LR")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/refinement.json")
    parser.add_argument("--plot", type=Path, default=ROOT / "docs/refinement.png")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = from_pretrained(arguments.model)
    paths = {name: ROOT / f"benchmarks/references/{name}.lmdb" for name in SETS}
    paths |= {path.stem: path for path in arguments.store}
    results: dict[str, Any] = {"relative": RELATIVE, "overlap": OVERLAP, "soft": SOFT, "sets": {}, "real": []}
    for name, path in paths.items():
        everything = samples(model, path)
        given = everything[:: -(-len(everything) // MOST)]
        results["sets"][name] = {
            "structures": len(given),
            "structures for the estimate": len(everything),
            "atoms": spread([len(sample[0]) for sample in given]),
            "lowest pair": lowest_pair(given),
            "stopping rule": stopping_rules(given),
            "curve": curve(given),
            "estimate": {str(products): estimated(everything, products) for products in (1, 2, 3)},
        }
        print(name, json.dumps(results["sets"][name]["lowest pair"], ensure_ascii=False), flush=True)
        results["real"] += differentiated(name, model, given[: REAL.get(name, 0)])
    write_text(arguments.out, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(results["real"], indent=1))
    plot(results, arguments.plot)


if __name__ == "__main__":
    main()
