"""`hip-ext external`: what Gaussian and ORCA call for energy, gradient and Hessian."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hip_ext.cli.options import DEFAULT_MODEL, Method, MethodOption, ModelOption, TrustOption
from hip_ext.errors import HipExtError

if TYPE_CHECKING:
    from hip_ext.integrations.atomic_units import AtomicUnits

external = typer.Typer(no_args_is_help=True, help="Answer for Gaussian (External) and ORCA (ExtOpt).")

ServerOption = Annotated[
    Path | None, typer.Option(help="The socket of a running `hip-ext external serve`; its model is used.")
]


@external.command()
def gaussian(
    layer: Annotated[str, typer.Argument(help="R, M or S; whatever the layer, the structure in INPUT is computed.")],
    input_file: Annotated[Path, typer.Argument(metavar="INPUT", help="What Gaussian asks.")],
    output_file: Annotated[Path, typer.Argument(metavar="OUTPUT", help="What Gaussian reads.")],
    message_file: Annotated[
        Path | None, typer.Argument(metavar="MESSAGES", help="Errors go here too; Gaussian prints them.")
    ] = None,
    others: Annotated[list[Path] | None, typer.Argument(metavar="FCHK MATRICES", help="Not used.")] = None,
    model: ModelOption = DEFAULT_MODEL,
    trust_source: TrustOption = False,
    method: MethodOption = Method.direct,
    server: ServerOption = None,
) -> None:
    """Energy, gradient and force constants for Gaussian: `# external="hip-ext external gaussian" opt=calcfc`."""
    with _told(message_file):
        _perform("gaussian", [input_file, output_file], model, trust_source, method, server)


@external.command()
def orca(
    input_file: Annotated[Path, typer.Argument(metavar="INPUT", help="job_EXT.extinp.tmp, as ORCA writes it.")],
    hess: Annotated[Path | None, typer.Option(help="Write the Hessian of every structure too: a .hess file.")] = None,
    model: ModelOption = DEFAULT_MODEL,
    trust_source: TrustOption = False,
    method: MethodOption = Method.direct,
    server: ServerOption = None,
) -> None:
    """Energy and gradient for ORCA; for `ProgExt` name the program hip-ext-orca, which is this command."""
    files = [input_file] if hess is None else [input_file, hess]
    _perform("orca", files, model, trust_source, method, server)


@external.command()
def hess(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="One structure in any format that ASE reads.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .hess file.")],
    model: ModelOption = DEFAULT_MODEL,
    trust_source: TrustOption = False,
    method: MethodOption = Method.direct,
) -> None:
    """Write a Hessian for ORCA to start from: `%geom InHess Read InHessName "start.hess" end`."""
    from hip_ext.cli.inputs import named, read_frames
    from hip_ext.errors import StructureError
    from hip_ext.integrations.orca import write_hess

    frames = read_frames(file)
    if len(frames) != 1:
        raise StructureError(f"{file}: a .hess file is that of one structure, found {len(frames)}")
    units = _units(model, trust_source, method)
    with named(file, 0, 1):
        write_hess(out, frames[0], units.hessian(frames[0]), units.energy(frames[0]))
    typer.echo(f"written to {out}")


@external.command()
def serve(
    socket: Annotated[Path, typer.Argument(metavar="SOCKET", help="A path that is not there yet.")],
    model: ModelOption = DEFAULT_MODEL,
    trust_source: TrustOption = False,
    method: MethodOption = Method.direct,
) -> None:
    """Keep a model loaded and answer for `--server SOCKET` until interrupted."""
    import signal

    from hip_ext.integrations.server import serve as answer_all

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the socket is removed then too
    units = _units(model, trust_source, method)
    answer_all(units, socket, lambda: print(f"hip-ext: answering on {socket}", file=sys.stderr))


def orca_main() -> None:
    """`hip-ext-orca INPUT [options]`: a program of one word, as ORCA's `ProgExt` wants it."""
    from hip_ext.cli.app import main

    sys.argv[1:1] = ["external", "orca"]
    main()


def _perform(
    program: str, files: list[Path], model: str, trust_source: bool, method: Method, server: Path | None
) -> None:
    from hip_ext.integrations.server import ask, perform

    if server is not None:
        ask(server, program, files)
    else:
        perform(_units(model, trust_source, method), program, files)


def _units(model: str, trust_source: bool, method: Method) -> AtomicUnits:
    from functools import partial

    from hip_ext.calculator import HessianCalculator
    from hip_ext.cli.inputs import load_model
    from hip_ext.integrations.atomic_units import AtomicUnits

    calculator = HessianCalculator(load_model(model, trust_source))
    return AtomicUnits(calculator, partial(calculator.get_hessian, method=method.value))


@contextmanager
def _told(message_file: Path | None) -> Iterator[None]:
    """Puts an error of the block into the file that the calling program prints, and passes it on."""
    try:
        yield
    except HipExtError as error:
        if message_file is not None:
            message_file.write_text(f" hip-ext: error: {' '.join(str(error).split())}\n", encoding="utf-8")
        raise
