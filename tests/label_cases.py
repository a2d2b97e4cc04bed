"""What tests of a run make in worker processes: a labeller that works, takes its time, fails, or kills its process."""

import os
import signal
import time

import numpy as np
from ase.calculators.emt import EMT

from hip_ext.data.record import HessianRecord
from hip_ext.errors import BackboneError
from hip_ext.labelling.base import FULL, Labeller, filled


def make_emt(atoms):
    return EMT()


class Springs(Labeller):
    """H = 2·(number of the element)·1; unless it is careful, nitrogen fails and chlorine kills the process."""

    method = "springs"

    def __init__(self, pause=0.0, stiffness=2.0, careful=False):
        self.pause, self.stiffness, self.careful = pause, stiffness, careful

    @property
    def settings(self):
        return {"method": self.method, "stiffness": self.stiffness}

    def label(self, atoms, target=FULL):
        time.sleep(self.pause)
        if not self.careful and 17 in atoms.numbers:
            os.kill(os.getpid(), signal.SIGKILL)
        if not self.careful and 7 in atoms.numbers:
            raise BackboneError("nitrogen is not a spring")
        directions = target.directions(len(atoms))
        scale = self.stiffness * np.asarray(atoms.numbers, dtype=float)[:, None]
        return filled(HessianRecord.from_atoms(atoms, method=self.method), target, directions * scale)


def make_slow_emt(atoms):
    time.sleep(0.5)
    return EMT()
