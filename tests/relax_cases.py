"""What tests of relaxations make in worker processes: a toy model that works, and one that fails half-way."""

from toy_backbone import ToyBackbone

from hip_ext.errors import BackboneError
from hip_ext.model import attach_head
from hip_ext.workflows.relax import Relaxation, RelaxSettings

EXACT = RelaxSettings(hessian="exact", verify="exact", fmax=1e-4)


class Tiring(ToyBackbone):
    """Fails in the third energy of a structure with sulfur."""

    evaluations = 0

    def evaluate(self, structures, *, stress=False):
        if 16 in structures.numbers:
            self.evaluations += 1
            if self.evaluations > 2:
                raise BackboneError("the backbone is tired")
        return super().evaluate(structures, stress=stress)


def make_toy():
    return Relaxation(attach_head(Tiring()), EXACT)
