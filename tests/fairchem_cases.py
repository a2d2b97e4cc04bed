"""fairchem checkpoints for tests: small eSCN models with random weights, written as fairchem writes trained ones.

`dense` is built like eSEN, `experts` like UMA with two tasks, `direct` gives forces that no energy has.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

UMA = "fairchem.core.models.uma"
UNITS = "fairchem.core.units.mlip_unit.mlip_unit"
NORMALIZATION = "fairchem.core.modules.normalization"

NETWORK: dict[str, Any] = {
    "model": f"{UMA}.escn_md.eSCNMDBackbone",
    "sphere_channels": 8,
    "hidden_channels": 8,
    "edge_channels": 8,
    "lmax": 2,
    "mmax": 2,
    "num_layers": 2,
    "num_distance_basis": 8,
    "cutoff": 4.0,
    "act_type": "gate",
    "ff_type": "spectral",
    "otf_graph": True,
    "direct_forces": False,
    "regress_forces": True,
    "always_use_pbc": False,
    "dataset_mapping": {"omol": "omol"},
}

EFS = {"module": f"{UMA}.escn_md.MLP_EFS_Head"}


def task(prop: str, dataset: str = "omol", prefix: str = "") -> dict[str, Any]:
    """The configuration of one task, with a normaliser and, for the energy, references of the elements."""
    config: dict[str, Any] = {
        "_target_": f"{UNITS}.Task",
        "name": f"{prefix}{prop}",
        "level": "atom" if prop == "forces" else "system",
        "property": prop,
        "out_spec": {"_target_": f"{UNITS}.OutputSpec", "dim": [3] if prop == "forces" else [1], "dtype": "float32"},
        "normalizer": {"_target_": f"{NORMALIZATION}.normalizer.Normalizer", "mean": 0.0, "rmsd": 1.7},
        "datasets": [dataset],
    }
    if prop == "energy":
        references = [0.0] + [-0.5 * z for z in range(1, 100)]
        config["element_references"] = {
            "_target_": f"{NORMALIZATION}.element_references.ElementReferences",
            "element_references": {"_target_": "torch.DoubleTensor", "_args_": [references]},
        }
    return config


def dense(**changes: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Model and tasks like those of eSEN: one task, forces as the gradient; it takes lone atoms."""
    network = NETWORK | changes
    model = {"backbone": network, "heads": {"efs": EFS}, "pass_through_head_outputs": True}
    return model | {"supports_single_atoms": True}, [task("energy"), task("forces")]


def experts(**changes: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Model and tasks like those of UMA: experts chosen by composition, charge, spin and one of two tasks."""
    mapping = {"omol": "omol", "omat": "omat"}
    network = NETWORK | {
        "model": f"{UMA}.escn_moe.eSCNMDMoeBackbone",
        "num_experts": 3,
        "use_composition_embedding": True,
        "regress_stress": True,  # without it fairchem 2.24 cannot differentiate merged experts
        "dataset_mapping": mapping,
    }
    head = {
        "module": f"{UMA}.escn_moe.DatasetSpecificMoEWrapper",
        "head_cls": EFS["module"],
        "head_kwargs": {"wrap_property": False},
        "dataset_mapping": mapping,
    }
    model = {"backbone": network | changes, "heads": {"efs": head}, "pass_through_head_outputs": True}
    tasks = [task(prop, name, f"{name}_") for name in mapping for prop in ("energy", "forces")]
    return model | {"model_id": "UMA-of-the-tests"}, tasks


def direct(**changes: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Model and tasks of a model that predicts forces beside the energy."""
    network = NETWORK | {"direct_forces": True} | changes
    heads = {
        "energy": {"module": f"{UMA}.escn_md.MLP_Energy_Head"},
        "forces": {"module": f"{UMA}.escn_md.Linear_Force_Head"},
    }
    return {"backbone": network, "heads": heads}, [task("energy"), task("forces")]


def write_checkpoint(path: Path, model: dict[str, Any], tasks: list[dict[str, Any]], seed: int = 0) -> Path:
    """Writes an inference checkpoint with random weights."""
    import hydra
    from fairchem.core.units.mlip_unit.api.inference import MLIPInferenceCheckpoint

    config = {"_target_": "fairchem.core.models.base.HydraModel", **copy.deepcopy(model)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = hydra.utils.instantiate(config).state_dict()
    averaged = {f"module.{name}": value for name, value in state.items()} | {"n_averaged": torch.tensor(1)}
    torch.save(MLIPInferenceCheckpoint(config, state, averaged, tasks), path)
    return path


def predict_unit(path: Path, **settings: Any) -> Any:
    """fairchem's own predict unit for a checkpoint, in float64 unless the settings say otherwise."""
    from fairchem.core.units.mlip_unit import InferenceSettings, load_predict_unit

    defaults = {"base_precision_dtype": torch.float64, "activation_checkpointing": False}
    return load_predict_unit(path, InferenceSettings(**(defaults | settings)), device="cpu")
