"""The options of `hip-ext mace-train`: all of MACE's, and a few for the head, in one parser and one YAML file."""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from hip_ext.backbones.mace_models import import_mace
from hip_ext.errors import ConfigError
from hip_ext.head import HeadConfig

REFUSED = {
    "distributed": "train in one process",
    "enable_cueq": "train without it and convert the .model file afterwards",
    "only_cueq": "train without it and convert the .model file afterwards",
    "enable_oeq": "train without it and convert the .model file afterwards",
}
"""MACE's switches that turn the model into something on which the head has not been tried, and what to do instead."""


def parse(arguments: Sequence[str]) -> Namespace:
    """Reads a command line, and the YAML file that its `--config` names.

    Returns:
        MACE's options, and for the head `hessian_key`, `hessian_weight`, `hessian_lr`, `freeze_backbone` and
        `hessian_head`, the latter a HeadConfig.

    Raises:
        ConfigError: an option is unknown, missing, out of range, or not supported together with a Hessian head.
    """
    args = _parser().parse_args(list(arguments))
    for name, advice in REFUSED.items():
        if getattr(args, name):
            raise ConfigError(f"mace-train does not support --{name}: {advice}")
    for name in ("hessian_weight", "hessian_lr"):
        value = getattr(args, name)
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"--{name} is {value}, expected a positive number")
    args.hessian_head = _head_config(args.hessian_head)
    if args.freeze_backbone:
        _freeze(args)
    # Without cuEquivariance MACE builds the full coupling tensors but would note down the reduced ones, and the model
    # could not be rebuilt from its configuration where cuEquivariance is installed.
    if not import_mace("mace.modules.wrapper_ops").CUET_AVAILABLE:
        args.use_reduced_cg = False
    return args


def model_file(args: Namespace, stage_two: bool = False) -> Path:
    """Where MACE writes the energy model of a run."""
    return Path(args.model_dir or args.work_dir) / f"{args.name}{'_stagetwo' if stage_two else ''}.model"


def head_folder(args: Namespace, stage_two: bool = False) -> Path:
    """Where the checkpoint of the head goes, beside the energy model."""
    path = model_file(args, stage_two)
    return path.with_name(f"{path.stem}_hessian")


def _parser() -> Any:
    parser = import_mace("mace.tools").build_default_arg_parser()
    group = parser.add_argument_group("Hessian head")
    group.add_argument(
        "--hessian_key", default="REF_hessian", help="info key of the Hessian in xyz files: 9N² numbers, eV/Å²"
    )
    group.add_argument(
        "--hessian_weight", type=float, default=1.0, help="weight of its mean absolute error (eV/Å²) in the loss"
    )
    group.add_argument(
        "--hessian_head", default="{}", help="hyper-parameters: a YAML file, or a mapping like {layers: 1}"
    )
    group.add_argument("--hessian_lr", type=float, default=1e-3, help="learning rate of the head; --lr is for the rest")
    group.add_argument(
        "--freeze_backbone", action="store_true", help="train the head alone, on the foundation model as it is"
    )
    parser.error = _refuse
    return parser


def _refuse(message: str) -> NoReturn:
    raise ConfigError(f"mace-train: {message}")


def _head_config(text: str) -> HeadConfig:
    """A head's hyper-parameters from a YAML file or from the mapping itself."""
    is_file = not text.lstrip().startswith("{")
    try:
        values = yaml.safe_load(Path(text).read_text(encoding="utf-8") if is_file else text)
    except OSError as error:
        raise ConfigError(
            f"--hessian_head: cannot read {text!r} ({error.strerror}): give a YAML file or a mapping like {{layers: 1}}"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise ConfigError(f"--hessian_head: {text!r} is not valid YAML") from None
    if not isinstance(values, dict):
        raise ConfigError(f"--hessian_head: expected a mapping such as {{layers: 1}}, found {values!r}")
    return HeadConfig.from_dict(values)


def _freeze(args: Namespace) -> None:
    if args.foundation_model is None:
        raise ConfigError("--freeze_backbone needs a trained model: name it with --foundation_model")
    if args.lora or args.pt_train_file or args.pseudolabel_replay:
        raise ConfigError("--freeze_backbone leaves nothing for --lora, --pt_train_file or --pseudolabel_replay to do")
    args.multiheads_finetuning = False
    # The model stays as it is, all its elements and their energies included.
    args.foundation_model_elements = True
    args.E0s = args.E0s or "foundation"
