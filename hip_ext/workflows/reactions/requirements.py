"""The optional packages of the extra `workflows`, asked for when they are needed."""

from __future__ import annotations

from hip_ext.backbones.frameworks import require


def require_sella() -> None:
    """Checks that Sella is installed.

    Raises:
        MissingDependencyError: it is not.
    """
    require("Sella", "sella>=2.6,<3", "workflows")


def require_geodesic() -> None:
    """Checks that geodesic-interpolate is installed.

    Raises:
        MissingDependencyError: it is not.
    """
    require("geodesic-interpolate", "geodesic-interpolate>=1,<2", "workflows")
