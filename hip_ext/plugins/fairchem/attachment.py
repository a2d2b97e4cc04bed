"""A Hessian head on a loaded predict unit, and the way back: the head of a fairchem checkpoint as a HessianModel."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from fairchem.core.models.base import HydraModel
from fairchem.core.modules.normalization.normalizer import Normalizer
from fairchem.core.units.mlip_unit import load_predict_unit
from fairchem.core.units.mlip_unit.mlip_unit import OutputSpec, Task

from hip_ext.backbones import load_backbone
from hip_ext.backbones.borrowed import reason_of
from hip_ext.errors import BackboneError
from hip_ext.head import HeadConfig, HessianHead
from hip_ext.model import HessianModel
from hip_ext.plugins.fairchem.head import DirectHessianHead
from hip_ext.plugins.fairchem.layout import DIRECT, HESSIAN
from hip_ext.plugins.fairchem.model import is_direct

NAME = "zz_direct_hessian"
"""Heads run in the order of their names; this one comes last."""


def attach(
    predict_unit: Any, head: HessianHead | None = None, *, datasets: Sequence[str] | None = None
) -> DirectHessianHead:
    """Adds a Hessian head to an open predict unit; its energies and forces stay what they are.

    Do it before a FAIRChemCalculator is made of the unit. The Hessian is predicted as `hessian`, or as `direct_hessian`
    where the unit has been asked for fairchem's autograd Hessian.

    The Hessian of a lone atom is zero. Where fairchem looks such an atom up in its table instead of running the model,
    its own `predict` and calculator then stop with a KeyError; `DirectHessianCalculator` goes on.

    Args:
        predict_unit: from `load_predict_unit` or `pretrained_mlip.get_predict_unit`, in one process.
        head: a trained head, such as `HessianModel.head`; by default an untrained one.
        datasets: the tasks (omol, omat, …) that it is for; by default all that have an energy.

    Raises:
        BackboneError: the unit has a model without heads (Nitro), several processes or a Hessian head already, is
            compiled already, has no energy, or no such task; or the head was made for other features.
    """
    model = _hydra(predict_unit)
    if any(isinstance(other, DirectHessianHead) for other in model.output_heads.values()):
        raise BackboneError("the predict unit has a Hessian head already: load the checkpoint again for another one")
    if predict_unit.lazy_model_intialized and predict_unit.inference_settings.compile:
        raise BackboneError("the predict unit is compiled already: attach the head before the first prediction")
    known = sorted({name for task in model.tasks.values() if task.property == "energy" for name in task.datasets})
    chosen = list(known if datasets is None else datasets)
    if not known:
        raise BackboneError("the checkpoint has no energy task: a Hessian needs the energy that it belongs to")
    if not set(chosen) <= set(known):
        raise BackboneError(f"there is no task {sorted(set(chosen) - set(known))[0]!r}, only {', '.join(known)}")
    names = [f"{dataset}_{DIRECT}" for dataset in chosen]
    with torch.random.fork_rng(devices=[]):
        config = (head.config if head is not None else HeadConfig()).model_dump()
        new = DirectHessianHead(model.backbone, names, config)
    new.to(device=next(model.backbone.parameters()).device, dtype=predict_unit.inference_settings.base_precision_dtype)
    if head is not None:
        if tuple(head.widths) != new.head.widths:
            raise BackboneError(f"the head expects {head.widths} features, the backbone gives {new.head.widths}")
        new.head.load_state_dict(head.state_dict())
    new.follow(model)
    new.requires_grad_(False).eval()
    if model.pass_through_head_outputs:
        model.output_heads[NAME] = new
    else:
        new.tasks = None
        model.output_heads.update(dict.fromkeys(names, new))
    taken = any(task.property == HESSIAN for task in model.tasks.values())
    model.add_tasks(
        [_task(name, dataset, DIRECT if taken else HESSIAN) for name, dataset in zip(names, chosen, strict=True)]
    )
    return new


def hessian_model(source: Any, *, task: str | None = None, **options: Any) -> HessianModel:
    """The head of a trained fairchem model as a `HessianModel`, to be saved, published and used as any other.

    Args:
        source: an inference checkpoint (a pickle: name only files that you trust) or a predict unit, which stays as it
            is.
        task: fairchem's task name (omol, …), for models with several.
        options: of the backbone, as in `load_backbone("fairchem", …)`; a borrowed backbone, such as MACE, takes none.

    Raises:
        BackboneError: there is no such checkpoint, no Hessian head (for that task) in it, or its experts are merged.
    """
    unit = _open(source) if isinstance(source, str | Path) else copy.deepcopy(source)
    model = _hydra(unit)
    if getattr(model.backbone, "_merged_composition", None) is not None:
        raise BackboneError(
            "the experts of this predict unit are merged for one composition: give the checkpoint's path, or load it "
            "with inference_settings='batch'"
        )
    ours = {name: head for name, head in model.output_heads.items() if isinstance(head, DirectHessianHead)}
    if not ours:
        raise BackboneError("there is no Hessian head in this model: see attach() and add_hessian_head()")
    known = {name: one.datasets for name, one in model.tasks.items() if is_direct(one)}
    names = {name for name, datasets in known.items() if task is None or task in datasets}
    found = next((h for h in ours.values() if names and (h.tasks is None or names & set(h.tasks))), None)
    if found is None:
        meant = ", ".join(sorted({dataset for datasets in known.values() for dataset in datasets}))
        raise BackboneError(f"no Hessian head in this model is for the task {task!r}, only for {meant or 'none'}")
    borrowed = getattr(model.backbone, "adapter", None)
    if borrowed is not None:
        return HessianModel(borrowed, found.head.to(device=borrowed.device, dtype=borrowed.dtype).eval())
    for name in ours:
        del model.output_heads[name]
    left = [one for one in model.tasks.values() if not is_direct(one)]
    model._tasks.clear()
    model._dataset_to_tasks = None
    model._tasks.update({one.name: one for one in left})
    model.add_tasks([])
    backbone = load_backbone("fairchem", unit, **options | ({} if task is None else {"task": task}))
    return HessianModel(backbone, found.head.to(device=backbone.device, dtype=backbone.dtype).eval())


def _open(path: str | Path) -> Any:
    if not Path(path).is_file():
        raise BackboneError(f"there is no fairchem checkpoint at {str(path)!r}")
    try:
        return load_predict_unit(str(path), device="cpu", inference_settings="batch")
    except Exception as error:  # a pickle of something else, or of another version, can fail in any way at all
        raise BackboneError(f"{str(path)!r} cannot be read as a fairchem checkpoint: {reason_of(error)}") from None


def _hydra(predict_unit: Any) -> Any:
    model = getattr(getattr(predict_unit, "model", None), "module", None)
    if isinstance(model, HydraModel):
        return model
    found = type(model).__name__ if model is not None else type(predict_unit).__name__
    raise BackboneError(
        f"a predict unit with a HydraModel in one process expected, found {found}: load it with workers=1 and "
        "inference settings with nitro=False"
    )


def _task(name: str, dataset: str, prop: str) -> Task:
    spec = OutputSpec(dim=[1], dtype="float32")
    return Task(
        name=name, level="system", property=prop, out_spec=spec, normalizer=Normalizer(0.0, 1.0), datasets=[dataset]
    )
