"""One process that holds a model and answers for Gaussian and ORCA, which start a new process at every step.

Requests and answers are one JSON message each, over a socket in the file system that its owner alone can use:

    {"program": "gaussian", "files": ["/tmp/Gau-1.EIn", "/tmp/Gau-1.EOu"]}   →   {"error": ""}
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Client, Listener
from pathlib import Path
from typing import TYPE_CHECKING

from hip_ext.errors import ConfigError, HipExtError

if TYPE_CHECKING:
    from hip_ext.integrations.atomic_units import AtomicUnits


def perform(units: AtomicUnits, program: str, files: list[Path]) -> None:
    """Answers one request of a program.

    Args:
        units: gives energy, gradient and Hessian.
        program: "gaussian", "orca".
        files: what the `answer` of that program's module takes.

    Raises:
        HipExtError: as the `answer` of that module.
        ConfigError: there is no such program.
    """
    from hip_ext.integrations import gaussian, orca

    answers: dict[str, Callable[..., None]] = {"gaussian": gaussian.answer, "orca": orca.answer}
    if program not in answers:
        raise ConfigError(f"programs are {', '.join(answers)}, found {program!r}")
    answers[program](units, *files)


def serve(units: AtomicUnits, socket: Path, ready: Callable[[], None] = lambda: None) -> None:
    """Answers one request after the other until it is interrupted; the socket is removed then.

    Args:
        units: what answers.
        socket: a path that is not there yet.
        ready: called once the socket is there.

    Raises:
        ConfigError: the socket is there already or cannot be made.
    """
    if socket.exists():
        raise ConfigError(f"{socket} is there already: another server uses it, or remove it")
    mask = os.umask(0o077)
    try:
        listener = Listener(str(socket), family="AF_UNIX")
    except OSError as error:
        raise ConfigError(f"cannot listen on {socket}: {error.strerror or error}") from None
    finally:
        os.umask(mask)
    with listener:
        ready()
        while True:
            # Whoever asked may be gone, or have sent something else: the next one is answered all the same.
            with suppress(EOFError, OSError, ValueError, KeyError, TypeError), listener.accept() as connection:
                request = json.loads(connection.recv_bytes())
                files = [Path(file) for file in request["files"]]
                connection.send_bytes(json.dumps({"error": _problem(units, request["program"], files)}).encode())


def ask(socket: Path, program: str, files: list[Path]) -> None:
    """Has a server answer, as `perform` does in this process.

    Raises:
        ConfigError: nobody listens on the socket.
        HipExtError: the server's error.
    """
    try:
        with Client(str(socket), family="AF_UNIX") as connection:
            connection.send_bytes(
                json.dumps({"program": program, "files": [str(f.absolute()) for f in files]}).encode()
            )
            error = json.loads(connection.recv_bytes())["error"]
    except (OSError, EOFError) as problem:
        raise ConfigError(f"no server answers on {socket} ({problem}): start hip-ext external serve {socket}") from None
    if error:
        raise HipExtError(error)


def _problem(units: AtomicUnits, program: str, files: list[Path]) -> str:
    """What went wrong with a request, in one line; empty if nothing did. No request may end the server."""
    try:
        perform(units, program, files)
    except HipExtError as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""
