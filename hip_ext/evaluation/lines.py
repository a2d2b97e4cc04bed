"""The results of single structures: one mapping for each structure, model and reference, ready for JSON.

What fails in one structure, whatever it is, becomes the `failure` of its line, and the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal, TypeVar

import numpy as np
from ase import Atoms

from hip_ext.data.record import HessianRecord
from hip_ext.errors import HipExtError
from hip_ext.evaluation.blocks import block_errors
from hip_ext.evaluation.inputs import Contestant, Data, Predicted
from hip_ext.evaluation.metrics import compare_spectra
from hip_ext.evaluation.spectra import Spectrum

Line = dict[str, Any]
Reference = Literal["data", "autograd"]
Job = tuple[Contestant, Reference]
T = TypeVar("T")

INCOMPLETE = "no complete Hessian in the data"


def lines_of(jobs: Mapping[int, Sequence[Job]], data: Data, group_by: str, pair_by: str) -> list[Line]:
    """Evaluates some structures as one batch.

    Args:
        jobs: what to make for each index of the data.
        data: the structures.
        group_by: key of `info` that names a structure's group.
        pair_by: key of `info` that declares pairs.

    Returns:
        One line a job: index, model and reference; name, formula, atoms, group and pair if the record can be read; and
        `skipped`, `failure`, or energy, metrics, eigenvalues (predicted, exact) and sums over blocks.
    """
    batch = _Batch(jobs, data)
    lines = []
    for index, todo in jobs.items():
        record = batch.records[index]
        for contestant, reference in todo:
            line: Line = {"index": index, "model": contestant.name, "reference": reference}
            if isinstance(record, str):
                lines.append(line | {"failure": record})
                continue
            line |= _description(data.names.get(index, str(index)), record, batch.atoms[index], group_by, pair_by)
            if reference == "data" and not record.is_complete:
                lines.append(line | {"skipped": INCOMPLETE})
                continue
            target = batch.labels[index] if reference == "data" else batch.exact[index, contestant.exact_key]
            result = _compared(batch.atoms[index], record, batch.predicted[index, contestant.name], target, reference)
            lines.append(line | result)
    return lines


class _Batch:
    """Everything that the lines of a batch are made of; in place of what cannot be had stands why, a str."""

    def __init__(self, jobs: Mapping[int, Sequence[Job]], data: Data) -> None:
        self.records = {i: _attempt(data.records.__getitem__, i) for i in jobs}
        usable = {i: record for i, record in self.records.items() if isinstance(record, HessianRecord)}
        complete = {i: record for i, record in usable.items() if record.is_complete}
        self.atoms = {i: record.atoms() for i, record in usable.items()}
        self.labels = {i: _attempt(_label, self.atoms[i], record) for i, record in complete.items()}
        self.predicted: dict[tuple[int, str], Predicted | str] = {}
        self.exact: dict[tuple[int, str], Spectrum | str] = {}
        for contestant in {c.name: c for todo in jobs.values() for c, _ in todo}.values():
            references = {i: {r for c, r in jobs[i] if c is contestant} for i in usable}
            own = [i for i, found in references.items() if "autograd" in found or (found and i in complete)]
            for i, prediction in zip(own, _each(contestant.predict, [self.atoms[i] for i in own]), strict=True):
                self.predicted[i, contestant.name] = prediction
            # Heads on one backbone share its exact Hessian.
            key = contestant.exact_key
            new = [i for i in own if "autograd" in references[i] and (i, key) not in self.exact]
            for i, matrix in zip(new, _each(contestant.exact, [self.atoms[i] for i in new]), strict=True):
                made = matrix if isinstance(matrix, str) else _attempt(Spectrum.of, self.atoms[i], matrix)
                self.exact[i, key] = made


def _label(atoms: Atoms, record: HessianRecord) -> Spectrum:
    return Spectrum.of(atoms, record.hessian())


def _description(name: str, record: HessianRecord, atoms: Atoms, group_by: str, pair_by: str) -> Line:
    formula = atoms.get_chemical_formula()
    group, pair = record.info.get(group_by), record.info.get(pair_by)
    return {
        "name": name,
        "formula": f"{formula} {record.charge:+.0f}" if record.charge else formula,
        "atoms": len(atoms),
        "group": None if group is None else str(group),
        "pair": None if pair is None else str(pair),
    }


def _compared(
    atoms: Atoms, record: HessianRecord, predicted: Predicted | str, target: Spectrum | str, reference: Reference
) -> Line:
    if isinstance(predicted, str):
        return {"failure": predicted}
    if isinstance(target, str):
        return {"failure": target}
    labels = record if reference == "data" else None
    result = _attempt(_measured, atoms, predicted, target, labels)
    return {"failure": result} if isinstance(result, str) else result


def _measured(atoms: Atoms, predicted: Predicted, target: Spectrum, labels: HessianRecord | None) -> Line:
    spectrum = Spectrum.of(atoms, predicted.hessian)
    metrics: dict[str, Any] = asdict(compare_spectra(spectrum, target))
    energy = None if labels is None else labels.energy
    forces = None if labels is None else labels.forces
    if energy is not None:
        metrics["energy_mae"] = abs(predicted.energy - energy)
    if forces is not None:
        metrics["forces_mae"] = float(np.abs(predicted.forces - forces).mean())
    pairs, distances = block_errors(atoms, predicted.hessian, target.hessian)
    return {
        "energy": None if energy is None else [predicted.energy, energy],
        "metrics": metrics,
        "eigenvalues": [spectrum.values.tolist(), target.values.tolist()],
        "element_pairs": pairs,
        "distances": distances,
    }


def _attempt(work: Callable[..., T], *arguments: Any) -> T | str:
    """What the work gives, or one line that says why it gives nothing."""
    try:
        return work(*arguments)
    except Exception as error:  # of any library: a structure that fails must not end the run
        return _reason(error)


def _each(work: Callable[[Sequence[Atoms]], Sequence[T]], atoms: Sequence[Atoms]) -> list[T | str]:
    """The results of a batch; where that fails, of its members one by one."""
    if not atoms:
        return []
    try:
        return list(work(atoms))
    except Exception as error:
        if len(atoms) == 1:
            return [_reason(error)]
    return [result for one in atoms for result in _each(work, [one])]


def _reason(error: Exception) -> str:
    line = (str(error).strip().splitlines() or [""])[0]
    return line if isinstance(error, HipExtError) else f"{type(error).__name__}: {line}"
