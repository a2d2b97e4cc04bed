"""Hessians of all frames of a file: predicted or exact, timed, with a progress bar for those that take long."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from hip_ext.cli.inputs import load_model, named, read_frames, untaught
from hip_ext.cli.options import Method
from hip_ext.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from ase import Atoms
    from numpy.typing import NDArray

    from hip_ext.model import HessianModel

Used = TypeVar("Used")

PATIENCE = 1.0
"""Seconds without a progress bar."""


@dataclass(frozen=True)
class Made:
    """One frame and its Hessian.

    Attributes:
        atoms: N atoms.
        hessian: eV/Å², [3N, 3N].
        seconds: time that it took.
        energy: eV, of the backbone.
        forces: eV/Å, of the backbone, [N, 3].
        exact: the Hessian that it was compared with, eV/Å², [3N, 3N], or None.
        exact_seconds: time that this one took, or None.
    """

    atoms: Atoms
    hessian: NDArray[np.float64]
    seconds: float
    energy: float
    forces: NDArray[np.float64]
    exact: NDArray[np.float64] | None = None
    exact_seconds: float | None = None

    @property
    def largest_force(self) -> float:
        """eV/Å, on any atom."""
        return float((self.forces**2).sum(axis=1).max() ** 0.5)


def make_all(file: Path, model_name: str, trust_source: bool, method: Method, compare: bool) -> list[Made]:
    """Reads a file and makes the Hessian of every frame.

    Raises:
        HipExtError: the file, the model or a structure cannot be used; nothing is made then.
    """
    return make_each(file, model_name, trust_source, method, compare, lambda model, made: made)


def make_each(
    file: Path,
    model_name: str,
    trust_source: bool,
    method: Method,
    compare: bool,
    use: Callable[[HessianModel, Made], Used],
) -> list[Used]:
    """Reads a file, makes the Hessian of every frame, and hands it on, with the model, to `use`.

    Raises:
        HipExtError: the file, the model or a structure cannot be used, or `use` refuses it.
    """
    if compare and method is Method.autograd:
        raise ConfigError("--compare autograd needs a prediction to compare: leave out --method autograd")
    frames = read_frames(file)
    with progress(len(frames), "Hessians") as advance:
        model = load_model(model_name, trust_source)
        note = untaught(model, frames) if method is Method.direct else ""
        if note:
            print(f"hip-ext: warning: {note}", file=sys.stderr)
        made = []
        for index, atoms in enumerate(frames):
            with named(file, index, len(frames)):
                made.append(use(model, make(model, atoms, method, compare, warm=index == 0)))
            advance()
    return made


def make(model: HessianModel, atoms: Atoms, method: Method, compare: bool, warm: bool = False) -> Made:
    """Makes one Hessian, and the exact one if it is to be compared.

    Args:
        model: backbone and head.
        atoms: one structure.
        method: which Hessian.
        compare: whether to make the exact one as well.
        warm: run once before the time is taken; the first pass of a process also pays for what torch loads late.
    """
    import numpy as np

    from hip_ext.reference import autograd_hessian

    structures = model.structures(atoms)
    # Also finds what is wrong with a structure before anything is timed.
    found = model.backbone.evaluate(structures)
    energy, forces = float(found.energy), found.forces.cpu().numpy().astype(np.float64)

    def direct() -> NDArray[np.float64]:
        return model.hessian(structures).dense().cpu().numpy().astype(np.float64)

    def exact() -> NDArray[np.float64]:
        return autograd_hessian(model.backbone, structures).cpu().numpy().astype(np.float64)

    if warm and method is Method.direct:
        direct()
    hessian, seconds = _timed(direct if method is Method.direct else exact)
    if not compare:
        return Made(atoms, hessian, seconds, energy, forces)
    return Made(atoms, hessian, seconds, energy, forces, *_timed(exact))


@contextmanager
def progress(total: int | None, label: str) -> Iterator[Callable[[], None]]:
    """A bar on stderr once the block has lasted longer than `PATIENCE`, on a terminal only; yields what advances it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = bar.add_task(label, total=total)
    timer = threading.Timer(PATIENCE, bar.start)
    timer.daemon = True
    timer.start()
    try:
        yield lambda: bar.advance(task)
    finally:
        timer.cancel()
        timer.join()
        bar.stop()


def _timed(work: Callable[[], NDArray[np.float64]]) -> tuple[NDArray[np.float64], float]:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start
