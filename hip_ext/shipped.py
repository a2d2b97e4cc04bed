"""Where the catalogue, the checkpoints and the example molecules that ship with the package lie.

In a wheel they are `hip_ext/_registry`, `hip_ext/_checkpoints` and `hip_ext/_examples`; in a source checkout, which an
editable install points to, they are the folders `registry/`, `checkpoints/` and `examples/molecules/` beside the
package.
"""

from __future__ import annotations

from pathlib import Path

from hip_ext.errors import HipExtError

PACKAGE = Path(__file__).resolve().parent
CHECKPOINT_FILES = ("config.json", "model.safetensors")


def registry_folder() -> Path:
    """The folder of the catalogue, which holds `backbones.yaml`.

    Raises:
        HipExtError: the installation lacks it.
    """
    return _folder("registry")


def checkpoints_folder() -> Path:
    """The folder of the checkpoints that ship, one sub-folder each, laid out as a Hub repository.

    Raises:
        HipExtError: the installation lacks it.
    """
    return _folder("checkpoints")


def molecules_folder() -> Path:
    """The folder of the example molecules, one `.xyz` file each.

    Raises:
        HipExtError: the installation lacks it.
    """
    return _folder("examples", "examples/molecules")


def shipped_checkpoints() -> list[str]:
    """Names of the checkpoints that ship, in alphabetical order.

    A checkpoint is a sub-folder that has both `config.json` and `model.safetensors`; its name is the folder's name.

    Raises:
        HipExtError: the installation lacks the folder of checkpoints.
    """
    folders = (path for path in checkpoints_folder().iterdir() if path.is_dir())
    return sorted(path.name for path in folders if all((path / file).is_file() for file in CHECKPOINT_FILES))


def _folder(name: str, in_checkout: str = "") -> Path:
    packaged = PACKAGE / f"_{name}"
    if packaged.is_dir():
        return packaged
    root = PACKAGE.parent
    # In site-packages a folder of this name would be somebody else's; only a checkout has a pyproject.toml beside it.
    if (root / "pyproject.toml").is_file() and (root / (in_checkout or name)).is_dir():
        return root / (in_checkout or name)
    raise HipExtError(f"this installation of hip-ext has no {name} folder: looked for {packaged}; install it again")
