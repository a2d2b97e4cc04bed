"""The end of a run: averaged weights, metrics of the validation data, a checkpoint, and the learning curve."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hip_ext.atomic import write_text
from hip_ext.data.record import HessianRecord
from hip_ext.errors import DataError, MissingDependencyError
from hip_ext.evaluation.metrics import HessianMetrics, compare, summarise
from hip_ext.inversion import predicted_blocks
from hip_ext.model import HessianModel
from hip_ext.training.features import FeatureCache
from hip_ext.training.objective import Objective
from hip_ext.training.parameters import tuned_model
from hip_ext.training.plot import plot_learning_curve
from hip_ext.training.records import RecordSet
from hip_ext.training.settings import TrainingConfig
from hip_ext.training.state import read_state

CHECKPOINT = "checkpoint"
BATCH = 16


def finish(
    config: TrainingConfig,
    folder: Path,
    model: HessianModel,
    objective: Objective,
    train: Any,
    validation: Any,
    about: dict[str, Any],
) -> tuple[HessianModel, dict[str, Any], Path, list[dict[str, float]], dict[int, str]]:
    """Writes what is left to write, and gives the fields of a `TrainingResult`."""
    state = read_state(folder)
    assert state is not None
    earlier, elements = _stages(model.training_record), {z for z, count in enumerate(state["atoms"]) if count}
    elements.update(model.elements)
    model = with_average(model, objective, state["average"])
    metrics = evaluate(model, validation.records, validation.features)
    if not metrics:
        metrics = {"all": {name: value for name, value in state["curve"][-1].items() if name.startswith("held_out")}}
    model.metrics = metrics
    model.elements = sorted(elements)
    model.training_record = {
        **about,
        "structures": len(train.records),
        "hessian_rows": 3 * train.records.labelled_atoms,
        "held_out_structures": len(validation.records),
        "steps": config.run.steps,
        "batch": config.data.batch,
        "final_train_mae": state["curve"][-1]["train_mae"],
        **earlier,
    }
    if objective.trained:
        model.training_record["backbone"] = "trained together with the head"
    skipped: dict[int, str] = state["skipped"]
    document = {"training": model.training_record, "held_out": metrics, "skipped": skipped}
    write_text(folder / "metrics.json", json.dumps(document, indent=2) + "\n")
    write_text(folder / "curve.json", json.dumps(state["curve"], indent=1) + "\n")
    model.save_pretrained(folder / CHECKPOINT)
    with suppress(MissingDependencyError):  # a picture is no reason to lose a run
        plot_learning_curve(state["curve"], folder / "learning_curve.png")
    return model, metrics, folder / CHECKPOINT, state["curve"], skipped


def _stages(record: dict[str, Any]) -> dict[str, Any]:
    """How the head that a run began with was taught, and what that had begun with: `stage 1`, `stage 2` and on."""
    stages = {key: value for key, value in record.items() if key.startswith("stage ")}
    last = {key: value for key, value in record.items() if key not in stages}
    return {**stages, f"stage {len(stages) + 1}": last} if last else {}


@torch.no_grad()
def with_average(model: HessianModel, objective: Objective, average: dict[str, Tensor]) -> HessianModel:
    """The model with averaged weights, by their names in the objective."""
    parameters = dict(objective.named_parameters())
    for name, value in average.items():
        parameters[name].copy_(value)
    objective.eval()
    tuned = [name.removeprefix("model.") for name in average if name.startswith("model.")]
    return tuned_model(model, tuned) if tuned else model


@torch.no_grad()
def evaluate(
    model: HessianModel, records: RecordSet, features: FeatureCache | None = None
) -> dict[str, dict[str, float]]:
    """Metrics of the records whose Hessians are complete, over all of them and by how they were made.

    Args:
        model: backbone and head.
        records: labelled ones; those that cannot be used are left out.
        features: of the frozen backbone, where they are cached.
    """
    groups: dict[str, list[HessianMetrics]] = {}
    for start in range(0, len(records), BATCH):
        part: dict[int, HessianRecord] = {}
        for index in range(start, min(start + BATCH, len(records))):
            try:
                record = records[index]
            except DataError:
                continue
            if record.is_complete:
                part[index] = record
        if not part:
            continue
        structures = model.structures([record.atoms() for record in part.values()])
        if features is None or model.backbone.parity != "o3":
            given = model.backbone.features(model.backbone.prepare(structures))
        else:
            given = features(list(part), structures)
        # Not `model.hessian`, which refuses what is far too large: an error is measured here, however large.
        blocks = predicted_blocks(model.head, model.backbone, given, structures)
        for record, matrix in zip(part.values(), blocks.dense_list(), strict=True):
            exact = record.hessian()
            found = compare(record.atoms(), matrix.double().cpu().numpy(), (exact + exact.T) / 2)
            for group in ("all", str(record.info.get("distortion", "given"))):
                groups.setdefault(group, []).append(found)
    return {name: summarise(found) for name, found in groups.items()}
