"""fairchem's training unit with Hessian tasks: `_target_: hip_ext.plugins.fairchem.unit.HessianTrainEvalUnit`.

The head computes the mean absolute error of each structure itself, since matrices of different sizes fit none of
fairchem's layouts; to the rest of fairchem a Hessian task is one number a structure, wanted to be zero: its losses,
masks, metrics, averages over processes and checkpoints hold as they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from fairchem.core.common import distutils
from fairchem.core.units.mlip_unit._metrics import Metrics
from fairchem.core.units.mlip_unit.mlip_unit import MLIPEvalUnit, MLIPTrainEvalUnit, Task
from torch import Tensor, nn

from hip_ext.errors import ConfigError, DataError
from hip_ext.plugins.fairchem.finetune import keep_tasks
from hip_ext.plugins.fairchem.head import DirectHessianHead
from hip_ext.plugins.fairchem.layout import ERROR, LABELS, labels_of
from hip_ext.plugins.fairchem.model import is_direct
from hip_ext.plugins.fairchem.statistics import fit_head, is_fitted


class HessianTrainEvalUnit(MLIPTrainEvalUnit):
    """Trains and evaluates a model with Hessian heads.

    A Hessian task in the YAML: a name that ends in `direct_hessian`, `level: system`, `property: hessian`,
    `out_spec: {dim: [1], dtype: float32}`, a normalizer with rmsd 1, `metrics: [mae]`, and fairchem's `DDPMTLoss`
    around `MAELoss`; the loss is then the mean over structures of the mean absolute error of their entries, eV/Å².

    Args:
        job_config: as MLIPTrainEvalUnit.
        model: with at least one `DirectHessianHead`.
        optimizer_fn: as MLIPTrainEvalUnit.
        cosine_lr_scheduler_fn: as MLIPTrainEvalUnit.
        tasks: as MLIPTrainEvalUnit.
        kwargs: as MLIPTrainEvalUnit.

    Raises:
        ConfigError: a Hessian task does not fit the model, or is not as above.
    """

    eval_unit: Any

    def __init__(
        self,
        job_config: Any,
        model: Any,
        optimizer_fn: Any,
        cosine_lr_scheduler_fn: Any,
        tasks: Sequence[Task],
        **kwargs: Any,
    ) -> None:
        self.hessian_tasks = [task for task in tasks if is_direct(task) and not task.inference_only]
        _check_tasks(model, self.hessian_tasks)
        _compute_only_what_is_trained(model, tasks)
        seen = [as_error(task) if is_direct(task) else task for task in tasks]
        super().__init__(job_config, model, optimizer_fn, cosine_lr_scheduler_fn, seen, **kwargs)
        if distutils.is_master():
            keep_tasks(job_config.metadata.config_path, model)
        averaged = self.eval_unit.model
        self.eval_unit = TolerantEvalUnit(job_config, None, seen, tf32=self.tf32)
        self.eval_unit.setup_train_eval_unit(averaged)
        weights = {part: list(part.parameters()) for part in (model.backbone, *model.output_heads.values())}
        self._resting = [part for part, own in weights.items() if own and not any(p.requires_grad for p in own)]

    def on_train_start(self, state: Any) -> None:
        """Checks that there is something to learn from, restores a stopped run, and sets the scales of a new head.

        Raises:
            DataError: no structure of any data set has a Hessian, or none fits into a batch.
        """
        loader = state.train_state.dataloader
        _check_labels(loader.dataset)
        for part in (state.train_state, state.eval_state):
            _check_batches(part)
        super().on_train_start(state)
        for head, averaged in zip(_heads(self.model), _heads(self.eval_unit.model), strict=True):
            if not is_fitted(head.head):
                fit_head(head, loader, self.hessian_tasks)
                averaged.load_state_dict(head.state_dict())

    def train_step(self, state: Any, data: Any) -> None:
        """One step of the optimiser."""
        for part in self._resting:
            part.eval()
        super().train_step(state, with_targets(data, self.hessian_tasks))

    def eval_step(self, state: Any, data: Any) -> None:
        """The losses and metrics of one batch, without a step."""
        super().eval_step(state, with_targets(data, self.hessian_tasks))


class TolerantEvalUnit(MLIPEvalUnit):
    """fairchem's evaluation, except that a batch or a data set without a label of some task is no division by zero."""

    running_metrics: dict[str, dict[str, dict[str, Metrics]]]

    def on_eval_epoch_start(self, state: Any) -> None:
        """Sets all metrics to zero."""
        super().on_eval_epoch_start(state)
        self.running_metrics = {
            task: {dataset: {metric: _Tally() for metric in metrics} for dataset, metrics in datasets.items()}
            for task, datasets in self.running_metrics.items()
        }

    def on_eval_epoch_end(self, state: Any) -> dict[str, Any]:
        """Adds the metrics of all processes up; those without a single label are left out."""
        device = next(self.model.parameters()).device
        self.running_metrics = {
            task: {
                dataset: {
                    name: tally
                    for name, tally in metrics.items()
                    if distutils.all_reduce(tally.numel, average=False, device=device) > 0
                }
                for dataset, metrics in datasets.items()
            }
            for task, datasets in self.running_metrics.items()
        }
        return super().on_eval_epoch_end(state)


class _Tally(Metrics):
    def __iadd__(self, other: Metrics) -> _Tally:
        return super().__iadd__(other) if self.numel + other.numel else self


def as_error(task: Task) -> Task:
    """The task as training sees it: not a matrix, but the error that the head has computed."""
    # Hydra hands tasks of a YAML over in a type of its own, which dataclasses.replace does not take.
    values = {field.name: getattr(task, field.name) for field in dataclasses.fields(Task)}
    return Task(**values | {"property": ERROR})


def with_targets(data: Any, tasks: Sequence[Task]) -> Any:
    """Moves the flat labels of each task to where the head finds them; what it should reach, zero, takes their place.

    Structures without a label get infinity, which fairchem masks.
    """
    if LABELS in data:
        return data
    merged: list[Tensor | None] = [None] * len(data.natoms)
    for task in tasks:
        labels = labels_of(data, task.name)
        merged = [new if new is not None else old for new, old in zip(labels, merged, strict=True)]
        targets = [0.0 if label is not None else float("inf") for label in labels]
        data[task.name] = torch.tensor(targets, dtype=data.pos.dtype, device=data.pos.device)
    data[LABELS] = merged
    return data


def _heads(model: nn.Module) -> list[DirectHessianHead]:
    return [module for module in model.modules() if isinstance(module, DirectHessianHead)]


def _check_tasks(model: Any, tasks: Sequence[Task]) -> None:
    heads = {name: head for name, head in model.output_heads.items() if isinstance(head, DirectHessianHead)}
    answered = {task for name, head in heads.items() for task in (head.tasks or [name])}
    if not heads or not tasks:
        raise ConfigError(f"{len(heads)} Hessian heads and {len(tasks)} Hessian tasks to train: at least one of each")
    backbone = model.backbone
    known = set(backbone.dataset_mapping) if getattr(backbone, "use_dataset_embedding", False) else None
    for task in tasks:
        if task.name not in answered:
            raise ConfigError(f"no head answers the task {task.name!r}, only {', '.join(sorted(answered))}")
        if task.level != "system" or list(task.out_spec.dim) != [1] or task.loss_fn is None:
            raise ConfigError(f"the task {task.name!r} needs level: system, out_spec.dim: [1] and a loss_fn")
        if float(task.normalizer.rmsd) != 1.0 or float(task.normalizer.mean) != 0.0 or task.element_references:
            raise ConfigError(f"the task {task.name!r} needs a normalizer of mean 0 and rmsd 1 and no references")
        if known is not None and not set(task.datasets) <= known:
            raise ConfigError(f"the task {task.name!r} names {list(task.datasets)}, the model knows {sorted(known)}")


def _compute_only_what_is_trained(model: Any, tasks: Sequence[Task]) -> None:
    """Without a task that trains forces or stress, no gradient of the energy is taken in this run."""
    config = getattr(model.backbone, "regress_config", None)
    wanted = {task.property for task in tasks if not task.inference_only}
    if config is not None and not config.direct_forces and not wanted & {"forces", "stress"}:
        config.forces = config.stress = False


def _check_labels(dataset: Any) -> None:
    inner = [getattr(part, "dataset", part) for part in getattr(dataset, "datasets", [dataset])]
    if not any(getattr(part, "labelled", 0) for part in inner):
        raise DataError(
            "no structure of any data set has a Hessian: use "
            "format: hip_ext.plugins.fairchem.dataset.HessianDataset and rows with data={'hessian': …}"
        )


def _check_batches(part: Any) -> None:
    """Raises DataError where fairchem's sampler has left out everything: it then makes one empty batch."""
    sampler: Any = getattr(getattr(part, "dataloader", None), "batch_sampler", None)
    if any(len(batch) == 0 for batch in getattr(sampler, "all_batches", [])):
        raise DataError(f"all structures have more than max_atoms={sampler.max_atoms} atoms: set a larger one")
