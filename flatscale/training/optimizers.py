"""Optimizers by name: a decorated function is all a new one needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn

from flatscale.errors import ConfigError
from flatscale.study.registry import nearest
from flatscale.study.schema import OptimizerConfig

OptimizerBuilder = Callable[[Iterable[nn.Parameter], float, OptimizerConfig], torch.optim.Optimizer]
"""(parameters, learning rate, constants) -> optimizer."""

OPTIMIZERS: dict[str, OptimizerBuilder] = {}


def optimizer(name: str) -> Callable[[OptimizerBuilder], OptimizerBuilder]:
    """Register a function that builds an optimizer."""

    def add(builder: OptimizerBuilder) -> OptimizerBuilder:
        OPTIMIZERS[name] = builder
        return builder

    return add


def known_optimizers() -> tuple[str, ...]:
    """The registered names, sorted."""
    return tuple(sorted(OPTIMIZERS))


def check_optimizer(name: str) -> None:
    """Check a name.

    Raises:
        ConfigError: no such optimizer, naming the nearest.
    """
    if name not in OPTIMIZERS:
        known = known_optimizers()
        raise ConfigError(
            f"unknown optimizer {name!r}{nearest(name, known)}; known: {', '.join(known)}"
        )


def build_optimizer(
    network: nn.Module, config: OptimizerConfig, learning_rate: float
) -> torch.optim.Optimizer:
    """The optimizer of a study file for the trainable parameters of a network.

    Raises:
        ConfigError: no such optimizer.
    """
    check_optimizer(config.name)
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return OPTIMIZERS[config.name](parameters, learning_rate, config)


@optimizer("sgd")
def sgd(
    parameters: Iterable[nn.Parameter], learning_rate: float, config: OptimizerConfig
) -> torch.optim.SGD:
    """Stochastic gradient descent, with heavy-ball momentum and L2 penalty where asked."""
    return torch.optim.SGD(
        parameters,
        lr=learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )
