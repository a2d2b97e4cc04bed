"""The run as Lightning sees it: passes of a plan, a step of the weights after the last pass of each, and what is kept.

Optimisation is manual in Lightning's sense: there are two optimisers, and a step may take several passes. The plan
says which records a pass has, so nothing depends on how often the run was stopped; a new process begins a new "epoch"
with the pass that follows the stored state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from hip_ext.data.record import HessianRecord
from hip_ext.errors import DataError
from hip_ext.training.batches import Batch, collate
from hip_ext.training.features import FeatureCache
from hip_ext.training.interruption import Interruption
from hip_ext.training.objective import Objective
from hip_ext.training.optimisers import RunningAverage, learning_rate, make_optimisers
from hip_ext.training.plan import Passage, Plan
from hip_ext.training.records import RecordSet
from hip_ext.training.settings import TrainingConfig
from hip_ext.training.state import write_state

EVALUATION_BATCH = 16

HELD_OUT = (
    ("mae", "hessian", "held_out_mae"),
    ("products", "products", "held_out_products"),
    ("energy", "energy", "held_out_energy"),
    ("forces", "forces", "held_out_forces"),
)
"""What an evaluation measures: the loss, the label that it needs, and its name in the curve."""


class Breakdown(DataError):
    """The loss or its gradient stopped being a finite number."""


@dataclass(frozen=True)
class Part:
    """One half of the data: records, and the features of a frozen backbone for them."""

    records: RecordSet
    features: FeatureCache | None


@dataclass
class Progress:
    """Where a run is.

    Attributes:
        step: optimiser steps done.
        curve: what was measured at every evaluation.
        seen: sum of the training MAE over structures, and their number, since the last evaluation.
        skipped: numbers of training records that could not be used, and why.
        atoms: how many atoms of each atomic number have been seen, [119].
    """

    step: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)
    seen: list[float] = field(default_factory=lambda: [0.0, 0.0])
    skipped: dict[int, str] = field(default_factory=dict)
    atoms: list[float] = field(default_factory=lambda: [0.0] * 119)


class Passages(Dataset[Batch]):
    """Batches by the pass that they are for; picklable, so that other processes can read ahead."""

    def __init__(self, records: RecordSet, config: TrainingConfig) -> None:
        self.records, self.config = records, config

    def __getitem__(self, passage: Passage) -> Batch:
        """Reads the records of a pass; those that cannot be used are replaced by the next ones."""
        found: list[tuple[int, HessianRecord]] = []
        skipped: dict[int, str] = {}
        for number in passage.records:
            index, record, reasons = self.records.usable(number)
            found.append((index, record))
            skipped |= reasons
        loss, run = self.config.loss.hessian, self.config.run
        batch = collate(
            [record for _, record in found],
            [index for index, _ in found],
            getattr(torch, run.precision),
            twist_count=loss.twist_count if loss.twists else 0,
            modes=loss.subspace_modes if loss.subspace else 0,
            seed=(run.seed, passage.step),
        )
        return batch.of_pass(passage.step, passage.last, skipped)


class Training(lightning.LightningModule):
    """A head, perhaps a backbone, and the data that they are trained on.

    Args:
        config: of the run.
        objective: model and losses.
        train: training data.
        validation: data for the evaluations.
        folder: of the run.
        statistics: stored with the state.
        origin: what the run is made of, stored with the state too.
        state: of the run so far, or None.
        report: called after each step with the number of steps done and a note.
    """

    def __init__(
        self,
        config: TrainingConfig,
        objective: Objective,
        train: Part,
        validation: Part,
        folder: Path,
        statistics: dict[str, Any],
        origin: dict[str, Any],
        state: dict[str, Any] | None,
        report: Callable[[int, str], None],
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.config, self.objective, self.folder, self.report = config, objective, folder, report
        self.train_part, self.validation_part = train, validation
        self.statistics, self.origin = statistics, origin
        self.plan = Plan(
            sizes=train.records.sizes,
            batch=config.data.batch,
            seed=config.run.seed,
            bucket=config.data.bucket,
            passes=config.run.accumulate,
            largest=config.data.largest,
        )
        self.progress = Progress()
        self.interruption = Interruption()
        self._stored = state
        self._sums = [0.0, 0.0, 0.0]

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """Every parameter that is trained, "head.…" or "model.…" by name."""
        return {name: p for name, p in self.objective.named_parameters() if p.requires_grad}

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Optimisers in the state of the run so far; called when the parameters are where they will be trained."""
        trained = self.trained
        stored = self._stored
        if stored is not None:
            with torch.no_grad():
                for name, value in stored["weights"].items():
                    trained[name].copy_(value)
        optimisers = make_optimisers(
            [p for name, p in trained.items() if name.startswith("head.")],
            [p for name, p in trained.items() if name.startswith("model.")],
            self.config.optimiser,
        )
        self.average = RunningAverage(trained, self.config.optimiser.average)
        if stored is not None:
            for optimiser, values in zip(optimisers, stored["optimisers"], strict=True):
                optimiser.load_state_dict(values)
            for name, value in stored["average"].items():
                self.average.values[name].copy_(value)
            self.progress = Progress(stored["step"], list(stored["curve"]))
            if self.global_rank == 0:  # the others begin their share of these sums anew
                self.progress.seen, self.progress.atoms = list(stored["seen"]), list(stored["atoms"])
                self.progress.skipped = dict(stored["skipped"])
        self._stored = None
        self._optimisers = optimisers
        return optimisers

    def train_dataloader(self) -> DataLoader[Batch]:
        """The passes of this process that are still to be done."""
        passages = self.plan.steps(
            self.progress.step, self.config.run.steps, self.trainer.global_rank, self.trainer.world_size
        )
        return DataLoader(
            Passages(self.train_part.records, self.config),
            sampler=_Once(passages),
            batch_size=None,
            num_workers=self.config.data.workers,
        )

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """The batch on the device of the model."""
        return batch if device.type == "cpu" else batch.to(device)

    def on_train_start(self) -> None:
        """Listens to signals, after Lightning has set its own handlers."""
        self.interruption.listen()
        self.objective.train()
        self.objective.backbone.eval()

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One pass; after the last one of a step, the step."""
        self.progress.skipped |= batch.skipped or {}
        self._count(batch)
        found = self.objective(batch, self.train_part.features)
        total = self.objective.total(found, self.config.data.batch)
        # Gradients of several processes are averaged, while the loss is a sum over the structures of all.
        self.manual_backward(total * self.trainer.world_size)
        numbers = [total.detach(), *(x.detach() for x in _mae_sums(found, batch))]
        self._sums = [a + b for a, b in zip(self._sums, torch.stack(numbers).tolist(), strict=True)]
        if batch.last:
            self._step()

    def _step(self) -> None:
        config, progress, done = self.config, self.progress, self.progress.step
        rate = learning_rate(done, config.run.steps, config.optimiser)
        parameters = list(self.trained.values())
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, config.optimiser.clip))
        loss, mae, count = self._sums
        self._sums = [0.0, 0.0, 0.0]
        if not norm < float("inf"):
            raise Breakdown(f"training broke down at step {done}: loss {loss:.3g}, gradient {norm:.3g}")
        for optimiser in self._optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate * group["scale"]
            optimiser.step()
            optimiser.zero_grad()
        progress.step += 1
        self.average.update(progress.step)
        progress.seen = [progress.seen[0] + mae, progress.seen[1] + count]
        self._tell(loss, mae / max(count, 1.0), norm, rate)
        due = progress.step == config.run.steps or progress.step % config.run.evaluate_every == 0
        if due:
            self._evaluate()
        stopping = self._stop_asked()
        if due or stopping or (config.run.save_every and progress.step % config.run.save_every == 0):
            self.save()
        if stopping:
            self.trainer.should_stop = True

    def save(self) -> None:
        """Stores the state of the run; called by all processes, done by one.

        Raises:
            DataError: it cannot be written.
        """
        seen, atoms = self._summed(self.progress.seen), self._summed(self.progress.atoms)
        if self.global_rank != 0:
            return
        state = {
            "step": self.progress.step,
            "weights": {name: value.detach().cpu() for name, value in self.trained.items()},
            "average": {name: value.cpu() for name, value in self.average.values.items()},
            "optimisers": [optimiser.state_dict() for optimiser in self._optimisers],
            "head": self.objective.head.state_dict(),
            "curve": self.progress.curve,
            "seen": seen,
            "atoms": atoms,
            "skipped": self.progress.skipped,
            "statistics": self.statistics,
            "origin": self.origin,
        }
        write_state(self.folder, state)

    @torch.no_grad()
    def _evaluate(self) -> None:
        """Adds a point of the averaged weights to the curve."""
        rank, world = self.trainer.global_rank, self.trainer.world_size
        self.average.exchange()
        # Sum and number of structures for each error; a process without any data still takes part in the total.
        sums = torch.zeros(len(HELD_OUT), 2, dtype=torch.float64)
        for batch in _evaluation_batches(self.validation_part.records, self.config, rank, world):
            moved = batch.to(self.device)
            found = self.objective(moved, self.validation_part.features)
            for row, (name, label, _) in enumerate(HELD_OUT):
                if name in found:
                    sums[row] += torch.stack((found[name].sum(), moved.known[label].sum().to(found[name]))).cpu()
        self.average.exchange()
        mae, count = self._summed(self.progress.seen)
        self.progress.seen = [0.0, 0.0]
        point = {"step": self.progress.step, "train_mae": mae / max(count, 1.0)}
        totals = self._summed(sums.flatten().tolist())
        for row, (_, _, title) in enumerate(HELD_OUT):
            if totals[2 * row + 1]:
                point[title] = totals[2 * row] / totals[2 * row + 1]
        self.progress.curve.append(point)
        if self.logger:
            self.logger.log_metrics({k: v for k, v in point.items() if k != "step"}, step=self.progress.step)

    def _count(self, batch: Batch) -> None:
        counts = torch.bincount(batch.structures.numbers, minlength=119).tolist()
        self.progress.atoms = [a + b for a, b in zip(self.progress.atoms, counts, strict=True)]

    def _tell(self, loss: float, mae: float, norm: float, rate: float) -> None:
        step = self.progress.step
        self.report(step, f"MAE {mae:.3f}" if self.config.loss.hessian.any else f"loss {loss:.3f}")
        if self.logger and step % self.config.run.log_every == 0:
            self.logger.log_metrics({"loss": loss, "mae": mae, "gradient": norm, "learning_rate": rate}, step=step)

    def _summed(self, values: list[float]) -> list[float]:
        """The sum over all processes."""
        if self.trainer.world_size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        return self.trainer.strategy.reduce(tensor, reduce_op="sum").tolist()

    def _stop_asked(self) -> bool:
        """Whether any process was asked to stop."""
        asked = self.interruption.received is not None
        if self.trainer.world_size == 1:
            return asked
        (number,) = self._summed([float(self.interruption.received or 0)])
        if number and not asked:
            self.interruption.received = int(number)
        return number > 0


class _Once(torch.utils.data.Sampler[Any]):
    """A sampler of unknown length."""

    def __init__(self, items: Iterator[Passage]) -> None:
        self.items = items

    def __iter__(self) -> Iterator[Passage]:
        return self.items


def _evaluation_batches(records: RecordSet, config: TrainingConfig, rank: int, world: int) -> Iterator[Batch]:
    """All records that can be used, in order; process `rank` of `world` gets every world-th batch."""
    for start in range(rank * EVALUATION_BATCH, len(records), world * EVALUATION_BATCH):
        found = {}
        for index in range(start, min(start + EVALUATION_BATCH, len(records))):
            try:
                found[index] = records[index]
            except DataError:
                continue
        if found:
            yield collate(list(found.values()), list(found), getattr(torch, config.run.precision))


def _mae_sums(found: dict[str, Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
    """Sum of the Hessian MAE over the structures of a pass, and how many have one."""
    known = batch.known["hessian"].sum().to(batch.energy)
    mae = found.get("mae")
    return (torch.zeros_like(known), known) if mae is None else (mae.sum(), known)
