"""config.json: read, upgraded, validated."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from hip_ext import strict_json
from hip_ext.checkpoint.files import read_all
from hip_ext.checkpoint.schema import (
    CONFIG,
    FORMAT,
    BackboneRecord,
    CheckpointConfig,
    FeatureRecord,
    TunedRecord,
)
from hip_ext.checkpoint.upgrades import upgraded
from hip_ext.errors import CheckpointError
from hip_ext.head import HeadConfig
from hip_ext.suggest import first_problem

LARGEST_CONFIG = 1 << 20
"""Bytes; a longer file is refused unread."""

_RECORDS = (CheckpointConfig, HeadConfig, BackboneRecord, FeatureRecord, TunedRecord)


def read_config(folder: str | Path) -> CheckpointConfig:
    """Reads and validates config.json, whatever schema it has.

    Raises:
        CheckpointError: it is missing, not JSON, has an unknown key or value, or a newer schema.
    """
    return parse_config(read_all(Path(folder), CONFIG, LARGEST_CONFIG), str(Path(folder) / CONFIG))


def parse_config(data: bytes, name: str) -> CheckpointConfig:
    """The config in these bytes.

    Args:
        data: the contents of a config.json.
        name: how errors call it.

    Raises:
        CheckpointError: as `read_config`.
    """
    try:
        values = strict_json.parse(data)
    except ValueError as error:
        raise CheckpointError(f"{name} is not valid JSON ({error}): the checkpoint is damaged, get it again") from None
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise CheckpointError(f"{name} is not the config of a hip-ext checkpoint: its 'format' is not {FORMAT!r}")
    try:
        return CheckpointConfig.model_validate(upgraded(values))
    except CheckpointError as error:
        raise CheckpointError(f"{name}: {error}") from None
    except ValidationError as error:
        known = {field for record in _RECORDS for field in record.model_fields}
        raise CheckpointError(f"{name}: {first_problem(error, known)[:500]}") from None
