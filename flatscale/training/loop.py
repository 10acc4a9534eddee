"""The only training loop: to interpolation, to the step limit, or until it diverges."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flatscale.errors import ModelError
from flatscale.study.identity import result_content
from flatscale.study.schema import TrainingConfig
from flatscale.study.seeds import derive_seed
from flatscale.training.checkpoint import load_checkpoint, save_checkpoint
from flatscale.training.losses import PointLoss, mean_loss, point_loss
from flatscale.training.memory import Microbatches
from flatscale.training.optimizers import build_optimizer
from flatscale.training.order import BatchOrder

logger = logging.getLogger(__name__)

Status = Literal["interpolated", "step_limit", "diverged"]
_EVALUATION_CHUNK = 1024


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """How a training ended."""

    status: Status
    """`interpolated` (the training loss reached `stop_loss`), `step_limit`, or `diverged` (a loss
    that is not finite)."""
    num_steps: int
    """Optimizer steps taken, those before a resumption included."""
    train_loss: float
    """Mean loss over the whole training set at the end; NaN or infinite if diverged."""
    history: tuple[tuple[int, float], ...]
    """(step, train_loss) of every evaluation, all finite."""
    reason: str
    """One line that says why it ended so."""


def train(
    model: nn.Module,
    x: NDArray[np.float32] | Tensor,
    y: NDArray[np.int64] | Tensor,
    config: TrainingConfig,
    *,
    learning_rate: float,
    batch_size: int,
    seed: int,
    snapshot_steps: Iterable[int] = (),
    on_snapshot: Callable[[int, nn.Module], None] | None = None,
    checkpoint: Path | None = None,
) -> TrainingResult:
    """Train a network in place, on the device it is on.

    Where memory runs out, a batch is computed in microbatches whose gradients add up to its own,
    except where the network normalises over the batch.

    Everything random (data order, dropout) depends on the seed and the step alone, so resuming from
    a checkpoint gives bit for bit what an undisturbed run gives; torch's global generators are left
    as they were found. Evaluation is in eval mode; the network is in training mode again after it
    and after every snapshot.

    Args:
        model: the network; ends with the last step's weights, in training mode.
        x: images (n, channels, height, width).
        y: classes (n,).
        config: optimizer, loss and when to stop.
        learning_rate: of the optimizer.
        batch_size: images a step; the last batch of an epoch may be smaller.
        seed: of the data order and of anything random in the network.
        snapshot_steps: steps after which `on_snapshot` is called, unless training ends there (the
            final state is the caller's); 0 is the initialisation.
        on_snapshot: called with the step and the network, which it must not change.
        checkpoint: a file to resume from where it exists, and written every
            `config.checkpoint_every` steps.

    Raises:
        ModelError: images, classes and network do not fit together, or memory runs out with one
            image, or with a batch that cannot be split.
        StoreError: the checkpoint is broken, of another training, or cannot be written.
    """
    device = _device(model)
    images, classes = _on_device(x, device), _on_device(y, device)
    if len(images) == 0 or len(images) != len(classes):
        raise ModelError(
            f"training needs as many classes as images, at least one; found {len(images)} images "
            f"and {len(classes)} classes"
        )
    run = _Run(
        model=model,
        images=images,
        classes=classes,
        loss=point_loss(config.loss),
        optimizer=build_optimizer(model, config.optimizer, learning_rate),
        order=BatchOrder(len(images), batch_size, seed=seed, device=device),
        config=config,
        seed=seed,
        checkpoint=checkpoint,
        settings={
            "training": result_content(config),
            "learning_rate": learning_rate,
            "batch_size": batch_size,
            "seed": seed,
            "num_images": len(images),
        },
        microbatches=Microbatches(model),
        evaluation_batches=Microbatches(model),
    )
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        result = _descend(run, frozenset(snapshot_steps), on_snapshot)
    model.train()
    logger.info("training ended as %s: %s", result.status, result.reason)
    return result


@dataclass(kw_only=True)
class _Run:
    """What one training works with; a checkpoint must share its `settings` to be resumed from."""

    model: nn.Module
    images: Tensor
    classes: Tensor
    loss: PointLoss
    optimizer: torch.optim.Optimizer
    order: BatchOrder
    config: TrainingConfig
    seed: int
    checkpoint: Path | None
    settings: dict[str, Any]
    microbatches: Microbatches
    evaluation_batches: Microbatches
    history: list[tuple[int, float]] = field(default_factory=list)

    def step(self, step: int) -> Tensor:
        """One optimizer step; the batch's mean loss before it."""
        rows = self.order.rows(step)

        def accumulate() -> Tensor:
            _seed_layers(self.seed, step, rows.device)
            self.optimizer.zero_grad(set_to_none=True)
            total = torch.zeros((), device=rows.device)
            for part in self.microbatches.slices(len(rows)):
                chosen = rows[part]
                outputs = self.model(self.images.index_select(0, chosen))
                loss = mean_loss(self.loss, outputs, self.classes.index_select(0, chosen))
                if len(chosen) < len(rows):
                    loss = loss * (len(chosen) / len(rows))
                loss.backward()
                total = total + loss.detach()
            return total

        loss = self.microbatches.until_it_fits(len(rows), accumulate, training=True)
        self.optimizer.step()
        return loss

    @torch.no_grad()
    def evaluate(self) -> float:
        """Mean loss over the whole training set, in eval mode; training mode again after it."""
        self.model.eval()
        total = torch.zeros((), dtype=torch.float64)
        chunks = zip(
            self.images.split(_EVALUATION_CHUNK), self.classes.split(_EVALUATION_CHUNK), strict=True
        )
        for images, classes in chunks:
            total += self.evaluation_batches.until_it_fits(
                len(images), partial(self._sum_of_losses, images, classes), training=False
            )
        self.model.train()
        return total.item() / len(self.images)

    def _sum_of_losses(self, images: Tensor, classes: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for part in self.evaluation_batches.slices(len(images)):
            values = self.loss(self.model(images[part].clone()), classes[part])
            total += values.double().sum().cpu()
        return total

    def ended(self, status: Status, step: int, train_loss: float, reason: str) -> TrainingResult:
        return TrainingResult(
            status=status,
            num_steps=step,
            train_loss=train_loss,
            history=tuple(self.history),
            reason=reason,
        )


def _descend(
    run: _Run, snapshots: frozenset[int], on_snapshot: Callable[[int, nn.Module], None] | None
) -> TrainingResult:
    """Steps until one of the ends is reached.

    What belongs to a step is done in the order: update, evaluation, snapshot, checkpoint; a resumed
    training goes on after the last of these.
    """
    config = run.config
    evaluate_every = config.evaluate_every or run.order.steps_per_epoch
    # Asking a GPU for every loss would make each step wait for it: there, evaluation finds out.
    watch_batches = run.images.device.type == "cpu"
    step = 0
    if run.checkpoint is not None and run.checkpoint.exists():
        saved = load_checkpoint(run.checkpoint, run.model, run.optimizer, settings=run.settings)
        step, run.history = saved.step, list(saved.history)
    run.model.train()
    fresh = step == 0
    while True:
        if not fresh:
            batch_loss = run.step(step)
            step += 1
            if watch_batches and not math.isfinite(value := batch_loss.item()):
                reason = f"the batch's training loss became {value} at step {step}"
                return run.ended("diverged", step, value, reason)
        if step % evaluate_every == 0 or step == config.max_steps:
            end = _look(run, step)
            if end is not None:
                return end
        if step in snapshots and on_snapshot is not None:
            on_snapshot(step, run.model)
            run.model.train()
        due = config.checkpoint_every and step % config.checkpoint_every == 0
        if run.checkpoint is not None and due and not fresh:
            state = (run.model, run.optimizer, step, run.history)
            save_checkpoint(run.checkpoint, *state, settings=run.settings)
        fresh = False


def _look(run: _Run, step: int) -> TrainingResult | None:
    """Evaluate, note it in the history, and say whether training ends here."""
    train_loss = run.evaluate()
    if not math.isfinite(train_loss):
        reason = f"the training loss became {train_loss} at step {step}"
        return run.ended("diverged", step, train_loss, reason)
    run.history.append((step, train_loss))
    stop_loss, max_steps = run.config.stop_loss, run.config.max_steps
    if train_loss <= stop_loss:
        reason = f"training loss {train_loss:.4g} reached {stop_loss:g} at step {step}"
        return run.ended("interpolated", step, train_loss, reason)
    if step >= max_steps:
        reason = f"training loss {train_loss:.4g} is above {stop_loss:g} after {step} steps"
        return run.ended("step_limit", step, train_loss, reason)
    return None


def _seed_layers(seed: int, step: int, device: torch.device) -> None:
    """Layers that draw random numbers (dropout) draw those of this step, wherever it is resumed."""
    layer_seed = derive_seed(seed, "layers", step)
    torch.default_generator.manual_seed(layer_seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(layer_seed)


def _device(model: nn.Module) -> torch.device:
    tensor = next(itertools.chain(model.parameters(), model.buffers()), None)
    if tensor is None:
        raise ModelError(f"{type(model).__name__} has no parameters: there is nothing to train")
    return tensor.device


def _on_device(array: NDArray[np.generic] | Tensor, device: torch.device) -> Tensor:
    """A tensor as it is; an array as a copy, for it may be read-only or shared."""
    return array.to(device) if isinstance(array, Tensor) else torch.tensor(array, device=device)
