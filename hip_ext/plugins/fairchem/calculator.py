"""fairchem's ASE calculator with the direct Hessian under a name of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from fairchem.core import FAIRChemCalculator
from numpy.typing import NDArray

from hip_ext.backbones.fairchem_inputs import predicted, refusals
from hip_ext.errors import BackboneError
from hip_ext.plugins.fairchem.layout import DIRECT, unpadded
from hip_ext.plugins.fairchem.model import is_direct
from hip_ext.sanity import check_matrix


class DirectHessianCalculator(FAIRChemCalculator):
    """A FAIRChemCalculator whose results always hold the direct Hessian as `direct_hessian`, [3N, 3N], eV/Å².

    `results["hessian"]` is what fairchem's own calculator gives: its autograd Hessian where `predict_untrained_hessian`
    asks for it, otherwise the direct one too.

    Args:
        predict_unit: with a Hessian head for the task; see `attach`.
        task_name: as FAIRChemCalculator; needed where the unit has several.
        kwargs: as FAIRChemCalculator.

    Raises:
        BackboneError: the unit has no such task, or no Hessian head for it.
    """

    implemented_properties: list[str]

    def __init__(self, predict_unit: Any, task_name: Any = None, **kwargs: Any) -> None:
        try:
            super().__init__(predict_unit, task_name=task_name, **kwargs)
        except (RuntimeError, ValueError) as error:
            raise BackboneError(str(error)) from None
        if not any(is_direct(task) for task in predict_unit.dataset_to_tasks[self.task_name]):
            raise BackboneError(f"the model has no Hessian head for {self.task_name!r}: see attach() and training")
        self.predictor = _Listener(predict_unit)
        self.implemented_properties = [*self.implemented_properties, DIRECT]

    def calculate(self, atoms: Atoms, properties: list[str], system_changes: list[str]) -> None:
        """Energy, forces, whatever else the unit predicts, and the direct Hessian, from one prediction.

        Raises:
            BackboneError: fairchem refuses the structure, or an attached head is gone.
            StructureError: its Hessian is none (see `hip_ext.sanity`).
        """
        with refusals(self.predictor):
            super().calculate(atoms, properties, system_changes)
        task = next(t for t in self.predictor.dataset_to_tasks[self.task_name] if is_direct(t))
        (matrix,) = unpadded(self.predictor.prediction[task.property], [len(atoms)])
        check_matrix(matrix, atoms)
        self.results[DIRECT] = matrix.detach().cpu().numpy().astype(np.float64)

    def get_hessian(self, atoms: Atoms) -> NDArray[np.float64]:
        """The direct Hessian, [3N, 3N], symmetric, eV/Å²."""
        return np.array(self.get_property(DIRECT, atoms))


class _Listener:
    """A predict unit that keeps its last prediction, of which fairchem's calculator passes on four properties only."""

    def __init__(self, unit: Any) -> None:
        self.unit = unit
        self.prediction: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        if name == "unit":  # while being copied or unpickled
            raise AttributeError(name)
        return getattr(self.unit, name)

    def predict(self, data: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        self.prediction = predicted(self.unit, data, *args, **kwargs)
        if not any(is_direct(task) for task in self.unit.dataset_to_tasks[data.dataset[0]]):
            raise BackboneError(
                "the predict unit has loaded its model anew, without the attached head: attach it again"
            )
        return self.prediction
