"""The version of the installed package."""

from importlib import metadata


def version() -> str:
    """The version that the installed metadata states, "0+unknown" in a tree that nobody installed."""
    try:
        return metadata.version("hip-ext")
    except metadata.PackageNotFoundError:
        return "0+unknown"
