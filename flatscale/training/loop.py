"""The only training loop: steps, looks at the whole training set, snapshots, checkpoints."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from flatscale.errors import ModelError
from flatscale.study.identity import result_content
from flatscale.study.schema import ScheduleConfig, TrainingConfig
from flatscale.study.seeds import derive_seed
from flatscale.training.augmentation import Augmentation, seed_generators
from flatscale.training.averages import WeightAverage
from flatscale.training.checkpoint import load_checkpoint, save_checkpoint
from flatscale.training.losses import (
    LOSSES,
    PointLoss,
    losses_of_points,
    point_loss,
    smoothed_targets,
)
from flatscale.training.memory import Microbatches
from flatscale.training.optimizers import build_optimizer, needs_closure
from flatscale.training.order import BatchOrder
from flatscale.training.schedules import rate_factor
from flatscale.training.stopping import End, Point, Status, Stopping
from flatscale.training.whole_set import CHUNK, WholeSet

logger = logging.getLogger(__name__)

Array = NDArray[np.generic] | Tensor


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """How a training ended."""

    status: Status
    """`interpolated` (the training loss reached `stop_loss`), `accuracy_reached`, `stationary` (the
    gradient's norm fell), `early_stopped`, `epoch_limit`, `step_limit`, or `diverged` (a loss that
    is not finite)."""
    num_steps: int
    """Optimizer steps taken, those before a resumption included."""
    train_loss: float
    """Mean loss over the whole training set at the last weights; NaN or infinite if diverged."""
    history: tuple[Point, ...]
    """(step, train_loss) of every whole evaluation, all finite."""
    reason: str
    """One line that says why it ended so."""


def train(
    model: nn.Module,
    x: Array,
    y: Array,
    config: TrainingConfig,
    *,
    learning_rate: float,
    batch_size: int,
    seed: int,
    held_out: tuple[Array, Array] | None = None,
    weights: Literal["last", "average"] = "last",
    snapshot_steps: Iterable[int] = (),
    on_snapshot: Callable[[int, nn.Module], None] | None = None,
    on_loss: Callable[[int, float], None] | None = None,
    checkpoint: Path | None = None,
) -> TrainingResult:
    """Train a network in place, on the device it is on.

    Where memory runs out, a batch is computed in microbatches whose gradients add up to its own,
    except where the network normalises over the batch.

    Everything random (data order, dropout, augmentation) depends on the seed and the step alone, so
    resuming from a checkpoint gives bit for bit what an undisturbed run gives; torch's global
    generators are left as they were found. Evaluation is in eval mode; the network is in training
    mode again after it and after every snapshot.

    Args:
        model: the network; ends with the last step's weights, in training mode.
        x: inputs (n, ...).
        y: classes (n,), or the targets of a regression (n, outputs).
        config: optimizer, loss and when to stop.
        learning_rate: of the optimizer; the schedule multiplies it.
        batch_size: points a step; the last batch of an epoch may be smaller.
        seed: of the data order and of anything random in the network.
        held_out: inputs and targets for early stopping.
        weights: which `on_snapshot` gets and the network ends with: the last, or their average.
        snapshot_steps: steps after which `on_snapshot` is called, unless training ends there (the
            final state is the caller's); 0 is the initialisation.
        on_snapshot: called with the step and the network, which it must not change.
        on_loss: called with the step and the loss of every whole evaluation.
        checkpoint: a file to resume from where it exists, and written every
            `config.checkpoint_every` steps.

    Raises:
        ModelError: inputs, targets and network do not fit together, or memory runs out with one
            point, or with a batch that cannot be split; a rule or choice lacks what it needs.
        StoreError: the checkpoint is broken, of another training, or cannot be written.
    """
    device = _device(model)
    inputs, targets = _on_device(x, device), _on_device(y, device)
    if len(inputs) == 0 or len(inputs) != len(targets):
        raise ModelError(
            f"training needs as many classes as images, at least one; found {len(inputs)} images "
            f"and {len(targets)} classes"
        )
    if config.patience is not None and held_out is None:
        raise ModelError("training.patience needs images held out: set data.held_out_size")
    if weights == "average" and config.averaging is None:
        raise ModelError("measurement.weights: average needs training.averaging")
    loss = point_loss(config.loss)
    order = BatchOrder(len(inputs), batch_size, seed=seed, device=device)
    apart = [_on_device(part, device) for part in held_out or ()]
    run = _Run(
        model=model,
        inputs=inputs,
        targets=targets,
        config=config,
        seed=seed,
        loss=loss,
        optimizer=build_optimizer(model, config.optimizer, learning_rate),
        order=order,
        stopping=Stopping(
            config=config,
            steps_per_epoch=order.steps_per_epoch,
            train=WholeSet(model, inputs, targets, loss),
            held_out=WholeSet(model, apart[0], apart[1], loss) if apart else None,
            bounded=LOSSES[config.loss].not_negative,
        ),
        weights=weights,
        on_loss=on_loss,
        checkpoint=checkpoint,
        settings={
            "training": result_content(config),
            "learning_rate": learning_rate,
            "batch_size": batch_size,
            "seed": seed,
            "num_images": len(inputs),
        },
    )
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        end, step = run.descend(frozenset(snapshot_steps), on_snapshot)
        if end.status != "diverged" and weights == "average":
            model.load_state_dict(run.shown().state_dict())
    model.train()
    logger.info("training ended as %s: %s", end.status, end.reason)
    history = tuple(run.stopping.history)
    return TrainingResult(num_steps=step, history=history, **vars(end))


class _Run:
    """What one training works with; a checkpoint must share its `settings` to be resumed from."""

    def __init__(
        self,
        *,
        model: nn.Module,
        inputs: Tensor,
        targets: Tensor,
        config: TrainingConfig,
        seed: int,
        loss: PointLoss,
        optimizer: torch.optim.Optimizer,
        order: BatchOrder,
        stopping: Stopping,
        weights: str,
        on_loss: Callable[[int, float], None] | None,
        checkpoint: Path | None,
        settings: dict[str, Any],
    ) -> None:
        self.model, self.inputs, self.targets = model, inputs, targets
        self.config, self.seed, self.loss = config, seed, loss
        self.optimizer, self.order, self.stopping = optimizer, order, stopping
        self.weights, self.checkpoint, self.settings = weights, checkpoint, settings
        self.on_loss = on_loss
        self.rates = [group["lr"] for group in optimizer.param_groups]
        self.closure = needs_closure(config.optimizer)
        self.microbatches = Microbatches(model, config.microbatch_size)
        self.augment = Augmentation(config.augmentation, seed=seed) if config.augmentation else None
        self.average = WeightAverage(model, config.averaging) if config.averaging else None
        self.averaged = self.average.averaged if self.average else None
        self.latest = torch.zeros(len(inputs), device=inputs.device)
        """Each point's loss when it was last in a batch: where a brief look begins."""
        self.watched = config.stop_loss is not None and stopping.has_brief_looks

    def descend(
        self, snapshots: frozenset[int], on_snapshot: Callable[[int, nn.Module], None] | None
    ) -> tuple[End, int]:
        """Steps until one of the ends is reached; that end, and the steps taken.

        What belongs to a step is done in the order: update, evaluation, snapshot, checkpoint; a
        resumed training goes on after the last of these.
        """
        # Asking a GPU for every loss would make each step wait for it: there, evaluation finds out.
        watch_batches = self.inputs.device.type == "cpu"
        step, every = self._resumed(), self.config.checkpoint_every
        self.model.train()
        fresh = step == 0
        while True:
            if not fresh:
                batch_loss = self._step(step)
                step += 1
                if watch_batches and not math.isfinite(value := batch_loss.item()):
                    reason = f"the batch's training loss became {value} at step {step}"
                    return End(status="diverged", train_loss=value, reason=reason), step
            if self.stopping.is_due(step) and (end := self._look(step)) is not None:
                return end, step
            if step in snapshots and on_snapshot is not None:
                on_snapshot(step, self.shown())
                self.model.train()
            if self.checkpoint is not None and every and step % every == 0 and not fresh:
                self._save(self.checkpoint, step)
            fresh = False

    def shown(self) -> nn.Module:
        """The network with the weights that are to be measured."""
        if self.average is None or self.weights == "last":
            return self.model
        return self.average.network(self.inputs.split(CHUNK))

    def _look(self, step: int) -> End | None:
        stopping, level = self.stopping, self.config.stop_loss
        if stopping.may_be_brief(step) and (
            level is None or stopping.train.is_above(level, self.latest)
        ):
            return None
        end = stopping.end(step)
        if self.on_loss is not None and stopping.history and stopping.history[-1][0] == step:
            self.on_loss(*stopping.history[-1])
        return end

    def _step(self, step: int) -> Tensor:
        """One optimizer step; the batch's mean loss before it."""
        if self.config.schedule != ScheduleConfig():
            factor = rate_factor(self.config.schedule, step, self.stopping.max_steps)
            for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
                group["lr"] = rate * factor
        rows, looks = self.order.rows(step), itertools.count()

        def look() -> Tensor:
            if next(looks) == 0:
                return self._gradient(step, rows)
            with _running_statistics_kept(self.model):
                return self._gradient(step, rows)

        if self.closure:
            loss: Tensor = self.optimizer.step(look)  # type: ignore[assignment, arg-type]
        else:
            loss = look()
            self.optimizer.step()
        if self.average is not None:
            self.average.update(step + 1)
        return loss

    def _gradient(self, step: int, rows: Tensor) -> Tensor:
        """The gradient of the batch's mean loss, into the parameters; that loss."""

        def accumulate() -> Tensor:
            self.optimizer.zero_grad(set_to_none=True)
            total = torch.zeros((), device=rows.device)
            # Layers that draw (dropout) draw the numbers of this step, wherever it is resumed.
            seed_generators(derive_seed(self.seed, "layers", step), rows.device)
            for part in self.microbatches.slices(len(rows)):
                chosen = rows[part]
                inputs = self.inputs.index_select(0, chosen)
                targets = self.targets.index_select(0, chosen)
                if self.augment is not None:
                    with _generators_kept(rows.device):
                        inputs = self.augment(inputs, chosen, self.order.epoch(step))
                outputs = self.model(inputs)
                if self.config.label_smoothing:
                    targets = smoothed_targets(outputs, targets, self.config.label_smoothing)
                values = losses_of_points(self.loss, outputs, targets)
                if self.watched:
                    self.latest.index_copy_(0, chosen, values.detach().to(self.latest.dtype))
                loss = values.mean()
                if len(chosen) < len(rows):
                    loss = loss * (len(chosen) / len(rows))
                loss.backward()
                total = total + loss.detach()
            return total

        loss = self.microbatches.until_it_fits(len(rows), accumulate, training=True)
        if self.config.clip_gradient is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_gradient)
        return loss

    def _resumed(self) -> int:
        """The step to go on after: that of the checkpoint, if there is one, else 0."""
        if self.checkpoint is None or not self.checkpoint.exists():
            return 0
        saved = load_checkpoint(
            self.checkpoint,
            self.model,
            self.optimizer,
            settings=self.settings,
            average=self.averaged,
        )
        self.stopping.history = list(saved.history)
        self.stopping.held_out_history = list(saved.held_out_history)
        return saved.step

    def _save(self, path: Path, step: int) -> None:
        save_checkpoint(
            path,
            self.model,
            self.optimizer,
            step,
            self.stopping.history,
            settings=self.settings,
            held_out_history=self.stopping.held_out_history,
            average=self.averaged,
        )


@contextmanager
def _running_statistics_kept(model: nn.Module) -> Iterator[None]:
    """Inside, layers that normalise over the batch leave their running statistics alone.

    A step that looks at a batch more than once has them of the first look only.
    """
    tracking = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for module in tracking:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in tracking:
            module.track_running_stats = True


def _generators_kept(device: torch.device) -> Any:
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def _device(model: nn.Module) -> torch.device:
    tensor = next(itertools.chain(model.parameters(), model.buffers()), None)
    if tensor is None:
        raise ModelError(f"{type(model).__name__} has no parameters: there is nothing to train")
    return tensor.device


def _on_device(array: Array, device: torch.device) -> Tensor:
    """A tensor as it is; an array as a copy, for it may be read-only or shared."""
    return array.to(device) if isinstance(array, Tensor) else torch.tensor(array, device=device)
