"""When a training ends: each rule in turn, over what an evaluation found."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from flatscale.study.schema import TrainingConfig
from flatscale.training.order import step_limit
from flatscale.training.whole_set import WholeSet

Status = Literal[
    "interpolated",
    "accuracy_reached",
    "stationary",
    "early_stopped",
    "epoch_limit",
    "step_limit",
    "diverged",
]
Point = tuple[int, float]
"""A step, and a loss."""


@dataclass(frozen=True, kw_only=True)
class End:
    """How a training ended, with which training loss, and one line that says why."""

    status: Status
    train_loss: float
    reason: str


@dataclass(kw_only=True)
class Stopping:
    """The rules of one training, and what it has found so far.

    Attributes:
        config: the rules.
        steps_per_epoch: of the training.
        train: the training set.
        held_out: the images held out for early stopping, if any.
        bounded: the losses are not negative, so that a look may end when they add up to too much.
        history: evaluated training losses.
        held_out_history: evaluated losses on the held-out images.
    """

    config: TrainingConfig
    steps_per_epoch: int
    train: WholeSet
    held_out: WholeSet | None
    bounded: bool
    history: list[Point] = field(default_factory=list)
    held_out_history: list[Point] = field(default_factory=list)

    @property
    def max_steps(self) -> int:
        """The step after which it ends in any case."""
        return step_limit(self.config, self.steps_per_epoch)

    def is_due(self, step: int) -> bool:
        """Whether the rules are looked at after this step."""
        every = self.config.evaluate_every or self.steps_per_epoch
        return step % every == 0 or step == self.max_steps

    @property
    def has_brief_looks(self) -> bool:
        """Whether some looks need only say that the training loss is above `stop_loss`.

        The rules that need more want whole looks.
        """
        config = self.config
        rules = (config.stop_accuracy, config.stop_gradient_norm, config.patience)
        return self.bounded and not config.evaluate_every and not any(rules)

    def may_be_brief(self, step: int) -> bool:
        """Whether this look may be brief.

        The history wants whole looks, too: after a while, one in an eighth of the steps so far.
        """
        if not self.has_brief_looks or not self.history or step == self.max_steps:
            return False
        last = self.history[-1][0]
        return step - last < max(self.steps_per_epoch, last // 8)

    def end(self, step: int) -> End | None:
        """Evaluate, note it in the history, and say whether training ends here."""
        loss = self.train.mean_loss()
        if not math.isfinite(loss):
            reason = f"the training loss became {loss} at step {step}"
            return End(status="diverged", train_loss=loss, reason=reason)
        self.history.append((step, loss))
        for status, reason in (self._reached(step, loss), self._exhausted(step, loss)):
            if status is not None:
                return End(status=status, train_loss=loss, reason=reason)
        return None

    def _reached(self, step: int, loss: float) -> tuple[Status | None, str]:
        config = self.config
        if config.stop_loss is not None and loss <= config.stop_loss:
            return "interpolated", (
                f"training loss {loss:.4g} reached {config.stop_loss:g} at step {step}"
            )
        wanted = config.stop_accuracy
        if wanted is not None and (found := self.train.accuracy()) >= wanted:
            return "accuracy_reached", (
                f"training accuracy {found:.4g} reached {wanted:g} at step {step}"
            )
        wanted = config.stop_gradient_norm
        if wanted is not None and (found := self.train.gradient_norm()) <= wanted:
            return "stationary", (
                f"the gradient's norm {found:.4g} fell to {wanted:g} at step {step}"
            )
        if config.patience is not None and self.held_out is not None:
            self.held_out_history.append((step, self.held_out.mean_loss()))
            best_step, best = min(self.held_out_history, key=lambda point: point[1])
            looks = sum(at > best_step for at, _ in self.held_out_history)
            if looks >= config.patience:
                return "early_stopped", (
                    f"the held-out loss has not been below its {best:.4g} of step {best_step} for "
                    f"{looks} evaluations, at step {step}"
                )
        return None, ""

    def _exhausted(self, step: int, loss: float) -> tuple[Status | None, str]:
        if step < self.max_steps:
            return None, ""
        status: Status = "step_limit" if step == self.config.max_steps else "epoch_limit"
        level = self.config.stop_loss
        what = f"{loss:.4g}" if level is None else f"{loss:.4g} is above {level:g}"
        return status, f"training loss {what} after {step} steps"
