"""The file of a report: refused early where it could not be written, and never there by half."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hip_ext.atomic import write_text
from hip_ext.errors import ConfigError, DataError
from hip_ext.report.page import page
from hip_ext.report.parts import Part, Section


def write_report(path: str | Path, title: str, parts: Sequence[Part | Section]) -> None:
    """Writes a report.

    Args:
        path: where to, `.html`.
        title: at its top.
        parts: in the order shown; those outside a `Section` share one 3D view.

    Raises:
        ConfigError: the file cannot be written.
        DataError: there is nothing to report.
    """
    check_report(path)
    if not parts or any(isinstance(part, Section) and not part.parts for part in parts):
        raise DataError(f"{path}: there is nothing to report, found {'an empty section' if parts else 'no parts'}")
    try:
        write_text(path, page(title, parts))
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from None


def check_report(path: str | Path | None) -> None:
    """Refuses a report that could not be written in the end, before the work begins.

    Raises:
        ConfigError: not an HTML file, or there is no such folder.
    """
    if path is None:
        return
    path = Path(path)
    if path.suffix not in {".html", ".htm"}:
        raise ConfigError(f"--report {path}: unknown extension {path.suffix!r}, expected .html")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise ConfigError(f"--report {path}: {'it is a folder' if path.is_dir() else 'its folder does not exist'}")
