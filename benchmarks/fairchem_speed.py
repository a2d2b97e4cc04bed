"""A direct Hessian on a model of the size of UMA-S beside fairchem's own autograd Hessian, in one process, one thread.

    python benchmarks/fairchem_speed.py      # in the environment with fairchem; 10 minutes and 8 GB

Weights are random (146.6 million, 32 experts merged for one composition, float32), which does not change the speed.

    direct               model.hessian(...) to the dense matrix, graph included; exact under inversion: two copies
    direct, one copy     the same from raw features of one copy: a molecule and its mirror image come out different
    pass                 fairchem's backbone alone, without gradients
    energy_forces        fairchem's predict: energy and forces
    all three            model.energy_forces_hessian(...): one pass serves the energy, the forces and one of the copies
    autograd, loop/vmap  fairchem's predict with predict_untrained_hessian
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from clock import Clock
from hessian_speed import Case, _in_turn, _once, machine
from rich.console import Console
from rich.table import Table
from speed_cases import HEAD, alkane

from hip_ext import HessianModel, attach_head
from hip_ext.atomic import write_text
from hip_ext.backbones import load_backbone

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from fairchem_cases import experts, write_checkpoint

SIZES = (10, 20, 40)
VMAP_UP_TO = 20
"""Atoms; at 41 vectorised autograd of this model does not fit into 14 GB."""

MERGED_FIRST = 15
"""Atoms; up to this size a first call, which merges the experts in half a second, is not measured."""

UMA_S: dict[str, Any] = {
    "num_experts": 32,
    "sphere_channels": 128,
    "hidden_channels": 128,
    "edge_channels": 128,
    "num_layers": 4,
    "num_distance_basis": 64,
    "cutoff": 6.0,
    "max_neighbors": 300,
    "norm_type": "rms_norm_sh",
}


def unit(path: Path, **settings: Any) -> Any:
    """fairchem's predict unit, with what its documentation advises for one composition at a time."""
    from fairchem.core.units.mlip_unit import InferenceSettings, load_predict_unit

    chosen = InferenceSettings(merge_mole=True, activation_checkpointing=False, **settings)
    return load_predict_unit(path, chosen, device="cpu")


def measure(path: Path, size: int) -> Case:
    """Everything about one alkane of about `size` atoms; times in seconds, memory in MB."""
    clock, atoms = Clock(torch.device("cpu")), alkane(size)
    backbone = load_backbone("fairchem", unit(path), task="omol")
    model = attach_head(backbone, HEAD)
    inputs = backbone.prepare(model.structures(atoms))
    raw = load_backbone("fairchem", backbone.unit, task="omol", parity="so3")

    @torch.no_grad()
    def one_copy() -> None:
        structures = model.structures(atoms)
        model.head(raw.features(raw.prepare(structures)), structures).dense()

    @torch.no_grad()
    def one_pass() -> None:
        raw.features(inputs)

    calls = {
        "direct": lambda: model.hessian(atoms).dense(),
        "direct, one copy": one_copy,
        "pass": one_pass,
        "energy_forces": lambda: backbone.predict(inputs),
        "all three": lambda: model.energy_forces_hessian(atoms).hessian.dense(),
    }
    seconds = _in_turn(clock, calls)
    peak = {name: clock.peak_memory(call) for name, call in calls.items()}
    for name, vmap in (("autograd, loop", False), ("autograd, vmap", True)):
        if vmap and len(atoms) > VMAP_UP_TO:
            continue
        exact = load_backbone(
            "fairchem", unit(path, predict_untrained_hessian={"omol"}, hessian_vmap=vmap), task="omol"
        )
        if len(atoms) <= MERGED_FIRST:
            exact.predict(inputs)
        seconds[name], peak[name] = _once(clock, lambda e=exact: e.predict(inputs)["hessian"])
    direct = seconds["direct"]["median"]
    ratios = {f"direct / {name}": direct / seconds[name]["median"] for name in ("pass", "energy_forces")}
    ratios["all three / energy_forces"] = seconds["all three"]["median"] / seconds["energy_forces"]["median"]
    ratios["one copy / pass"] = seconds["direct, one copy"]["median"] / seconds["pass"]["median"]
    ratios |= {f"{name} / direct": s["median"] / direct for name, s in seconds.items() if name.startswith("autograd")}
    return {"atoms": len(atoms), "clock": clock.name, "seconds": seconds, "peak_mb": peak, "ratios": ratios}


def batches(path: Path, size: int = 20, count: int = 8) -> Case:
    """Several conformers at once, which fairchem's own Hessian refuses: seconds for one of them."""
    model: HessianModel = attach_head(load_backbone("fairchem", unit(path), task="omol"), HEAD)
    many = [alkane(size, seed) for seed in range(count)]
    clock = Clock(torch.device("cpu"))
    model.hessian(many)
    took, _ = _once(clock, lambda: model.hessian(many).dense_list())
    return {"atoms": len(many[0]), "batch": count, "seconds_each": took["median"] / count}


def table(cases: list[Case]) -> Table:
    """Times in milliseconds and their ratios."""
    shown = Table(title="UMA-S size, random weights: ms, MB")
    names = list(dict.fromkeys(name for case in cases for name in case["seconds"]))
    for heading in ("atoms", *names, "loop / direct", "direct / pass", "one copy / pass", "memory direct, loop"):
        shown.add_column(heading, justify="right")
    for case in cases:
        seconds, ratios, peak = case["seconds"], case["ratios"], case["peak_mb"]
        times = [f"{1e3 * seconds[name]['median']:,.0f}" if name in seconds else "–" for name in names]
        kinds = ("autograd, loop / direct", "direct / pass", "one copy / pass")
        memory = f"{peak['direct']:.0f}, {peak['autograd, loop']:.0f}"
        shown.add_row(str(case["atoms"]), *times, *(f"{ratios[kind]:.2f}" for kind in kinds), memory)
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "fairchem_speed.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        model, tasks = experts(**copy.deepcopy(UMA_S))
        path = write_checkpoint(Path(folder) / "uma-s-size.pt", model, tasks)
        record: dict[str, Any] = {"machine": machine("cpu"), "network": UMA_S, "cases": []}
        for size in options.sizes:
            record["cases"].append(measure(path, size))
            write_text(options.out, json.dumps(record, indent=1) + "\n")
        record["batch"] = batches(path)
        write_text(options.out, json.dumps(record, indent=1) + "\n")
    Console(width=170).print(table(record["cases"]))
    Console(width=170).print(record["batch"])


if __name__ == "__main__":
    main()
