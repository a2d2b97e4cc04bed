"""What every backbone owes, as tests that an adapter inherits.

A backbone adapter, of this package or of yours, is tested by giving one fixture:

    import pytest
    from hip_ext.testing import BackboneCase, BackboneConformance

    @pytest.fixture(scope="module")
    def case() -> BackboneCase:
        return BackboneCase(make_model=my_model, attach=MyBackbone.load, own_calculator=MyCalculator)

    class TestMyBackbone(BackboneConformance):
        pass

`my_model()` makes a small model in float64, the same at each call; `MyCalculator(model)` is the framework's own ASE
calculator around it, against which energies, forces and stress are held. `BackboneCase` says what else may be given.

The suite has four parts, each a class of its own, for those who want one of them alone:

    FeatureConformance   symmetries and derivatives of the node features, batches, periodic structures
    EnergyConformance    energy, forces and stress are the framework's own and derivatives of each other
    ModelConformance     the user's model and the global state of torch stay as they were; copies, dtype, device
    HessianConformance   a head on the backbone: symmetries, gradients, checkpoints, the autograd reference

It needs pytest, which hip-ext itself does not.
"""

import pytest

# Before the modules are imported: their assertions then say what was found, as those of a test file do.
pytest.register_assert_rewrite(
    *(f"{__name__}.{module}" for module in ("compare", "energies", "features", "hessians", "models", "snapshot"))
)

from hip_ext.testing.case import PLACEMENTS, BackboneCase, CaseFixtures  # noqa: E402
from hip_ext.testing.compare import assert_close, assert_same_features, default_dtype, features_of  # noqa: E402
from hip_ext.testing.energies import EnergyConformance  # noqa: E402
from hip_ext.testing.features import FeatureConformance  # noqa: E402
from hip_ext.testing.hessians import HessianConformance  # noqa: E402
from hip_ext.testing.models import ModelConformance  # noqa: E402
from hip_ext.testing.motions import random_orthogonal, turned, turned_atoms  # noqa: E402
from hip_ext.testing.snapshot import Snapshot  # noqa: E402
from hip_ext.testing.structures import methanol_crystal, organic_structures  # noqa: E402

__all__ = [
    "PLACEMENTS",
    "BackboneCase",
    "BackboneConformance",
    "CaseFixtures",
    "EnergyConformance",
    "FeatureConformance",
    "HessianConformance",
    "ModelConformance",
    "Snapshot",
    "assert_close",
    "assert_same_features",
    "default_dtype",
    "features_of",
    "methanol_crystal",
    "organic_structures",
    "random_orthogonal",
    "turned",
    "turned_atoms",
]


class BackboneConformance(FeatureConformance, EnergyConformance, ModelConformance, HessianConformance):
    """The whole suite; needs a fixture `case`, of scope "class" or wider."""
