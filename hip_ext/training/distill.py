"""Distillation: a head learns the Hessian of the backbone that it sits on.

    sources ── label ──> stores ── train ──> head ── evaluate on held-out molecules ──> checkpoint

Every step leaves files in the run's folder and skips what is there already, so a run may be stopped at any time and
started again with the same command.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ase import Atoms

from hip_ext.atomic import write_text
from hip_ext.backbones import Backbone, load_backbone
from hip_ext.data.store import HessianStore
from hip_ext.errors import ConfigError, DataError
from hip_ext.model import HessianModel
from hip_ext.training.config import DistillConfig
from hip_ext.training.finish import CHECKPOINT
from hip_ext.training.folder import folder_of_a_run
from hip_ext.training.labelling import COMPLETE, label_sources, split_sources
from hip_ext.training.plot import plot_learning_curve
from hip_ext.training.run import Stages, silent, train
from hip_ext.training.settings import TrainingConfig


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


def distill(
    config: DistillConfig,
    sources: Sequence[str | Atoms],
    folder: str | Path,
    held_out: Sequence[str | Atoms] | None = None,
    backbone: Backbone | None = None,
    progress: Stages = silent,
) -> DistillResult:
    """Runs, or goes on with, a distillation.

    Args:
        config: the recipe; stored in the folder, and refused if the folder was begun with another one.
        sources: SMILES strings or structures to learn from.
        folder: gets `recipe.json`, `labels/`, `training/` (see `hip_ext.training.run`), `learning_curve.png`,
            `metrics.json` and `checkpoint/`.
        held_out: sources to evaluate on; by default some are taken from `sources`, see `split_sources`.
        backbone: a loaded backbone; by default the recipe's is loaded.
        progress: told about each stage.

    Raises:
        ConfigError: the folder belongs to another recipe.
        DataError: there are too few structures, or none could be labelled.
    """
    folder = Path(folder)
    _claim(folder, config)
    backbone = backbone or load_backbone(config.backbone, config.source, **config.options)
    labels, complete = label_structures(config, sources, folder, held_out, backbone, progress)
    about = {"method": "distillation of the backbone's own exact Hessian"}
    training = training_config(config, labels.path, complete.path, str(backbone.dtype).removeprefix("torch."))
    result = train(training, folder / "training", backbone, progress, about)
    plot_learning_curve(result.curve, folder / "learning_curve.png")
    document = {"training": result.model.training_record, "held_out": result.metrics}
    write_text(folder / "metrics.json", json.dumps(document, indent=2) + "\n")
    result.model.save_pretrained(folder / CHECKPOINT)
    return DistillResult(result.model, result.metrics, folder / CHECKPOINT)


def label_structures(
    config: DistillConfig,
    sources: Sequence[str | Atoms],
    folder: str | Path,
    held_out: Sequence[str | Atoms] | None = None,
    backbone: Backbone | None = None,
    progress: Stages = silent,
) -> tuple[HessianStore, HessianStore]:
    """The first half of a distillation, for heads that are trained in another way; see `distill`.

    Returns:
        Labels to train on, `labels/train.lmdb`, and complete ones to evaluate on, `labels/held_out.lmdb`.
    """
    folder = Path(folder)
    _claim(folder, config)
    backbone = backbone or load_backbone(config.backbone, config.source, **config.options)
    for parameter in backbone.model.parameters():
        parameter.requires_grad_(False)
    if held_out is None:
        split = split_sources(sources, config.labels)
        sources, held_out = split.train, split.held_out
    paths = folder / "labels/train.lmdb", folder / "labels/held_out.lmdb"
    labels = _label(backbone, sources, paths[0], config, config.labels.rows, "label", progress)
    complete = _label(backbone, held_out, paths[1], config, COMPLETE, "label held-out", progress)
    counts = [int((store.sizes > 1).sum()) for store in (labels, complete)]
    if not all(counts):
        raise DataError(f"too few labels: {counts[0]} structures to train on, {counts[1]} held out")
    return labels, complete


def training_config(config: DistillConfig, train: Path, held_out: Path, precision: str) -> TrainingConfig:
    """What a recipe means to the trainer, with these stores."""
    recipe = config.train
    return TrainingConfig.from_dict(
        {
            "backbone": {"name": config.backbone, "source": config.source, "options": config.options},
            "head": config.head.model_dump(),
            "data": {"train": [str(train)], "validation": [str(held_out)], "batch": recipe.batch, "trust_units": True},
            "loss": {"hessian": {"twists": recipe.twist_weight, "twist_count": recipe.twists}},
            "optimiser": {
                name: getattr(recipe, name)
                for name in ("learning_rate", "warmup", "decay", "weight_decay", "clip", "average")
            },
            "run": {
                "steps": recipe.steps,
                "evaluate_every": recipe.evaluate_every,
                "seed": recipe.seed,
                "precision": precision,
                "accelerator": "cpu" if precision == "float64" else "auto",
            },
        }
    )


def _claim(folder: Path, config: DistillConfig) -> None:
    """Writes the recipe into an empty folder, or checks that it is the one there."""
    with folder_of_a_run(folder):
        _claim_usable(folder, config)


def _claim_usable(folder: Path, config: DistillConfig) -> None:
    recipe = folder / "recipe.json"
    text = config.model_dump_json(indent=2) + "\n"
    if recipe.exists():
        # Recipes that were begun before there were options name none.
        if {"options": {}} | json.loads(recipe.read_text(encoding="utf-8")) != json.loads(text):
            raise ConfigError(f"{folder} was begun with another recipe (see {recipe}): use another folder")
    elif folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty and not a distillation run: use another folder")
    else:
        write_text(recipe, text)


def _label(
    backbone: Backbone,
    sources: Sequence[str | Atoms],
    path: Path,
    config: DistillConfig,
    rows: int,
    stage: str,
    progress: Stages,
) -> HessianStore:
    advance = progress(stage, len(sources))
    done = 0

    def report(count: int) -> None:
        nonlocal done
        done += count
        advance(done, "")

    return label_sources(backbone, sources, path, config.labels, rows, report)
