"""The tables of measured numbers in README.md, docs and benchmarks/README.md say what the benchmarks' results say."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean

import pytest

ROOT = Path(__file__).resolve().parents[1]


def results(name: str) -> dict:
    return json.loads((ROOT / f"benchmarks/results/{name}.json").read_text(encoding="utf-8"))


def rows(page: str) -> list[list[str]]:
    """Cells of all tables, without bold type and what stands behind the first one; a page by its path, or in docs."""
    path = ROOT / page if (ROOT / page).exists() else ROOT / "docs" / page
    text = path.read_text(encoding="utf-8").replace("**", "")
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


SEARCHES = {
    "direct": "predicted at every step",
    "direct_start": "predicted at the start, then updated",
    "direct_product": "predicted at the start, made exact along the path",
    "exact": "exact at every step",
    "exact_start": "exact at the start, then updated",
    "sella": "Sella's own diagonalisation",
    "none": "Sella's guess, never looked at",
}
"""Where a search's Hessians come from, by the names of benchmarks/transition_states.py."""

ACCURACY = {
    "large, rattled": "16 drugs, peptides, sugars, lipids, rattled",
    "minima": "62 enumerated molecules at minima",
    "random states, 22 to 30 atoms": "35 enumerated, random states",
    "random states, up to 21 atoms": "59 enumerated, random states",
}


@pytest.mark.parametrize("kind", ACCURACY)
def test_accuracy_of_the_head(kind):
    one = results("accuracy_so3lr")[kind]
    assert ACCURACY[kind].startswith(f"{one['structures']} ")
    assert [
        ACCURACY[kind],
        f"{one['atoms_least']}–{one['atoms_most']}",
        f"{one['hessian_mae']:.3f} ({one['hessian_mae_median']:.3f})",
        f"{one['mae_over_mean_abs']:.3f}",
        f"{one['mode_overlap_median']:.3f}",
        percent(one["negative_agreement"]),
        f"{one['frequency_mae']:.1f}",
        f"{100 * one['zpe_error_median']:.2f} %",
    ] in rows("README.md")


@pytest.mark.parametrize(
    ("title", "aim", "kind", "metric", "form"),
    [
        ("MAE up to 21 atoms, eV/Å²", "0.04", "random states, up to 21 atoms", "hessian_mae", "{:.3f}"),
        ("the same, median", "", "random states, up to 21 atoms", "hessian_mae_median", "{:.3f}"),
        ("MAE of ordinary molecules of 32 to 74 atoms, rattled", "", "large, rattled", "hessian_mae", "{:.3f}"),
        (
            "lowest mode up to 21 atoms, median of the overlap",
            *("0.995", "random states, up to 21 atoms", "mode_overlap_median", "{:.3f}"),
        ),
        ("the same, mean", "0.95", "random states, up to 21 atoms", "mode_overlap_mean", "{:.3f}"),
        (
            "number of negative modes right, up to 21 atoms",
            *("95 %", "random states, up to 21 atoms", "negative_agreement", "{:.0%}"),
        ),
        ("frequencies at minima, MAE in cm⁻¹", "4", "minima", "frequency_mae", "{:.1f}"),
        ("ZPE, median error, at minima", "0.05 %", "minima", "zpe_error_median", "{:.2%}"),
    ],
)
def test_what_was_aimed_at(title, aim, kind, metric, form):
    both = [
        form.format(results(name)[kind][metric]).replace("%", " %")
        for name in ("accuracy_so3lr", "accuracy_so3lr_large")
    ]
    assert [title, aim, *both] in rows("distillation.md")


def test_the_larger_head_in_the_readme():
    found = results("accuracy_so3lr_large")
    errors = ", ".join(f"{found[kind]['hessian_mae']:.3f}" for kind in list(ACCURACY)[:3])
    last = found["random states, up to 21 atoms"]["hessian_mae"]
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"`hip-so3lr-organic-large`, the same way: {errors} and {last:.3f} eV/Å²" in text
    assert f"minima within {found['minima']['frequency_mae']:.1f} cm⁻¹" in text


@pytest.mark.parametrize(
    ("what", "title"),
    [("direct against label", "direct Hessian"), ("own autograd against label", "the model's own, by autograd")],
)
def test_accuracy_beside_fairchem(what, title):
    one = results("fairchem_molecules")[what]
    assert [
        title,
        f"{one['hessian_mae']:.2f} ({one['hessian_mae_median']:.2f})",
        f"{one['mode_overlap_median']:.3f}",
        percent(one["negative_agreement"]),
        f"{one['frequency_mae']:.0f}",
        f"{100 * one['zpe_error_median']:.1f} %",
    ] in rows("README.md")


@pytest.mark.parametrize("crystal", results("phonons"))
def test_bands_of_crystals(crystal):
    one = results("phonons")[crystal]
    error, highest = f"{one['band_mae']:.1f}", f"{one['highest']:.0f}"
    ratio = f"{one['displaced_seconds'] / one['direct_seconds']:.0f}"
    assert [crystal, error, highest, ratio] in rows("README.md")
    supercell = "×".join(map(str, one["supercell"]))
    gamma = f"{one['gamma_mae']:.3f} of {one['gamma_mean_abs']:.3f}"
    assert [crystal, supercell, f"{one['displacements']}", highest, error, ratio, gamma] in rows("phonons.md")


def test_speed_beside_the_backbones():
    titles = {"so3lr": "SO3LR", "mace": "MACE 128x0e+128x1o"}
    made = [
        [
            titles[one["backbone"]],
            f"{one['atoms']}",
            f"{1000 * one['seconds']['direct']['median']:.0f} ms",
            f"{one['ratios']['direct / energy']:.2f}",
            f"{one['ratios']['direct / energy_forces']:.2f}",
            f"{one['ratios']['autograd / direct']:.0f}",
        ]
        for one in results("hessian_speed")["cases"]
        if one["batch"] == 1 and one["backbone"] in titles and "autograd" in one["seconds"]
    ]
    written = [row for row in rows("README.md") if row[0] in titles.values() and row[1].isdigit()]
    assert len(written) == 5 and all(row in made for row in written)


@pytest.mark.parametrize("place", range(3))
def test_speed_beside_fairchem(place):
    one = results("fairchem_speed")["cases"][place]
    ratios = one["ratios"]
    assert [
        f"{one['atoms']}",
        f"{one['seconds']['direct']['median']:.2f} s",
        f"{ratios['direct / pass']:.2f}",
        f"{ratios['direct / energy_forces']:.2f}",
        f"{ratios['autograd, loop / direct']:.0f}",
        f"{ratios['one copy / pass']:.2f}",
    ] in rows("README.md")


@pytest.mark.parametrize(
    ("run", "part"), [(run, part) for run, parts in results("label_efficiency").items() for part in parts]
)
def test_how_many_labels(run, part):
    one = results("label_efficiency")[run][part]
    kind = "one product H·v of each" if part == "probes" else "rows of three atoms"
    assert [
        f"{one['structures']:,}",
        *([kind] if run.startswith("so3lr") else []),
        f"{one['products']:,}",
        f"{one['hessian_mae']:.3f} ({one['hessian_mae_median']:.3f})",
        f"{one['mode_overlap_median']:.3f}",
        f"{one['negative_agreement']:.0%}",
        f"{one['frequency_mae']:.0f}",
    ] in rows("distillation.md")


@pytest.mark.parametrize(
    ("what", "title", "digits"),
    [
        ("SO3LR, exact", "SO3LR, exact", 1),
        ("distilled", "`hip-so3lr-organic`", 1),
        ("new weights", "new weights, 48 DFT labels", 2),
        ("fine-tuned", "distilled, then 48 DFT labels", 2),
        ("new weights", "new weights, 48 and 186 own DFT labels", 2),
        ("fine-tuned", "distilled, then 48 and 186 own DFT labels", 2),
    ],
)
def test_from_distillation_to_dft(what, title, digits):
    labels = "60+186" if "186" in title else "60+0"
    one = results("dft_transfer")[labels]["against the DFT labels"][what]
    assert [
        title,
        f"{one['hessian_mae']['mean']:.3f} ({one['hessian_mae']['median']:.3f})",
        f"{one['frequency_mae']['mean']:.0f}",
        f"{100 * one['zpe_error']['mean']:.{digits}f} %",
        f"{one['cos1_eckart']['mean']:.3f}",
    ] in rows("benchmarks/README.md")


@pytest.mark.parametrize("grid", ["level 3", "level 4", "level 5", "(75, 302)", "(50, 590)", "(99, 590)"])
def test_grids_of_dft(grid):
    found = results("pyscf_grid")
    record = found["against HORM"]["record 50"][grid]
    cells = [f"{found['against (150, 974)'][name][grid]['hessian_mae']:.4f}" for name in ("H2O", "CH4")]
    label = f" (the label's: {record['sum_rule_of_reference']:.2f})" if grid == "(99, 590)" else ""
    rule = f"{record['sum_rule']:.2f}{label}"
    assert [grid, *cells, f"{record['hessian_mae']:.4f}", rule] in rows("labels.md")


@pytest.mark.parametrize("arm", SEARCHES)
@pytest.mark.parametrize("name", ["transition_states", "transition_states_large"])
def test_searches_for_saddles(name, arm):
    for part in results(name)["all"], results(name)["with_exact"]:
        one = part["arms"].get(arm)
        if one is not None and one["reactions"]:
            counts = [str(one[what]) for what in ("saddles", "intended")]
            means = [f"{one[what]:.1f}" for what in ("steps", "gradients")]
            hessians = f"{one['direct_hessians'] + one['exact_hessians']:.1f}"
            assert [SEARCHES[arm], *counts, *means, hessians, f"{one['cpu']:.1f}"] in rows("transition_states.md")


@pytest.mark.parametrize("head", ["ours", "HIP-style"])
def test_five_folds_of_dft(head):
    folds = [one for one in results("hip_style_folds").values() if one["head"] == head]
    errors, *others = (
        [one["metrics"]["fold"][name] for one in folds]
        for name in ("hessian_mae", "overlap", "negative_agrees", "frequency_mae", "sum_rule")
    )
    overlap, negative, frequency, rule = map(mean, others)
    assert [
        head,
        f"{folds[0]['learning_rate']:g}",
        f"{mean(errors):.3f}",
        f"{min(errors):.3f} to {max(errors):.3f}",
        f"{overlap:.3f}",
        f"{negative:.0%}",
        f"{frequency:.0f}",
        f"{rule:.2g}",
        f"{mean(one['training']['steps'] for one in folds):.0f}",
    ] in rows("comparison.md")


def test_learned_by_heart():
    few, many = results("by_heart_so3lr").values()
    (cell,) = (third for first, _, third, *_ in rows("distillation.md") if first == "functional form")
    assert f"{few[-1]['train_mae']:.3f} eV/Å²" in cell and few[-1]["train_mae"] < few[-2]["train_mae"]
    assert f"1,000 end at {many[-1]['train_mae']:.3f}" in cell


def test_cost_of_a_training_step():
    mace, so3lr = (results("training_step")[name] for name in ("mace", "so3lr"))
    for page in ("docs/training.md", "benchmarks/README.md"):
        text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
        head = [one["ratio"]["energy + forces + head"] for one in (mace, so3lr)]
        assert f"{head[0]:.2f} (MACE) and {head[1]:.2f} (SO3LR)" in text
        for columns in ("1 columns", "2 columns"):
            one, other = (found["ratio"][f"energy + forces + {columns}"] for found in (mace, so3lr))
            assert f"{one:.1f} and {other:.1f}" in text
        for found in (mace, so3lr):
            for step in ("energy + forces + head", "energy + forces + head, AdamW"):
                assert f"{found['trainer']['ratio'][step]:.2f}" in text


def percent(share: float) -> str:
    """A share as README.md writes it, halves rounded up."""
    return f"{int(100 * share + 0.5)} %"
