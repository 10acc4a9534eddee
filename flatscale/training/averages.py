"""Averages of a network's weights over its training, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, update_bn

from flatscale.study.registry import Registered, Registry
from flatscale.study.schema import AveragingConfig

Average = Callable[..., Tensor]
"""(average, new weights, number averaged, **constants) -> next average."""

AVERAGES: Registry[Registered] = Registry("weight average")


def average(name: str, *, version: str | None = None) -> Callable[[Average], Average]:
    """Register an average: (average, new weights, number averaged, *, constants) -> average."""

    def add(function: Average) -> Average:
        AVERAGES.add(Registered(name=name, function=function, version=version))
        return function

    return add


@average("ema")
def ema(
    mean: Tensor, weights: Tensor, num_averaged: int, *, decay: Annotated[float, Field(gt=0, lt=1)]
) -> Tensor:
    """decay * average + (1 - decay) * weights (Polyak & Juditsky 1992, with forgetting)."""
    return mean.lerp(weights, 1 - decay)


@average("swa")
def swa(mean: Tensor, weights: Tensor, num_averaged: int) -> Tensor:
    """The mean of all (stochastic weight averaging, Izmailov et al. 2018)."""
    return mean + (weights - mean) / (num_averaged + 1)


def average_constants(config: AveragingConfig) -> dict[str, Any]:
    """The constants of an average, as its function takes them.

    Raises:
        ConfigError: no such average or constant, or a value of the wrong type or range.
    """
    return AVERAGES.checked_options(config.name, config.constants, "")


class WeightAverage:
    """The average of a network's weights, brought up to date after every step.

    Args:
        model: the network.
        config: which average, from which step, how often.
    """

    def __init__(self, model: nn.Module, config: AveragingConfig) -> None:
        function, constants = AVERAGES[config.name].function, average_constants(config)
        self._model, self._config = model, config
        self.averaged = AveragedModel(
            model, avg_fn=lambda mean, new, count: function(mean, new, count, **constants)
        )

    def update(self, step: int) -> None:
        """Take in the network as it is after a step."""
        since = step - self._config.start_step
        if since > 0 and since % self._config.every == 0:
            self.averaged.update_parameters(self._model)

    def network(self, batches: Iterable[Tensor]) -> nn.Module:
        """The averaged network; the network itself until the average begins.

        Args:
            batches: the training images: where layers normalise by running statistics, these are
                those of the average.
        """
        if not self.averaged.n_averaged:
            return self._model
        update_bn(batches, self.averaged)
        return self.averaged.module
