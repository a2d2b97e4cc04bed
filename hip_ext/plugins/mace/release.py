"""The end of a run: the energy model alone for MACE to write, the head beside it as a checkpoint of this package."""

from __future__ import annotations

import copy
import logging
from argparse import Namespace
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader

from hip_ext.backbones.mace import MACEBackbone
from hip_ext.backbones.mace_models import import_mace
from hip_ext.checkpoint import CONFIG
from hip_ext.errors import CheckpointError
from hip_ext.model import HessianModel
from hip_ext.plugins.mace.loss import structure_errors
from hip_ext.plugins.mace.model import FrozenMACE, JointMACE, structures_of
from hip_ext.plugins.mace.options import head_folder, model_file


def check_folders(args: Namespace) -> None:
    """Raises CheckpointError if the head could not be written when the run is over."""
    for folder in {head_folder(args), head_folder(args, stage_two=args.swa)}:
        if folder.exists() and not (folder / CONFIG).is_file() and not (folder.is_dir() and not any(folder.iterdir())):
            raise CheckpointError(f"{folder} exists and is not a checkpoint of hip-ext: choose another --name")


def release(
    model: JointMACE,
    args: Namespace,
    stage_two: bool,
    elements: Sequence[int],
    labels: int,
    validation: Sequence[DataLoader[Any]],
) -> Any:
    """Writes the head, and gives a copy of the energy model as it is when it has no head.

    Args:
        model: trained.
        args: of the run.
        stage_two: whether these are the weights of MACE's second stage.
        elements: atomic numbers that the labels cover.
        labels: labelled training structures.
        validation: loaders to measure the error on.
    """
    energy_model = copy.deepcopy(model.energy_model)
    if args.lora:
        import_mace("mace.modules.lora").merge_lora_weights(energy_model)
    metrics = {}
    error, count = mean_error(model, validation)
    if count:
        logging.info(f"Mean absolute error of the Hessian on VALID: {error:.4f} eV/Å²")
        metrics["validation"] = {"structures": count, "hessian_mae": error}
    record = {
        "method": "MACE's trainer, the head alone" if isinstance(model, FrozenMACE) else "MACE's trainer, all together",
        "structures": labels,
        "epochs": args.max_num_epochs,
        "batch": args.batch_size,
    }
    backbone = MACEBackbone(energy_model, str(model_file(args, stage_two)))
    folder = head_folder(args, stage_two)
    HessianModel(backbone, model.head, record, metrics, elements).save_pretrained(folder)
    logging.info(f"Saving Hessian head to {folder}")
    return energy_model


@torch.no_grad()
def mean_error(model: JointMACE, loaders: Iterable[DataLoader[Any]]) -> tuple[float, int]:
    """Mean over labelled structures of the mean absolute error of their Hessians, eV/Å², and how many these are."""
    errors = []
    for loader in loaders:
        for batch in loader:
            data = batch.to(model.backbone.device).to_dict()
            structures = structures_of(model.energy_model, data)
            errors.append(structure_errors(batch, model.hessian(model.backbone.features(data), structures)))
    joined = torch.cat(errors) if errors else torch.zeros(0)
    return (float(joined.mean()), len(joined)) if len(joined) else (float("nan"), 0)
