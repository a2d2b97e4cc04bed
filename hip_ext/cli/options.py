"""The arguments that several commands share, with their help."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

DEFAULT_MODEL = "hip-so3lr-organic"


class Method(StrEnum):
    """How a Hessian is made: by the head, or exactly, by differentiating the backbone's energy twice."""

    direct = "direct"
    autograd = "autograd"


class Reference(StrEnum):
    """What a prediction can be compared with."""

    autograd = "autograd"


FileArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="Structures in any format that ASE reads; all frames are used.")
]
ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="A checkpoint that ships, the folder of one, or owner/name[@revision] on the Hugging Face Hub.",
    ),
]
TrustOption = Annotated[
    bool, typer.Option("--trust-source", help="Read the backbone's file that the checkpoint names; it can run code.")
]
MethodOption = Annotated[
    Method, typer.Option(help="direct: predicted by the head. autograd: exact, from the backbone's energy.")
]
RefineOption = Annotated[
    str | None,
    typer.Option(
        metavar="K",
        help="Correct the prediction with K exact products along its lowest modes, or with as many as the lowest "
        "mode needs: lowest.",
        show_default=False,
    ),
]
EstimateOption = Annotated[
    int,
    typer.Option(
        metavar="P", min=0, help="Estimate the error of the whole matrix from P exact products; 1 to 3 are enough."
    ),
]
CompareOption = Annotated[
    Reference | None, typer.Option(help="Also make the exact Hessian, and print errors and both times.")
]
OutOption = Annotated[
    Path | None, typer.Option("--out", "-o", help="Write the results: .npz, .json or .extxyz.", show_default=False)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]
