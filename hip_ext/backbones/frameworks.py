"""Which frameworks are installed, and in which versions: asked of the packages' metadata, without importing any."""

from __future__ import annotations

from importlib import metadata
from typing import Any

from packaging.requirements import Requirement

from hip_ext.errors import BackboneError, MissingDependencyError


def installed_version(requirement: str) -> str | None:
    """The installed version of the package that a requirement such as "mace-torch>=0.3.16,<0.4" names, or None."""
    try:
        return metadata.version(Requirement(requirement).name)
    except metadata.PackageNotFoundError:
        return None


def require(framework: str, requirement: str, extra: str = "") -> None:
    """Checks that a framework is there, in a version that its adapter was written for.

    Args:
        framework: its name as people say it, e.g. "MACE".
        requirement: distribution and supported versions, e.g. "mace-torch>=0.3.16,<0.4".
        extra: the extra of hip-ext that installs it; empty where there is none.

    Raises:
        MissingDependencyError: it is not installed.
        BackboneError: it is installed in another version.
    """
    install = f"pip install 'hip-ext[{extra}]'" if extra else f"pip install '{requirement}'"
    needed, found = Requirement(requirement), installed_version(requirement)
    if found is None:
        raise MissingDependencyError(f"{framework} is not installed: {install}")
    if not needed.specifier.contains(found, prereleases=True):
        raise BackboneError(
            f"{needed.name} {found} is installed, but the adapter of {framework} needs {needed.specifier}: {install}"
        )


def unusable_source(kind: str, source: Any, expected: str) -> BackboneError:
    """The error about a source of a kind that an adapter does not take, or that is not given where there is no default.

    Args:
        kind: of the backbone.
        source: what was given.
        expected: what can be given.
    """
    found = "without a source" if source is None else f"from {type(source).__name__}"
    return BackboneError(f"the {kind} backbone cannot be made {found}: give {expected}")
