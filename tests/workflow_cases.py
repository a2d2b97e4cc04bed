"""What tests of runs over many structures do in worker processes: work, fail, or kill the process."""

import os
import signal
import time

from hip_ext.errors import BackboneError, ConfigError
from hip_ext.workflows.outcome import Outcome


class Weigh:
    """The mass of a structure; nitrogen fails, sulfur fails in a way of its own, and chlorine kills the process."""

    def __init__(self, pause=0.0, broken=False):
        if broken:
            raise ConfigError("there is no such balance")
        self.pause = pause

    def __call__(self, task):
        time.sleep(self.pause)
        if 17 in task.atoms.numbers:
            os.kill(os.getpid(), signal.SIGKILL)
        if 7 in task.atoms.numbers:
            raise BackboneError("nitrogen has no weight")
        if 16 in task.atoms.numbers:
            return 1 / 0
        moved = task.atoms.copy()
        moved.positions += 1 / 3
        values = {"mass": task.atoms.get_masses().sum(), "process": os.getpid(), "nothing": float("nan")}
        return Outcome(task.name, "done", values=values, frames={"moved": (moved,)})
