"""Workers of a Dask cluster as an executor; Dask is optional."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager

from hip_ext.errors import ConfigError, MissingDependencyError, reason_of


@contextmanager
def cluster_executor(scheduler: str | None) -> Iterator[Executor | None]:
    """The workers behind a scheduler while the block runs; None where no scheduler is given.

    Args:
        scheduler: its address, such as tcp://host:8786. The workers need hip-ext in the same version.

    Raises:
        MissingDependencyError: Dask is not installed.
        ConfigError: the scheduler does not answer.
    """
    if scheduler is None:
        yield None
        return
    try:
        from distributed import Client
    except ImportError:
        raise MissingDependencyError("Dask is not installed: pip install 'hip-ext[cluster]'") from None
    try:
        client = Client(scheduler)
    except (OSError, ValueError) as error:
        raise ConfigError(f"the scheduler {scheduler} does not answer: {reason_of(error)}") from None
    with client:
        yield client.get_executor()
