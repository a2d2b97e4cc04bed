"""What every test shares: one thread, float64 by default where a test makes its own tensors, the shared data folder."""

from pathlib import Path

import pytest
import torch
from chromium import browser, visit

__all__ = ["browser", "visit"]

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of weights and data beside the checkout; tests that need it are skipped where it is missing."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "weights").is_dir():
        pytest.skip("needs the folder ../shared (trained MACE weights, HORM records), which is not here")
    return folder
