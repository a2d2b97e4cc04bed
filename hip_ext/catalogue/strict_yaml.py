"""YAML that anybody may have written: plain data of a bounded size, no key twice, no anchors or control characters."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from hip_ext.errors import ConfigError
from hip_ext.strict_json import check_values
from hip_ext.suggest import first_problem

LARGEST = 1 << 20
"""Bytes of a file."""

Model = TypeVar("Model", bound=BaseModel)


def read(path: Path, model: type[Model], known: set[str]) -> Model:
    """The contents of a file as the record that they have to be.

    Args:
        path: of the file.
        model: of the whole document.
        known: names of keys, for suggestions.

    Raises:
        ConfigError: it cannot be read, is not YAML of this kind, or has an entry that is not as it should be.
    """
    if not path.is_file():  # a pipe would block whoever opens it
        raise ConfigError(f"cannot read {path}: {'it is not a file' if path.exists() else 'there is no such file'}")
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise ConfigError(f"{path} is longer than {LARGEST} bytes: a catalogue is not")
        values = yaml.load(data, _Loader)
        check_values(values)
        return model.model_validate(values)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())[:200]}") from None
    except ValidationError as error:
        raise ConfigError(f"{path}: {first_problem(error, known)[:500]}") from None
    except (ValueError, RecursionError, OverflowError) as error:  # of a number or a date that is none, or of levels
        raise ConfigError(f"{path} is not YAML of a catalogue: {' '.join(str(error).split())[:200]}") from None


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuses anchors, whose copies of copies could be more than any memory holds."""
        event = self.peek_event()
        if getattr(event, "anchor", None) is not None:
            raise yaml.YAMLError(f"an anchor or an alias in line {event.start_mark.line + 1}: write it out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Refuses a key that appears twice."""
        seen = set()
        for key, _ in node.value:
            if key.value in seen if isinstance(key, yaml.ScalarNode) else True:
                raise yaml.YAMLError(f"the key {str(key.value)[:40]!a} in line {key.start_mark.line + 1} is not new")
            seen.add(key.value)
        return super().construct_mapping(node, deep)
