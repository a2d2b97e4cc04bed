"""Reading a YAML file that says how something is to be trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from hip_ext.errors import ConfigError


def read_yaml(path: str | Path, what: str) -> Any:
    """What the file holds, which may be anything that YAML knows.

    Args:
        path: the file, in UTF-8.
        what: a word for it in errors, such as "recipe".

    Raises:
        ConfigError: it cannot be read, or is no YAML.
    """
    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the {what} {path}: {str(error).splitlines()[0]}") from None
