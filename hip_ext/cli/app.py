"""The commands under one roof, and what they have in common: errors, interruption, version.

Exit codes: 0 fine; 1 not everything that was asked for was found; 2 wrong usage or input, with one line on stderr;
130 interrupted.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from hip_ext.cli.backbones import backbones
from hip_ext.cli.checkpoint import checkpoint
from hip_ext.cli.data import data
from hip_ext.cli.demo import demo
from hip_ext.cli.distill import distill
from hip_ext.cli.evaluate import evaluate
from hip_ext.cli.frequencies import frequencies
from hip_ext.cli.hessian import hessian
from hip_ext.cli.irc import irc
from hip_ext.cli.label import label
from hip_ext.cli.mace_train import mace_train
from hip_ext.cli.models import models
from hip_ext.cli.phonons import phonons
from hip_ext.cli.relax import relax
from hip_ext.cli.train import train
from hip_ext.cli.ts import ts
from hip_ext.errors import HipExtError

BAD_INPUT, INTERRUPTED = 2, 130


class OneLineErrors(TyperGroup):
    """Commands whose expected errors are one line on stderr, never a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Runs a command; see the exit codes of this module."""
        try:
            return super().invoke(ctx)
        except HipExtError as error:
            typer.echo(f"hip-ext: error: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(BAD_INPUT) from None
        except KeyboardInterrupt:
            typer.echo("hip-ext: interrupted", err=True)
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(cls=OneLineErrors, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.command()(hessian)
app.command()(frequencies)
app.command()(phonons)
app.command()(ts)
app.command()(irc)
app.command()(relax)
app.command()(distill)
app.command()(train)
app.command()(label)
app.command()(evaluate)
app.add_typer(data, name="data")
app.add_typer(checkpoint, name="checkpoint")
app.add_typer(models, name="models")
app.command()(backbones)
app.command()(demo)
app.command("mace-train", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(mace_train)


def main() -> None:
    """Runs the command line and exits."""
    try:
        app(prog_name="hip-ext")
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            # Python would kill itself by the signal in place of the exit code if it came within an `exec` of a string.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(INTERRUPTED)
        raise


def _print_version(wanted: bool) -> None:
    if wanted:
        from hip_ext.version import version

        typer.echo(f"hip-ext {version()}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """A direct Hessian for interatomic potentials: predict it, compare it, turn it into vibrations."""
