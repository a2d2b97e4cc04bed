"""The catalogue that ships and the user's own, together."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from hip_ext import shipped
from hip_ext.catalogue import bases, strict_yaml
from hip_ext.catalogue import heads as entries
from hip_ext.catalogue.bases import Base, Licence
from hip_ext.catalogue.heads import Head
from hip_ext.errors import ConfigError
from hip_ext.suggest import did_you_mean

VARIABLE = "HIP_EXT_REGISTRY"
"""Names a user's own folder."""

CHECKPOINTS, BACKBONES, MODELS = "checkpoints.yaml", "backbones.yaml", "models.yaml"


def heads(*, own: bool = True) -> dict[str, Head]:
    """The heads, by name.

    Args:
        own: whether with those of the user.

    Raises:
        ConfigError: a catalogue cannot be read, has an entry that is not as it should be, or a name twice.
        HipExtError: the installation lacks its catalogue.
    """
    found = _heads(shipped.registry_folder() / CHECKPOINTS, shipped.checkpoints_folder(), own=False)
    folder = own_folder() if own else None
    if folder is not None and (folder / CHECKPOINTS).exists():
        mine = _heads(folder / CHECKPOINTS, folder, own=True)
        _refuse_clash(folder / CHECKPOINTS, mine, found)
        found |= mine
    return found


def base_models(*, own: bool = True) -> dict[tuple[str, str], Base]:
    """The base models, by kind of backbone and name.

    Args:
        own: whether with those of the user.

    Raises:
        ConfigError: as `heads`.
    """
    found = {(one.backbone, one.name): one for one in bases.released(_backbones(shipped.registry_folder()))}
    folder = own_folder() if own else None
    if folder is not None and (folder / MODELS).exists():
        models = strict_yaml.read(folder / MODELS, bases.OwnModels, bases.KEYS)
        _refuse_unknown_kinds(folder / MODELS, models)
        mine = {(one.backbone, one.name): one for one in bases.owned(models)}
        _refuse_clash(folder / MODELS, (name for _, name in mine), {name for _, name in found})
        found |= mine
    return found


def licences() -> dict[str, Licence]:
    """The licences that restrict use, by name."""
    return _backbones(shipped.registry_folder()).licences


def own_folder() -> Path | None:
    """The user's own catalogue, or None.

    Raises:
        ConfigError: the variable names no folder that has one.
    """
    name = os.environ.get(VARIABLE)
    if not name:
        return None
    folder = Path(name).expanduser()
    if not any((folder / file).exists() for file in (CHECKPOINTS, MODELS)):
        raise ConfigError(f"{VARIABLE} is {name!r}, which has neither {CHECKPOINTS} nor {MODELS}: correct or unset it")
    return folder


@cache
def _backbones(folder: Path) -> bases.Backbones:
    return strict_yaml.read(folder / BACKBONES, bases.Backbones, bases.KEYS)


def _heads(path: Path, folder: Path, *, own: bool) -> dict[str, Head]:
    found = strict_yaml.read(path, entries.Catalogue, entries.KEYS).checkpoints
    return {
        name: Head(name, "own" if own else "shipped", entry, folder / entry.folder)
        if entry.folder is not None
        else Head(name, "hub", entry, None)
        for name, entry in found.items()
    }


def _refuse_unknown_kinds(path: Path, models: bases.OwnModels) -> None:
    from hip_ext.backbones.registry import backbone_kinds  # which reads the catalogue itself

    known = backbone_kinds()
    for name, one in models.models.items():
        if one.backbone not in known:
            raise ConfigError(
                f"{path}: the model {name!r} has backbone {one.backbone!r}{did_you_mean(one.backbone, known)}; "
                f"known are {', '.join(known)}: correct it, or install the package that declares it"
            )


def _refuse_clash(path: Path, mine: Iterable[str], theirs: Iterable[str]) -> None:
    twice = sorted(set(mine) & set(theirs))
    if twice:
        raise ConfigError(f"{path}: the name {twice[0]!r} is taken by an entry that ships: choose another")
