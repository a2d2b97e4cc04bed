"""Distillation: a head learns the Hessian of the backbone that it sits on.

    sources ── label ──> shards ── features ──> cache ── train ──> head ── evaluate on held-out molecules ──> checkpoint

Every step leaves files in the run's folder and skips what is there already, so a run may be stopped at any time and
started again with the same command.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ase import Atoms

from hip_ext.atomic import write_text
from hip_ext.backbones import Backbone, load_backbone
from hip_ext.data.shards import LabelledStructure
from hip_ext.errors import ConfigError, DataError
from hip_ext.evaluation.metrics import HessianMetrics, compare, summarise
from hip_ext.head import HessianHead
from hip_ext.model import HessianModel, attach_head
from hip_ext.training.config import DistillConfig
from hip_ext.training.dataset import Example, collate, load_examples
from hip_ext.training.labelling import COMPLETE, label_shards, split_sources
from hip_ext.training.loop import train
from hip_ext.training.plot import plot_learning_curve

CHECKPOINT = "checkpoint"


Progress = Callable[[str, int], Callable[[int, str], None]]
"""Told about each stage, its name and how many steps it has; gives a function to call with steps done and a note."""


@dataclass(frozen=True)
class DistillResult:
    """What came out.

    Attributes:
        model: the backbone with its trained head.
        metrics: of the held-out structures, by how they were made; "all" is over all of them.
        checkpoint: folder of the saved head.
    """

    model: HessianModel
    metrics: dict[str, dict[str, float]]
    checkpoint: Path


def silent(stage: str, total: int) -> Callable[[int, str], None]:
    """Progress that nobody looks at."""
    return lambda done, note: None


def distill(
    config: DistillConfig,
    sources: Sequence[str | Atoms],
    folder: str | Path,
    held_out: Sequence[str | Atoms] | None = None,
    backbone: Backbone | None = None,
    progress: Progress = silent,
) -> DistillResult:
    """Runs, or goes on with, a distillation.

    Args:
        config: the recipe; stored in the folder, and refused if the folder was begun with another one.
        sources: SMILES strings or structures to learn from.
        folder: gets `recipe.json`, `labels/`, `features/`, `training/`, `learning_curve.png`, `metrics.json` and
            `checkpoint/`.
        held_out: sources to evaluate on; by default some are taken from `sources`, see `split_sources`.
        backbone: a loaded backbone; by default the recipe's is loaded.
        progress: told about each stage.

    Raises:
        ConfigError: the folder belongs to another recipe.
        DataError: there are too few structures, or none could be labelled.
    """
    folder = Path(folder)
    _claim(folder, config)
    backbone = backbone or load_backbone(config.backbone, config.source)
    for parameter in backbone.model.parameters():
        parameter.requires_grad_(False)
    if held_out is None:
        split = split_sources(sources, config.labels)
        sources, held_out = split.train, split.held_out
    shards = _label(backbone, sources, folder / "labels/train", config, config.labels.rows, "label", progress)
    complete = _label(backbone, held_out, folder / "labels/held_out", config, COMPLETE, "label held-out", progress)
    examples = load_examples(backbone, shards, folder / "features/train")
    test = load_examples(backbone, complete, folder / "features/held_out")
    if not examples or not test:
        raise DataError(f"too few labels: {len(examples)} structures to train on, {len(test)} held out")
    head = attach_head(backbone, config.head, seed=config.train.seed).head
    advance = progress("train", config.train.steps)
    training = folder / "training"
    training.mkdir(exist_ok=True)
    curve = train(head, examples, test, config.train, training, lambda step, loss: advance(step, f"MAE {loss:.3f}"))
    plot_learning_curve(curve, folder / "learning_curve.png")
    metrics = evaluate(head, test)
    record = _record(config, examples, test, curve)
    elements = sorted({int(z) for e in examples for z in e.record.numbers})
    model = HessianModel(backbone, head, record, metrics, elements)
    write_text(folder / "metrics.json", json.dumps({"training": record, "held_out": metrics}, indent=2) + "\n")
    model.save_pretrained(folder / CHECKPOINT)
    return DistillResult(model, metrics, folder / CHECKPOINT)


@torch.no_grad()
def evaluate(head: HessianHead, examples: Sequence[Example], batch: int = 16) -> dict[str, dict[str, float]]:
    """Metrics of fully labelled examples, over all of them and by how they were made."""
    groups: dict[str, list[HessianMetrics]] = {"all": []}
    for start in range(0, len(examples), batch):
        part = examples[start : start + batch]
        structures, features = collate(part)
        for example, matrix in zip(part, head(features, structures).dense_list(), strict=True):
            record: LabelledStructure = example.record
            found = compare(record.atoms(), matrix.double().numpy(), record.hessian())
            groups["all"].append(found)
            groups.setdefault(str(record.info.get("distortion", "given")), []).append(found)
    return {name: summarise(found) for name, found in groups.items()}


def _claim(folder: Path, config: DistillConfig) -> None:
    """Writes the recipe into an empty folder, or checks that it is the one there."""
    recipe = folder / "recipe.json"
    text = config.model_dump_json(indent=2) + "\n"
    if recipe.exists():
        if json.loads(recipe.read_text(encoding="utf-8")) != json.loads(text):
            raise ConfigError(f"{folder} was begun with another recipe (see {recipe}): use another folder")
    elif folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty and not a distillation run: use another folder")
    else:
        write_text(recipe, text)


def _label(
    backbone: Backbone,
    sources: Sequence[str | Atoms],
    folder: Path,
    config: DistillConfig,
    rows: int,
    stage: str,
    progress: Progress,
) -> list[Path]:
    advance = progress(stage, len(sources))
    done = 0

    def report(count: int) -> None:
        nonlocal done
        done += count
        advance(done, "")

    return label_shards(backbone, sources, folder, config.labels, rows, report)


def _record(
    config: DistillConfig, examples: Sequence[Example], test: Sequence[Example], curve: list[dict[str, float]]
) -> dict[str, Any]:
    return {
        "method": "distillation of the backbone's own exact Hessian",
        "structures": len(examples),
        "hessian_rows": int(sum(3 * len(e.record.labelled) for e in examples)),
        "held_out_structures": len(test),
        "steps": config.train.steps,
        "batch": config.train.batch,
        "final_train_mae": curve[-1]["train_mae"],
    }
