"""`hip-ext mace-train`: MACE's own trainer with a Hessian head."""

from __future__ import annotations

import typer


def mace_train(context: typer.Context) -> None:
    """Train a MACE model together with a Hessian head, or a head alone, by MACE's own trainer.

    Takes every option of mace_run_train (see mace_run_train --help), --config FILE included, and:

    --hessian_key NAME      info key of the Hessian in xyz files, 9N² numbers in eV/Å² (default: REF_hessian)

    --hessian_weight X      weight of its mean absolute error in the loss (default: 1)

    --hessian_head CONFIG   hyper-parameters: a YAML file, or a mapping like {layers: 1}

    --hessian_lr X          learning rate of the head (default: 0.001); --lr is for the rest

    --freeze_backbone       train the head alone, on the --foundation_model as it is
    """
    from hip_ext.plugins.mace.trainer import train

    folder = train(context.args)
    typer.echo(f"head: {folder}" if folder is not None else "nothing was trained: dry run")
