"""Energies and forces of MACE, SO3LR and eSCN-MD that must be the same in every environment.

mace-torch and fairchem-core ask for different versions of e3nn. Each writes its numbers in an environment of its own,

    python tests/framework_numbers.py

which adds the frameworks that are installed to tests/data/framework_numbers.json; test_interop_environment.py compares
with them wherever it runs. Nothing of hip_ext is in between: the frameworks' own modules and calculators are asked.
The weights are a formula, p_k = s sin(k) with k counted over all parameters of a model, so that they depend on no
generator of random numbers; SO3LR has those of its wheel.
"""

from __future__ import annotations

import importlib.resources
import json
import math
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from ase import Atoms
from ase.calculators.calculator import Calculator
from backbone_cases import default_dtype, mace_calculator, organic_structures, random_mace, so3lr_calculator
from torch import nn

FILE = Path(__file__).parent / "data" / "framework_numbers.json"
NAMES = ("ethanol", "nitromethane", "methanol crystal")

Numbers = dict[str, dict[str, Any]]


def mace_numbers() -> Numbers:
    """A small ScaleShiftMACE with l up to 3 and correlation 3: its contractions hold products of odd l₁ + l₂ + l₃."""
    model = random_mace("8x0e+8x1o+8x2e", correlation=3)
    fill(model)
    # As drawn, the contractions are so small that the order of their correlation could not be told from the energy.
    for product in model.products:
        for name, parameter in product.named_parameters():
            if "symmetric_contractions" in name:
                parameter.data.mul_(30.0)
    return by_calculator(mace_calculator, model)


def so3lr_numbers() -> Numbers:
    """SO3LR as published, in double precision."""
    folder = importlib.resources.files("so3krates_torch")
    with importlib.resources.as_file(folder / "pretrained/so3lr/so3lr.model") as path:
        model = torch.load(path, weights_only=False, map_location="cpu")
    return by_calculator(so3lr_calculator, model.to(torch.float64))


def escn_numbers() -> Numbers:
    """A small eSCN-MD, fairchem's backbone of eSEN and UMA, with its energy, force and stress head."""
    from fairchem.core.datasets.atomic_data import AtomicData
    from fairchem.core.models.base import HydraModel

    backbone = {
        "model": "fairchem.core.models.uma.escn_md.eSCNMDBackbone",
        "sphere_channels": 8,
        "hidden_channels": 8,
        "edge_channels": 8,
        "num_distance_basis": 16,
        "lmax": 2,
        "mmax": 2,
        "num_layers": 2,
        "cutoff": 4.0,
        "max_neighbors": 300,
        "act_type": "gate",
        "ff_type": "grid",  # the part of fairchem that uses e3nn
        "otf_graph": True,
        "always_use_pbc": False,
        "regress_forces": True,
        "direct_forces": False,
        "dataset_mapping": {"omol": "omol"},
    }
    with default_dtype(torch.float64):
        heads = {"efs": {"module": "fairchem.core.models.uma.escn_md.MLP_EFS_Head"}}
        model = HydraModel(backbone, heads, pass_through_head_outputs=True).to(torch.float64)
        fill(model)
        model.eval()
        found = {}
        for name, atoms in zip(NAMES, organic_structures(), strict=True):
            data = AtomicData.from_ase(atoms, task_name="omol", target_dtype=torch.float64)
            output = model(data)
            found[name] = entry(output["energy"]["energy"].item(), output["forces"]["forces"].tolist())
    return found


FRAMEWORKS: dict[str, tuple[str, Callable[[], Numbers]]] = {
    "mace": ("mace-torch", mace_numbers),
    "so3lr": ("so3krates-torch", so3lr_numbers),
    "fairchem": ("fairchem-core", escn_numbers),
}
"""Distribution and numbers of each."""


def installed() -> list[str]:
    """The frameworks of this environment, in the order of `FRAMEWORKS`."""
    return [name for name, (package, _) in FRAMEWORKS.items() if version_of(package)]


def version_of(package: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def fill(model: nn.Module) -> None:
    """Sets the k-th element of all weights to s sin(k), in the order of their names.

    s is √2, for a variance of 1, divided by √(last dimension) in matrices of torch's own layers, as their initial
    values are. Vectors of zeros and of ones (biases, weights of norms) stay as they are.
    """
    k = 0
    plain = {id(layer.weight) for layer in model.modules() if isinstance(layer, (nn.Linear, nn.Embedding))}
    for _, parameter in sorted(model.named_parameters()):
        if parameter.ndim == 1 and (bool((parameter == 0).all()) or bool((parameter == 1).all())):
            continue
        values = torch.sin(torch.arange(k + 1, k + 1 + parameter.numel(), dtype=torch.float64))
        scale = math.sqrt(2.0 / parameter.shape[-1]) if id(parameter) in plain else math.sqrt(2.0)
        parameter.data.copy_(scale * values.reshape(parameter.shape))
        k += parameter.numel()


def by_calculator(calculator: Callable[[nn.Module], Calculator], model: nn.Module) -> Numbers:
    """Energies and forces of the structures by a framework's own ASE calculator."""
    found = {}
    with default_dtype(torch.float64):
        for name, atoms in zip(NAMES, organic_structures(), strict=True):
            one: Atoms = atoms.copy()
            one.calc = calculator(model)
            found[name] = entry(one.get_potential_energy(), one.get_forces().tolist())
    return found


def entry(energy: float, forces: list[list[float]]) -> dict[str, Any]:
    """One structure's numbers as they lie in the file: eV and eV/Å."""
    return {"energy": float(energy), "forces": forces}


def write() -> None:
    """Adds the numbers of the frameworks that are installed here to the file."""
    stored = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    for name in installed():
        package, numbers = FRAMEWORKS[name]
        versions = {each: version_of(each) for each in (package, "e3nn", "torch")}
        stored[name] = {"versions": versions, "structures": numbers()}
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    write()
