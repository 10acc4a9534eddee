"""Optimizers by name: a decorated function is all a new one needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from flatscale.errors import ConfigError
from flatscale.study.registry import Registered, Registry, option_parameters
from flatscale.study.schema import OptimizerConfig

OptimizerBuilder = Callable[..., torch.optim.Optimizer]
"""(parameters, learning rate, **constants) -> optimizer."""

OPTIMIZERS: Registry[Registered] = Registry("optimizer")
_OF_ALL = frozenset({"momentum", "weight_decay"})


def optimizer(name: str) -> Callable[[OptimizerBuilder], OptimizerBuilder]:
    """Register a function that builds an optimizer.

    It takes the parameters and the learning rate, and its constants as keyword-only arguments with
    annotations: those are what a study file may set beside the name, and are checked against it.
    `momentum` and `weight_decay` are 0 unless given, for every optimizer that takes them.

    Args:
        name: what a study file calls it.

    Raises:
        ConfigError: one of those two has another default.
    """

    def add(builder: OptimizerBuilder) -> OptimizerBuilder:
        constants = option_parameters(builder)
        for constant in _OF_ALL & set(constants):
            # A trial's id holds 0 for what is not given, so nothing else may be meant by it.
            if constants[constant].default != 0:
                raise ConfigError(f"optimizer {name!r}: the default of {constant} must be 0")
        OPTIMIZERS.add(Registered(name=name, function=builder))
        return builder

    return add


def optimizer_constants(config: OptimizerConfig) -> dict[str, Any]:
    """Every constant of an optimizer, those given and those left at their default.

    Raises:
        ConfigError: no such optimizer or constant, or a value of the wrong type or range.
    """
    given = OPTIMIZERS.checked_options(config.name, config.constants, where="")
    constants = option_parameters(OPTIMIZERS[config.name].function)
    return {name: given.get(name, constant.default) for name, constant in constants.items()}


def own_constants(config: OptimizerConfig) -> dict[str, Any]:
    """The constants of an optimizer beside momentum and weight decay, which a record holds apart.

    Raises:
        ConfigError: see `optimizer_constants`.
    """
    constants = optimizer_constants(config)
    return {name: value for name, value in constants.items() if name not in _OF_ALL}


def build_optimizer(
    network: nn.Module, config: OptimizerConfig, learning_rate: float
) -> torch.optim.Optimizer:
    """The optimizer of a study file for the trainable parameters of a network.

    Raises:
        ConfigError: no such optimizer or constant, or the optimizer refuses a value.
    """
    constants = optimizer_constants(config)
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        return OPTIMIZERS[config.name].function(parameters, learning_rate, **constants)
    except Exception as error:  # an optimizer of another library may raise anything
        raise ConfigError(f"optimizer {config.name!r} cannot be built: {error}") from error


@optimizer("sgd")
def sgd(
    parameters: Iterable[nn.Parameter],
    learning_rate: float,
    *,
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    weight_decay: Annotated[float, Field(ge=0)] = 0.0,
) -> torch.optim.SGD:
    """Stochastic gradient descent, with heavy-ball momentum and L2 penalty where asked."""
    return torch.optim.SGD(parameters, learning_rate, momentum, weight_decay=weight_decay)
