"""The only training loop: to interpolation, to the step limit, or until it diverges."""

from __future__ import annotations

import itertools
import logging
import math
import time
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

Status = Literal["interpolated", "step_limit", "diverged", "stopped"]
_EVALUATION_CHUNK = 1024


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """How a training ended.

    Attributes:
        status: `interpolated` (the training loss reached `stop_loss`), `step_limit`, `diverged` (a
            loss that is not finite), or `stopped` (`should_stop` said so).
        num_steps: optimizer steps taken, those before a resumption included.
        train_loss: mean loss over the whole training set at the end; NaN or infinite if diverged.
        history: (step, train_loss) of every evaluation, all finite.
        seconds: wall-clock time of this call, without what came before a resumption.
        reason: one line that says why it ended so.
    """

    status: Status
    num_steps: int
    train_loss: float
    history: tuple[tuple[int, float], ...]
    seconds: float
    reason: str


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
    should_stop: Callable[[], bool] | None = None,
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
        should_stop: asked at every evaluation; true ends the training as `stopped`, with a
            checkpoint written if there is a `checkpoint`.

    Raises:
        ModelError: images, classes and network do not fit together, or memory runs out with one
            image, or with a batch that cannot be split.
        StoreError: the checkpoint is broken, of another training, or cannot be written.
    """
    started = time.perf_counter()
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
        settings=_settings(config, learning_rate, batch_size, seed, len(images)),
        microbatches=Microbatches(model),
        evaluation_batches=Microbatches(model),
    )
    snapshots = frozenset(snapshot_steps) if on_snapshot is not None else frozenset()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        end = _descend(run, snapshots, on_snapshot, should_stop)
    model.train()
    logger.info("training ended as %s: %s", end.status, end.reason)
    return TrainingResult(
        status=end.status,
        num_steps=end.step,
        train_loss=end.train_loss,
        history=tuple(run.history),
        seconds=time.perf_counter() - started,
        reason=end.reason,
    )


@dataclass(frozen=True)
class _End:
    status: Status
    step: int
    train_loss: float
    reason: str


@dataclass(kw_only=True)
class _Run:
    """What one training works with."""

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

    def resume(self) -> int:
        """The step the checkpoint was written at; 0 without one."""
        if self.checkpoint is None or not self.checkpoint.exists():
            return 0
        saved = load_checkpoint(self.checkpoint, self.model, self.optimizer, settings=self.settings)
        self.history = list(saved.history)
        return saved.step

    def save(self, step: int) -> None:
        """Write the checkpoint, if one was asked for."""
        if self.checkpoint is not None:
            save_checkpoint(
                self.checkpoint,
                self.model,
                self.optimizer,
                step,
                self.history,
                settings=self.settings,
            )

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
        for start in range(0, len(self.images), _EVALUATION_CHUNK):
            images = self.images[start : start + _EVALUATION_CHUNK]
            classes = self.classes[start : start + _EVALUATION_CHUNK]
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


def _descend(
    run: _Run,
    snapshots: frozenset[int],
    on_snapshot: Callable[[int, nn.Module], None] | None,
    should_stop: Callable[[], bool] | None,
) -> _End:
    """Steps until one of the ends is reached.

    What belongs to a step is done in the order: update, evaluation, snapshot, checkpoint; a resumed
    training goes on after the last of these.
    """
    config = run.config
    evaluate_every = config.evaluate_every or run.order.steps_per_epoch
    # Asking a GPU for every loss would make each step wait for it: there, evaluation finds out.
    watch_batches = run.images.device.type == "cpu"
    step = run.resume()
    run.model.train()
    fresh = step == 0
    while True:
        if not fresh:
            batch_loss = run.step(step)
            step += 1
            if watch_batches and not math.isfinite(value := batch_loss.item()):
                return _diverged(step, value, "the batch's training loss")
        if step % evaluate_every == 0 or step == config.max_steps:
            end = _look(run, step)
            if end is None and should_stop is not None and should_stop():
                run.save(step)
                end = _End("stopped", step, run.history[-1][1], f"asked to stop at step {step}")
            if end is not None:
                return end
        if step in snapshots and on_snapshot is not None:
            on_snapshot(step, run.model)
            run.model.train()
        if not fresh and config.checkpoint_every and step % config.checkpoint_every == 0:
            run.save(step)
        fresh = False


def _look(run: _Run, step: int) -> _End | None:
    """Evaluate, note it in the history, and say whether training ends here."""
    train_loss = run.evaluate()
    if not math.isfinite(train_loss):
        return _diverged(step, train_loss, "the training loss")
    run.history.append((step, train_loss))
    stop_loss, max_steps = run.config.stop_loss, run.config.max_steps
    if train_loss <= stop_loss:
        reason = f"training loss {train_loss:.4g} reached {stop_loss:g} at step {step}"
        return _End("interpolated", step, train_loss, reason)
    if step >= max_steps:
        reason = f"training loss {train_loss:.4g} is above {stop_loss:g} after {step} steps"
        return _End("step_limit", step, train_loss, reason)
    return None


def _diverged(step: int, value: float, what: str) -> _End:
    return _End("diverged", step, value, f"{what} became {value} at step {step}")


def _seed_layers(seed: int, step: int, device: torch.device) -> None:
    """Layers that draw random numbers (dropout) draw those of this step, wherever it is resumed."""
    layer_seed = derive_seed(seed, "layers", step)
    torch.default_generator.manual_seed(layer_seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(layer_seed)


def _settings(
    config: TrainingConfig, learning_rate: float, batch_size: int, seed: int, num_images: int
) -> dict[str, Any]:
    """What a checkpoint must share with the training that resumes from it."""
    return {
        "training": result_content(config),
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "seed": seed,
        "num_images": num_images,
    }


def _device(model: nn.Module) -> torch.device:
    tensor = next(itertools.chain(model.parameters(), model.buffers()), None)
    if tensor is None:
        raise ModelError(f"{type(model).__name__} has no parameters: there is nothing to train")
    return tensor.device


def _on_device(array: NDArray[np.generic] | Tensor, device: torch.device) -> Tensor:
    """A tensor as it is; an array as a copy, for it may be read-only or shared."""
    return array.to(device) if isinstance(array, Tensor) else torch.tensor(array, device=device)
