"""The command line, `hip-ext`: a thin layer over the package, which imports what a command needs when it runs."""

from hip_ext.cli.app import app, main

__all__ = ["app", "main"]
