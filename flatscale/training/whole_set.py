"""Looking at a network on a whole set of points: losses, accuracy, gradient, or only whether."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from flatscale.training.losses import PointLoss
from flatscale.training.memory import Microbatches

CHUNK = 1024
_LEAST = 64  # points seen at once
_MARGIN = 1e-3  # of the level: more than the rounding of a sum in another order


class WholeSet:
    """A network in eval mode on all points of a set; in training mode again after each look.

    Args:
        model: the network.
        inputs: (n, ...).
        targets: (n,) or (n, N).
        loss: of each point.
    """

    def __init__(self, model: nn.Module, inputs: Tensor, targets: Tensor, loss: PointLoss) -> None:
        self._model, self._inputs, self._targets, self._loss = model, inputs, targets, loss
        self._microbatches = Microbatches(model)

    def mean_loss(self) -> float:
        """Mean loss."""
        return self._mean(self._loss)

    def accuracy(self) -> float:
        """Share of the points whose largest output is that of their class."""
        return self._mean(lambda outputs, classes: outputs.argmax(dim=1) == classes)

    @torch.no_grad()
    def is_above(self, level: float, first: Tensor) -> bool:
        """Whether the mean of losses that are not negative is surely above a level.

        It ends as soon as the losses seen add up to more than all may. No says nothing.

        Args:
            level: the level.
            first: a guess of each point's loss (n,): the order in which they are seen.
        """
        if not first.isfinite().all():
            return False
        allowed = level * (1 + _MARGIN) * len(first)
        guessed, order = first.sort(descending=True)
        enough = torch.searchsorted(guessed.cumsum(0), 1.25 * allowed)
        total, seen, size = 0.0, 0, max(_LEAST, int(enough))
        self._model.eval()
        while seen < len(order) and total <= allowed:
            rows = order[seen : seen + min(size, CHUNK)]
            total += self._sum(self._inputs[rows], self._targets[rows], self._loss).item()
            seen += len(rows)
            # Where the guess was not enough, twice as many: near the level no look is in crumbs.
            size = max(size - len(rows), seen)
        self._model.train()
        return math.isfinite(total) and total > allowed

    def gradient_norm(self) -> float:
        """Norm of the mean loss's gradient by the trainable parameters."""
        parameters = [p for p in self._model.parameters() if p.requires_grad]
        total = [torch.zeros_like(p) for p in parameters]
        self._model.eval()
        for inputs, targets in self._chunks():

            def of_chunk(inputs: Tensor = inputs, targets: Tensor = targets) -> Tensor:
                parts = [torch.zeros_like(p) for p in parameters]
                for part in self._microbatches.slices(len(inputs)):
                    loss = self._loss(self._model(inputs[part].clone()), targets[part]).sum()
                    found = torch.autograd.grad(loss, parameters, materialize_grads=True)
                    parts = [one + other for one, other in zip(parts, found, strict=True)]
                return torch.cat([part.flatten() for part in parts])

            flat = self._microbatches.until_it_fits(len(inputs), of_chunk, training=False)
            sizes = [p.numel() for p in parameters]
            for one, other in zip(total, flat.split(sizes), strict=True):
                one += other.view_as(one)
        self._model.train()
        squares = sum(part.double().square().sum().item() for part in total)
        return math.sqrt(squares) / len(self._inputs)

    @torch.no_grad()
    def _mean(self, values: Callable[[Tensor, Tensor], Tensor]) -> float:
        self._model.eval()
        total = torch.zeros((), dtype=torch.float64)
        for inputs, targets in self._chunks():
            total += self._sum(inputs, targets, values)
        self._model.train()
        return total.item() / len(self._inputs)

    def _chunks(self) -> zip[tuple[Tensor, Tensor]]:
        return zip(self._inputs.split(CHUNK), self._targets.split(CHUNK), strict=True)

    def _sum(
        self, inputs: Tensor, targets: Tensor, values: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        """The sum of values over points, in microbatches where memory asks for it."""

        def of_parts() -> Tensor:
            total = torch.zeros((), dtype=torch.float64)
            for part in self._microbatches.slices(len(inputs)):
                found = values(self._model(inputs[part].clone()), targets[part])
                total += found.double().sum().cpu()
            return total

        return self._microbatches.until_it_fits(len(inputs), of_parts, training=False)
