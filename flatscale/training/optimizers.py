"""Optimizers by name: a decorated function is all a new one needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from inspect import unwrap
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from flatscale.errors import ConfigError
from flatscale.extras import needs
from flatscale.models import allow_torchvision_without_ops
from flatscale.study.registry import Registered, Registry, checked_options, option_parameters
from flatscale.study.schema import OptimizerConfig

OptimizerBuilder = Callable[..., torch.optim.Optimizer]
"""(parameters, learning rate, **constants) -> optimizer."""


@dataclass(frozen=True, kw_only=True)
class OptimizerEntry(Registered):
    """An optimizer, whether its step looks at the gradient anew, whether it is around another."""

    closure: bool = False
    around: bool = False


TIMM = "timm:"
OPTIMIZERS: Registry[OptimizerEntry] = Registry("optimizer", also=(f"{TIMM}<name>",))
_OF_ALL = frozenset({"momentum", "weight_decay"})
_Share = Annotated[float, Field(ge=0, lt=1)]
_Positive = Annotated[float, Field(gt=0)]
_NotNegative = Annotated[float, Field(ge=0)]


def optimizer(
    name: str, *, closure: bool = False, around: bool = False, version: str | None = None
) -> Callable[[OptimizerBuilder], OptimizerBuilder]:
    """Register a function that builds an optimizer.

    It takes the parameters and the learning rate, and its constants as keyword-only arguments with
    annotations: those are what a study file may set beside the name, and are checked against it.
    `momentum` and `weight_decay` are 0 unless given, for every optimizer that takes them.

    Args:
        name: what a study file calls it.
        closure: its `step` takes a function that computes loss and gradients at the weights as
            they are then, and calls it as often as it likes.
        around: it takes another optimizer in place of parameters and learning rate.
        version: as in `Registered`.

    Raises:
        ConfigError: one of those two has another default.
    """

    def add(builder: OptimizerBuilder) -> OptimizerBuilder:
        constants = option_parameters(builder)
        for constant in _OF_ALL & set(constants):
            # A trial's id holds 0 for what is not given, so nothing else may be meant by it.
            if constants[constant].default != 0:
                raise ConfigError(f"optimizer {name!r}: the default of {constant} must be 0")
        kinds = {"closure": closure, "around": around}
        OPTIMIZERS.add(OptimizerEntry(name=name, function=builder, version=version, **kinds))
        return builder

    return add


def optimizer_constants(config: OptimizerConfig) -> dict[str, Any]:
    """Every constant of an optimizer and of the one it is around, given or left at their default.

    Raises:
        ConfigError: no such optimizer or constant, or a value of the wrong type or range.
    """
    outer, inner = _entries(config)
    functions = [entry.function for entry in (outer, inner) if entry is not None]
    given = {**config.constants, **(config.base.constants if config.base else {})}
    defaults = {name: p.default for name, p in option_parameters(*functions).items()}
    if inner.name.startswith(TIMM):  # its constants are those of another library
        own = {name: value for name, value in given.items() if name in defaults}
        return {**given, **defaults, **checked_options(functions, own, "")}
    return {**defaults, **checked_options(functions, given, "")}


def own_constants(config: OptimizerConfig) -> dict[str, Any]:
    """The constants of an optimizer beside momentum and weight decay, which a record holds apart.

    Raises:
        ConfigError: see `optimizer_constants`.
    """
    outer, inner = _entries(config)
    constants = {k: v for k, v in optimizer_constants(config).items() if k not in _OF_ALL}
    return {**constants, "base": inner.name} if outer else constants


def needs_closure(config: OptimizerConfig) -> bool:
    """Whether the optimizer's step takes a function that computes the gradients anew."""
    outer, inner = _entries(config)
    return (outer or inner).closure


def build_optimizer(
    network: nn.Module, config: OptimizerConfig, learning_rate: float
) -> torch.optim.Optimizer:
    """The optimizer of a study file for the trainable parameters of a network.

    Raises:
        ConfigError: no such optimizer or constant, or the optimizer refuses a value.
    """
    constants = optimizer_constants(config)
    outer, inner = _entries(config)
    around = (
        {name: constants.pop(name) for name in option_parameters(outer.function)} if outer else {}
    )
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        built: torch.optim.Optimizer = inner.function(parameters, learning_rate, **constants)
        return outer.function(built, **around) if outer else built
    except Exception as error:  # an optimizer of another library may raise anything
        raise ConfigError(f"optimizer {config.name!r} cannot be built: {error}") from error


def check_optimizer(network: nn.Module, config: OptimizerConfig) -> None:
    """Build an optimizer that takes no step, to see whether it can be built.

    Raises:
        ConfigError: see `build_optimizer`.
    """
    optimizer = torch.optim.Optimizer
    wrapped = optimizer.add_param_group
    # Its wrapper imports torch's compiler, over a second, for that to leave the method alone.
    optimizer.add_param_group = unwrap(wrapped)  # type: ignore[method-assign]
    try:
        build_optimizer(network, config, 1e-3)
    finally:
        optimizer.add_param_group = wrapped  # type: ignore[method-assign]


def _entries(config: OptimizerConfig) -> tuple[OptimizerEntry | None, OptimizerEntry]:
    """The optimizer that is around another, if any, and the one that takes the parameters."""
    entry = _entry(config.name)
    if not entry.around:
        if config.base is not None:
            raise ConfigError(f"optimizer {entry.name!r} is around no other: it takes no base")
        return None, entry
    base = config.base or OptimizerConfig()
    inner = _entry(base.name)
    if inner.around or inner.closure or base.base is not None:
        raise ConfigError(f"optimizer {entry.name!r} cannot be around {inner.name!r}")
    return entry, inner


def _entry(name: str) -> OptimizerEntry:
    if not name.startswith(TIMM):
        return OPTIMIZERS[name]
    needs("timm")
    allow_torchvision_without_ops()
    import timm.optim  # after the line above, and only where it is needed: it is slow

    known = [str(other) for other in timm.optim.list_optimizers()]
    if (plain := name.removeprefix(TIMM)) not in known:
        raise OPTIMIZERS.unknown(name, also=[TIMM + other for other in known])
    if timm.optim.get_optimizer_info(plain).second_order:
        raise ConfigError(f"optimizer {name!r} needs second derivatives, which training has not")
    return OptimizerEntry(name=name, function=partial(_of_timm, plain))


def _of_timm(
    plain: str,
    parameters: Iterable[nn.Parameter],
    learning_rate: float,
    *,
    momentum: _Share = 0.0,
    weight_decay: _NotNegative = 0.0,
    **constants: Any,
) -> torch.optim.Optimizer:
    from timm.optim import create_optimizer_v2

    return create_optimizer_v2(
        parameters, plain, learning_rate, weight_decay, momentum, **constants
    )


@optimizer("sgd")
def sgd(
    parameters: Iterable[nn.Parameter],
    learning_rate: float,
    *,
    momentum: _Share = 0.0,
    weight_decay: _NotNegative = 0.0,
    nesterov: bool = False,
) -> torch.optim.SGD:
    """Stochastic gradient descent, with heavy-ball or Nesterov momentum and L2 penalty."""
    return torch.optim.SGD(
        parameters, learning_rate, momentum, weight_decay=weight_decay, nesterov=nesterov
    )


@optimizer("adam")
def adam(
    parameters: Iterable[nn.Parameter],
    learning_rate: float,
    *,
    betas: tuple[_Share, _Share] = (0.9, 0.999),
    eps: _Positive = 1e-8,
    weight_decay: _NotNegative = 0.0,
    amsgrad: bool = False,
) -> torch.optim.Adam:
    """Adam (Kingma & Ba 2015), weight decay as an L2 penalty."""
    return torch.optim.Adam(
        parameters, learning_rate, betas, eps, weight_decay=weight_decay, amsgrad=amsgrad
    )


@optimizer("adamw")
def adamw(
    parameters: Iterable[nn.Parameter],
    learning_rate: float,
    *,
    betas: tuple[_Share, _Share] = (0.9, 0.999),
    eps: _Positive = 1e-8,
    weight_decay: _NotNegative = 0.0,
) -> torch.optim.AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019); none unless given."""
    return torch.optim.AdamW(parameters, learning_rate, betas, eps, weight_decay=weight_decay)


@optimizer("rmsprop")
def rmsprop(
    parameters: Iterable[nn.Parameter],
    learning_rate: float,
    *,
    alpha: _Share = 0.99,
    eps: _Positive = 1e-8,
    momentum: _Share = 0.0,
    weight_decay: _NotNegative = 0.0,
    centered: bool = False,
) -> torch.optim.RMSprop:
    """The gradient over the root of its running mean square (Tieleman & Hinton 2012)."""
    return torch.optim.RMSprop(
        parameters, learning_rate, alpha, eps, weight_decay, momentum, centered
    )
