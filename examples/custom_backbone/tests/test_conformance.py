"""What every backbone owes, inherited."""

import pytest

from cartnet import CartNet, CartNetCalculator
from cartnet.hessian import CartNetBackbone
from hip_ext.testing import BackboneCase, BackboneConformance


@pytest.fixture(scope="module")
def case():
    return BackboneCase(CartNet, CartNetBackbone.load, CartNetCalculator, layers="layers")


class TestCartNet(BackboneConformance):
    pass
