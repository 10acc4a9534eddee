"""Losses per point, by name: what training averages and what the sharpness metrics perturb."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from flatscale.data import Task
from flatscale.errors import ModelError
from flatscale.study.registry import Registered, Registry

PointLoss = Callable[[Tensor, Tensor], Tensor]
"""(outputs (B, N), targets (B,) or (B, N)) -> loss of each point (B,)."""


@dataclass(frozen=True, kw_only=True)
class Loss(Registered):
    """A loss per point: whether it is of raw network outputs, never negative, for which tasks."""

    of_logits: bool
    not_negative: bool
    tasks: tuple[Task, ...]


LOSSES: Registry[Loss] = Registry("loss")


def loss(
    name: str,
    *,
    of_logits: bool = False,
    not_negative: bool = False,
    tasks: tuple[Task, ...] = ("classification",),
    version: str | None = None,
) -> Callable[[PointLoss], PointLoss]:
    """Register a loss per point: a function (outputs, targets) -> losses (B,).

    Args:
        name: what a study file or `measure(loss=...)` calls it.
        of_logits: the loss is defined on the raw network outputs, so a metric's output map
            (sigmoid, softmax) is not applied before it.
        not_negative: it is never below 0, which spares looks at the whole training set.
        tasks: `classification` (targets are classes), `regression` (numbers), or both.
        version: as in `Registered`.
    """

    def add(function: PointLoss) -> PointLoss:
        entry = Loss(
            name=name,
            function=function,
            of_logits=of_logits,
            not_negative=not_negative,
            tasks=tasks,
            version=version,
        )
        LOSSES.add(entry)
        return function

    return add


def point_loss(wanted: str | PointLoss) -> PointLoss:
    """The loss function registered under a name; a callable is passed through.

    Raises:
        ConfigError: no loss of that name; the nearest registered one is named.
    """
    return wanted if callable(wanted) else LOSSES[wanted].function


def takes_logits(function: PointLoss) -> bool:
    """Whether the loss is defined on raw outputs, whatever the output map."""
    return any(known.of_logits and known.function == function for known in LOSSES.values())


def target_vectors(outputs: Tensor, targets: Tensor) -> Tensor:
    """Targets shaped like the outputs: class indices (B,) become one-hot, vectors stay.

    Raises:
        ModelError: the targets fit neither shape, or a class index exceeds the outputs.
    """
    if targets.shape == outputs.shape:
        return targets.to(outputs.dtype)
    if outputs.ndim != 2 or targets.shape != outputs.shape[:1] or targets.is_floating_point():
        raise ModelError(
            f"targets must be class indices ({outputs.shape[0]},) or vectors "
            f"{tuple(outputs.shape)}; found {tuple(targets.shape)} of {targets.dtype}"
        )
    try:
        return F.one_hot(targets.long(), outputs.shape[1]).to(outputs.dtype)
    except RuntimeError as error:
        raise ModelError(
            f"class indices must lie in 0..{outputs.shape[1] - 1}, one per output; found "
            f"{int(targets.min())}..{int(targets.max())}"
        ) from error


_BOTH: tuple[Task, ...] = ("classification", "regression")


@loss("squared_error", not_negative=True, tasks=_BOTH)
def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """||f - t||^2 against one-hot targets or numbers, per point (B,)."""
    return (outputs - target_vectors(outputs, targets)).square().sum(dim=1)


@loss("half_squared_error", not_negative=True, tasks=_BOTH)
def half_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """1/2 ||f - t||^2 against one-hot targets or numbers, per point (B,)."""
    return 0.5 * squared_error(outputs, targets)


@loss("cross_entropy", of_logits=True, not_negative=True)
def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """-log softmax(f)_t of the logits, per point (B,)."""
    if targets.is_floating_point():
        return F.cross_entropy(outputs, target_vectors(outputs, targets), reduction="none")
    return F.cross_entropy(outputs, targets.long(), reduction="none")


def smoothed_targets(outputs: Tensor, targets: Tensor, share: float) -> Tensor:
    """Targets with a share of them spread evenly over the outputs (B, N) (Szegedy et al. 2016)."""
    return (1 - share) * target_vectors(outputs, targets) + share / outputs.shape[1]


def losses_of_points(function: PointLoss, outputs: Tensor, targets: Tensor) -> Tensor:
    """The loss of each point (B,), checked to be that."""
    values = function(outputs, targets)
    if values.shape != outputs.shape[:1]:
        raise ModelError(
            f"a loss must return one value per point, shape ({outputs.shape[0]},); "
            f"found {tuple(values.shape)}"
        )
    return values
