"""How long a direct Hessian takes, and how much memory, beside what a user would have done without one.

Measured for every backbone, size and batch, on one thread:

    direct              model.hessian(...) to the dense matrix, graph building included
    energy              a bare energy pass without gradients, on a graph that is there already
    energy_with_graph   the same, graph building included
    energy_forces       energy and forces by the framework's own means, graph building included
    autograd            the exact Hessian by 3N backward passes: the faster of row by row and vectorised
    finite_differences  the exact Hessian by 6N energies and forces

Times on a CPU are processor time of this process, which other jobs disturb little; the first four are measured in turn,
so that what disturbs one disturbs all. Nothing is extrapolated: the last two are measured in full, for one structure
up to a stated size, and left out beyond. The head is untrained, which does not change its speed.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import torch
from clock import Clock
from rich.console import Console
from rich.table import Table
from speed_cases import BACKBONES, HEAD, WEIGHTS, alkane, load_model

from hip_ext import HeadConfig, HessianModel
from hip_ext.atomic import atomic_path, write_text
from hip_ext.checkpoint import read_config
from hip_ext.reference import autograd_hessian, finite_difference_hessian
from hip_ext.shipped import checkpoints_folder
from hip_ext.structures import Structures

SIZES, BATCHES = (10, 20, 40, 80), (1, 8, 32)
MOST_ATOMS = 650
"""Atoms of the largest batch, unless said otherwise."""

EXACT_UP_TO = {"so3lr": 80, "mace": 41, "mace_spice": 41}
"""Atoms of the largest molecule for autograd row by row."""

VMAP_UP_TO = {"so3lr": 41, "mace": 11, "mace_spice": 11}
"""Atoms of the largest molecule for vectorised autograd, which is slower beyond (see hip_ext.reference)."""

DIFFERENCES_UP_TO = {"so3lr": 41, "mace": 20, "mace_spice": 20}
"""Atoms of the largest molecule for finite differences."""

SECONDS, MOST_ROUNDS = 2.0, 25
"""How long, and how often at most, the quick quantities of a case are measured; never less than three times."""

Timing = dict[str, float]
Case = dict[str, Any]


def measure(name: str, model: HessianModel, size: int, batch: int, *, exact: bool = True) -> Case:
    """Everything about `batch` alkanes of about `size` atoms; times in seconds and memory in MB for all of them."""
    backbone, clock = model.backbone, Clock(model.device)
    molecules = [alkane(size, seed) for seed in range(batch)]
    structures = model.structures(molecules)
    atoms = len(molecules[0])
    inputs = backbone.prepare(structures)

    @torch.no_grad()
    def energy() -> None:
        backbone.energy(inputs)

    @torch.no_grad()
    def energy_with_graph() -> None:
        backbone.energy(backbone.prepare(model.structures(molecules)))

    quick: dict[str, Callable[[], object]] = {
        "direct": lambda: model.hessian(molecules).dense_list(),
        "energy": energy,
        "energy_with_graph": energy_with_graph,
        "energy_forces": lambda: backbone.evaluate(model.structures(molecules)),
    }
    seconds = _in_turn(clock, quick)
    case: Case = {"backbone": name, "atoms": atoms, "batch": batch, "clock": clock.name, "seconds": seconds}
    peak = {key: clock.peak_memory(call) for key, call in quick.items()}
    if exact and batch == 1:
        one = model.structures(molecules[0])
        methods = [
            method
            for method, limit in (("loop", EXACT_UP_TO[name]), ("vmap", VMAP_UP_TO[name]))
            if atoms <= limit or clock.cuda
        ]
        found = {method: _once(clock, lambda m=method: autograd_hessian(backbone, one, m)) for method in methods}
        if found:
            case["autograd_method"] = min(found, key=lambda method: found[method][0]["median"])
            seconds["autograd"], peak["autograd"] = found[case["autograd_method"]]
        if atoms <= DIFFERENCES_UP_TO[name]:
            seconds["finite_differences"], _ = _once(clock, lambda: _finite_differences(model, one, molecules[0]))
    case["peak_mb"] = peak
    case["ratios"] = _ratios(seconds, peak)
    return case


def _finite_differences(model: HessianModel, one: Structures, molecule: Any) -> None:
    def forces(positions: Any) -> Any:
        moved = one.with_positions(torch.as_tensor(positions).to(one.positions))
        return model.backbone.evaluate(moved).forces.cpu().numpy()

    finite_difference_hessian(forces, molecule)


def _in_turn(clock: Clock, calls: dict[str, Callable[[], object]]) -> dict[str, Timing]:
    """Times all calls in turn, after two rounds that do not count."""
    seconds: dict[str, list[float]] = {key: [] for key in calls}
    rounds, spent = -2, 0.0
    while rounds < 3 or (rounds < MOST_ROUNDS and spent < SECONDS):
        for key, call in calls.items():
            took = clock.seconds(call)
            if rounds >= 0:
                seconds[key].append(took)
                spent += took
        rounds += 1
    return {key: _timing(values) for key, values in seconds.items()}


def _once(clock: Clock, call: Callable[[], object]) -> tuple[Timing, float | None]:
    """Time and peak memory of a call that is long: again only if it was quick."""
    values: list[float] = []
    peak = clock.peak_memory(lambda: values.append(clock.seconds(call)))
    while len(values) < 3 and values[0] < 1.0:
        values.append(clock.seconds(call))
    return _timing(values), peak


def _timing(values: list[float]) -> Timing:
    return {"median": median(values), "min": min(values), "max": max(values), "repeats": len(values)}


def _ratios(seconds: dict[str, Timing], peak: dict[str, float | None]) -> dict[str, float]:
    """The results: of medians, and of peak memory."""
    direct = seconds["direct"]["median"]
    ratios = {f"direct / {key}": direct / seconds[key]["median"] for key in ("energy", "energy_forces")}
    for key in ("autograd", "finite_differences"):
        if key in seconds:
            ratios[f"{key} / direct"] = seconds[key]["median"] / direct
    if peak["direct"] is not None and peak["energy"]:
        ratios["memory, direct / energy"] = peak["direct"] / peak["energy"]
    return ratios


def machine(device: str, head: HeadConfig) -> dict[str, Any]:
    """Where and with what it was measured."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    versions = {}
    for package in ("hip-ext", "torch", "mace-torch", "so3krates-torch", "fairchem-core", "e3nn"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "cpu": cpu,
        "device": Clock(torch.device(device)).device_name,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": versions,
        "head": head.model_dump(),
        "dtype": "float32",
    }


def table(cases: list[Case]) -> Table:
    """Milliseconds for one structure of the batch, and ratios."""
    shown = Table(title="Time for one structure (ms), peak memory of the batch (MB)")
    columns = ("direct", "energy", "energy_forces", "autograd", "finite_differences")
    headings = ("energy", "energy+forces", "autograd", "finite diff.")
    for heading in ("backbone", "atoms", "batch", "direct", *headings, "direct /\nenergy", "direct /\nenergy+forces"):
        shown.add_column(heading, justify="left" if heading == "backbone" else "right")
    for heading in ("autograd /\ndirect", "memory", "memory /\nenergy"):
        shown.add_column(heading, justify="right")
    for case in cases:
        seconds, ratios = case["seconds"], case["ratios"]
        times = [f"{1e3 * seconds[key]['median'] / case['batch']:,.1f}" if key in seconds else "–" for key in columns]
        kinds = ("direct / energy", "direct / energy_forces", "autograd / direct", "memory, direct / energy")
        numbers = [f"{ratios[kind]:.2f}" if kind in ratios else "–" for kind in kinds]
        peak = case["peak_mb"]["direct"]
        memory = "–" if peak is None else f"{peak:.0f}"
        name = case["backbone"]
        shown.add_row(name, str(case["atoms"]), str(case["batch"]), *times, *numbers[:3], memory, numbers[3])
    return shown


def plot(cases: list[Case], target: Path) -> None:
    """Time against the number of atoms for one structure at a time, a panel for each backbone."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(case["backbone"] for case in cases))
    labels = {
        "finite_differences": "finite differences",
        "autograd": "autograd",
        "energy_forces": "energy and forces",
        "direct": "direct Hessian",
        "energy": "energy pass",
    }
    figure, axes = pyplot.subplots(1, len(names), figsize=(4.2 * len(names), 3.6), sharey=True, squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        single = sorted((c for c in cases if c["backbone"] == name and c["batch"] == 1), key=lambda c: c["atoms"])
        for key, label in labels.items():
            there = [case for case in single if key in case["seconds"]]
            times = [1e3 * case["seconds"][key]["median"] for case in there]
            axis.loglog([case["atoms"] for case in there], times, "o-", label=label)
        axis.set(title=name, xlabel="atoms", xticks=[c["atoms"] for c in single])
        axis.set_xticklabels([str(case["atoms"]) for case in single])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("time (ms)")
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    with atomic_path(target) as path:
        figure.savefig(path, dpi=150)
    pyplot.close(figure)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Speed and memory of direct Hessians.")
    available = [name for name in BACKBONES if name != "mace_spice" or (WEIGHTS / f"{name}.json").exists()]
    parser.add_argument("--backbone", nargs="+", choices=available, default=[x for x in available if x != "mace_spice"])
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES), help="atoms, to the nearest alkane")
    parser.add_argument(
        "--batches", nargs="+", type=int, default=list(BATCHES), help="structures, up to --most-atoms in all"
    )
    parser.add_argument("--most-atoms", type=int, default=MOST_ATOMS, help="of a batch")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "hessian_speed.json")
    parser.add_argument("--head", help="a checkpoint that ships, for a head of its size")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--quick", action="store_true", help="neither autograd nor finite differences")
    parser.add_argument("--resume", action="store_true", help="keep the cases that the output holds already")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    head = read_config(checkpoints_folder() / options.head).head if options.head else HEAD

    cases: list[Case] = []
    if options.resume and options.out.exists():
        cases = json.loads(options.out.read_text(encoding="utf-8"))["cases"]
    done = {(case["backbone"], case["atoms"], case["batch"]) for case in cases}
    record = {"machine": machine(options.device, head), "cases": cases}
    for name in options.backbone:
        wanted = [(size, batch) for batch in options.batches for size in options.sizes]
        wanted = [(s, b) for s, b in wanted if (name, len(alkane(s)), b) not in done]
        model = load_model(name, options.device, head) if wanted else None
        for size, batch in wanted:
            if model is not None and (batch == 1 or batch * len(alkane(size)) <= options.most_atoms):
                cases.append(measure(name, model, size, batch, exact=not options.quick))
                write_text(options.out, json.dumps(record, indent=1) + "\n")
    console = Console()
    # Numbers that are cut off are of no use: a log file or a narrow window gets long lines instead.
    Console(width=max(console.width, 150)).print(table(cases))
    plot(cases, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
