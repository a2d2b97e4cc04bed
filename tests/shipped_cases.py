"""What the present code makes of a shipped checkpoint, against its card: one group of structures, which is quick."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from backbone_cases import trained_mace

from hip_ext import from_pretrained
from hip_ext.backbones import Backbone, load_backbone
from hip_ext.checkpoint import read_config
from hip_ext.evaluation.metrics import compare, summarise
from hip_ext.shipped import checkpoints_folder

REFERENCES = Path(__file__).parents[1] / "benchmarks" / "references"

MEASURED = {
    "hip-so3lr-organic": ("so3krates_torch", "large.lmdb", "large, rattled"),
    "hip-so3lr-organic-large": ("so3krates_torch", "large.lmdb", "large, rattled"),
    "hip-mace-spice": ("mace", "mace-spice/large.lmdb", "large, rattled"),
    "hip-7net-0": ("sevenn", "sevennet.lmdb", "unseen cells of 16 atoms"),
}
"""What must be installed, exact Hessians of the backbone, and what the card calls these structures."""


def assert_as_good_as_its_card(name: str, folder: Path, request: pytest.FixtureRequest) -> None:
    """Predicts what is measured on the card once more."""
    package, file, group = MEASURED[name]
    pytest.importorskip(package, reason=f"needs {package}")
    pytest.importorskip("lmdb", reason="needs lmdb, of the extra train")
    from hip_ext.data.store import HessianStore

    backbone = _mace_spice(request) if name == "hip-mace-spice" else None
    expected = read_config(checkpoints_folder() / name).metrics[group]
    # A copy, since a lock file comes beside a store that is opened.
    records = list(HessianStore(shutil.copy(REFERENCES / file, folder / Path(file).name)))
    model = from_pretrained(name, backbone=backbone)
    found = []
    for record in records:
        predicted = model.hessian(record.atoms()).dense().double().numpy()
        found.append(compare(record.atoms(), (predicted + predicted.T) / 2, record.hessian()))
    measured = summarise(found)
    assert measured["structures"] == expected["structures"]
    for key in ("hessian_mae", "hessian_mae_median", "mean_abs", "mae_over_mean_abs", "frequency_mae"):
        assert measured[key] == pytest.approx(expected[key], rel=1e-3), key
    assert measured["negative_agreement"] == pytest.approx(expected["negative_agreement"], abs=1.5 / len(records))
    assert measured["mode_overlap_median"] == pytest.approx(expected["mode_overlap_median"], abs=1e-3)


def _mace_spice(request: pytest.FixtureRequest) -> Backbone:
    """What configs/mace-spice/build.py makes of MACE's public file, from the same weights stored as safetensors."""
    shared = request.getfixturevalue("shared")
    return load_backbone("mace", trained_mace(shared / "weights", "mace_spice").float())
