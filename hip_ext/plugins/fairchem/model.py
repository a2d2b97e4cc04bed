"""fairchem's model, aware of its Hessian heads: `_target_: hip_ext.plugins.fairchem.model.HessianHydraModel`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal, get_args

from fairchem.core.models.base import HydraModel

from hip_ext.errors import ConfigError
from hip_ext.plugins.fairchem.head import DirectHessianHead, check_task_name
from hip_ext.plugins.fairchem.layout import DIRECT, HESSIAN

Trainable = Literal["everything", "heads", "hessian"]


class HessianHydraModel(HydraModel):
    """A HydraModel whose Hessian heads follow its backbone, and in which the two kinds of Hessian keep apart.

    The direct Hessian is predicted as `hessian`, which fairchem's own calculator passes on, unless fairchem's autograd
    Hessian is asked for as well (`predict_untrained_hessian`): that one then is `hessian`, as fairchem documents it,
    and the direct one is `direct_hessian`.

    Args:
        args: as HydraModel.
        trainable: which weights learn: everything, all heads, or the Hessian heads alone.
        kwargs: as HydraModel.

    Raises:
        ConfigError: `trainable` is none of these.
    """

    def __init__(self, *args: Any, trainable: Trainable = "everything", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if trainable not in get_args(Trainable):
            raise ConfigError(f"trainable is one of {', '.join(get_args(Trainable))}, found {trainable!r}")
        if trainable != "everything":
            self.backbone.requires_grad_(False)
        for head in self.output_heads.values():
            if isinstance(head, DirectHessianHead):
                head.follow(self)
            elif trainable == "hessian":
                head.requires_grad_(False)

    def setup_tasks(self, tasks_config: list[Any]) -> None:
        """Takes the tasks of a checkpoint.

        Raises:
            ConfigError: a Hessian task has a name that fairchem's own could have.
        """
        super().setup_tasks(tasks_config)
        for task in self.tasks.values():
            if task.property == HESSIAN and not task.inference_only:
                check_task_name(task.name)

    def add_tasks(self, tasks: Sequence[Any]) -> None:
        """Adds tasks; an autograd Hessian takes over the property `hessian`."""
        super().add_tasks(tasks)
        if any(task.property == HESSIAN and not is_direct(task) for task in self.tasks.values()):
            for task in filter(is_direct, self.tasks.values()):
                task.property = DIRECT
                logging.warning(f"'hessian' is the autograd Hessian now, that of the task {task.name} is '{DIRECT}'")


def is_direct(task: Any) -> bool:
    """Whether a task is answered by a Hessian head, as its name says."""
    return task.name.endswith(DIRECT)
