"""The energy that a borrowed backbone came with, as a head of fairchem, and a checkpoint of fairchem with nothing else.

heads: {own: {module: hip_ext.plugins.fairchem.own_energy.OwnEnergyHead}}
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from fairchem.core.common.registry import registry
from fairchem.core.models.base import HeadInterface, HydraModel
from fairchem.core.units.mlip_unit.api.inference import MLIPInferenceCheckpoint
from torch import Tensor, nn

from hip_ext.atomic import atomic_path
from hip_ext.errors import BackboneError, ConfigError
from hip_ext.plugins.fairchem.borrowed_backbone import HipExtBackbone, Potential
from hip_ext.reference import autograd_hessian


@registry.register_model("hip_ext_own_energy")
class OwnEnergyHead(nn.Module, HeadInterface):
    """Hands through the energy, forces and stress of the borrowed model, which are its framework's own.

    There are no weights here: in training, losses reach those of the backbone. Where these are frozen nothing can be
    learned from its energy, which then is not computed in training: its tasks are `inference_only: true`. Energies are
    totals in eV, so the tasks have no element references and a normalizer of mean 0 and rmsd 1.

    Args:
        backbone: a `HipExtBackbone`.
        prefix: of the task names, as in fairchem's MLP_EFS_Head: "omol" for omol_energy and omol_forces.
        wrap_property: False in a model without `pass_through_head_outputs`.

    Raises:
        BackboneError: the backbone has no energy of its own.
    """

    def __init__(self, backbone: nn.Module, prefix: str | None = None, wrap_property: bool = True) -> None:
        super().__init__()
        if not isinstance(backbone, HipExtBackbone):
            raise BackboneError(
                f"{type(backbone).__name__} has no energy of its own: OwnEnergyHead goes with HipExtBackbone only"
            )
        self.prefix = f"{prefix}_" if prefix else ""
        self.wrap_property = wrap_property
        self.regress_config = backbone.regress_config

    @torch.compiler.disable
    def forward(self, data: Any, emb: dict[str, Any]) -> dict[str, Any]:
        """Energies and forces of a batch.

        Args:
            data: `AtomicData`.
            emb: what `HipExtBackbone` returns.

        Returns:
            `energy` [B] in eV and `forces` [N, 3] in eV/Å; `stress` [B, 9] in eV/Å³ and, of a single structure, the
            autograd `hessian` [1, 3N, 3N] in eV/Å² where fairchem was told to predict them.

        Raises:
            BackboneError: the autograd Hessian is asked for several structures at once.
            ConfigError: the energy of a frozen model is read in training.
        """
        potential: Potential = emb["potential"]
        frozen = not any(p.requires_grad for p in potential.adapter.parameters())
        if frozen and self.training:
            names = [f"{self.prefix}energy", f"{self.prefix}forces"]
            return {name: _Unlearnable(name) for name in names} if self.wrap_property else _Unlearnable("energy")
        learns = not frozen and potential.adapter.training and torch.is_grad_enabled()
        found = _learnable(potential) if learns else self._evaluated(potential)
        return {f"{self.prefix}{name}": {name: x} if self.wrap_property else x for name, x in found.items()}

    def _evaluated(self, potential: Potential) -> dict[str, Tensor]:
        adapter, structures = potential
        stress = self.regress_config.stress
        evaluation = adapter.evaluate(structures, stress=stress)
        found = {"energy": evaluation.energy, "forces": evaluation.forces}
        if evaluation.stress is not None:
            found["stress"] = evaluation.stress.reshape(-1, 9)
        if self.regress_config.hessian:
            if structures.num_systems != 1:
                raise BackboneError(
                    f"the autograd Hessian is of one structure at a time, found {structures.num_systems}"
                )
            found["hessian"] = autograd_hessian(adapter, structures).to(evaluation.energy).unsqueeze(0)
        return found


class _Unlearnable(dict[str, Any]):
    """The energy of a frozen model in training: an error where a loss reads it."""

    def __init__(self, task: str) -> None:
        super().__init__()
        self.task = task

    def __missing__(self, key: str) -> Any:
        raise ConfigError(f"the task {self.task!r} cannot be trained with a frozen backbone: set inference_only: true")


def _learnable(potential: Potential) -> dict[str, Tensor]:
    """Energy and forces that a loss can be differentiated through, with respect to the model's weights."""
    inputs = potential.adapter.prepare(potential.structures)
    positions = inputs["positions"].detach().requires_grad_(True)
    energy = potential.adapter.energy({**inputs, "positions": positions})
    (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=True)
    return {"energy": energy, "forces": -gradient}


def write_inference_checkpoint(
    path: str | Path,
    kind: str,
    source: str | None = None,
    *,
    options: dict[str, Any] | None = None,
    task: str = "omol",
    dtype: torch.dtype = torch.float32,
) -> None:
    """Writes a model of another framework as an inference checkpoint of fairchem, for `load_predict_unit`.

    It predicts the model's energies and forces. `load_predict_unit` reads `source` again, see `borrowed_backbone`.

    Args:
        path: of the new file.
        kind: registry name of the backbone's adapter.
        source: which model of that kind, by a name or a path that will be valid where the checkpoint is loaded.
        options: further options of the adapter.
        task: fairchem's name for the data set.
        dtype: of the stored weights; a model in double precision loses nothing with torch.float64, to be used with
            `InferenceSettings(base_precision_dtype=torch.float64)`.

    Raises:
        BackboneError: there is no such backbone or model.
        MissingDependencyError: its framework is not installed.
    """
    config = {
        "_target_": "fairchem.core.models.base.HydraModel",
        "backbone": {
            "model": "hip_ext.plugins.fairchem.borrowed_backbone.HipExtBackbone",
            "kind": kind,
            "source": None if source is None else str(source),
            "options": dict(options or {}),
        },
        "heads": {"own": {"module": "hip_ext.plugins.fairchem.own_energy.OwnEnergyHead", "prefix": task}},
        "pass_through_head_outputs": True,
        "supports_single_atoms": True,
    }
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        model = HydraModel(**{key: copy.deepcopy(value) for key, value in config.items() if key != "_target_"})
    finally:
        torch.set_default_dtype(before)
    weights = model.state_dict()
    averaged = {f"module.{name}": value for name, value in weights.items()} | {"n_averaged": torch.tensor(1)}
    tasks = [_task(task, "energy", "system", [1]), _task(task, "forces", "atom", [3])]
    with atomic_path(path) as file:
        torch.save(MLIPInferenceCheckpoint(config, weights, averaged, tasks), file)


def _task(data_set: str, name: str, level: str, dim: list[int]) -> dict[str, Any]:
    return {
        "_target_": "fairchem.core.units.mlip_unit.mlip_unit.Task",
        "name": f"{data_set}_{name}",
        "level": level,
        "property": name,
        "out_spec": {
            "_target_": "fairchem.core.units.mlip_unit.mlip_unit.OutputSpec",
            "dim": dim,
            "dtype": "float32",
        },
        "normalizer": {
            "_target_": "fairchem.core.modules.normalization.normalizer.Normalizer",
            "mean": 0.0,
            "rmsd": 1.0,
        },
        "datasets": [data_set],
        "metrics": ["mae"],
    }
