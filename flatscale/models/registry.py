"""Architectures by name: a decorated builder function is all a new one needs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from torch import nn

from flatscale.errors import ModelError
from flatscale.models.pytorch_image_models import PREFIX, timm_family, timm_model
from flatscale.study.registry import nearest

Builder = Callable[..., nn.Module]
"""(input_shape (channels, height, width), num_classes, **options) -> network."""

MODELS: dict[str, RegisteredModel] = {}


@dataclass(frozen=True, kw_only=True)
class RegisteredModel:
    """An architecture: its builder and the family it counts as in the statistics."""

    builder: Builder
    family: str


def model(name: str, *, family: str | None = None) -> Callable[[Builder], Builder]:
    """Register a builder as an architecture.

    The builder takes `input_shape` (channels, height, width) and `num_classes`, and its options as
    keyword-only arguments with defaults and annotations: those are what a study file may set, and
    are checked against it. It draws its weights from torch's global generator, which
    `build_model` seeds, and must not apply an activation in place to a linear layer's output.

    Args:
        name: what a study file calls it.
        family: the family its networks count as; the name by default.
    """

    def add(builder: Builder) -> Builder:
        MODELS[name] = RegisteredModel(builder=builder, family=family or name)
        return builder

    return add


def known_architectures() -> tuple[str, ...]:
    """The registered names, sorted; besides them `timm:<name>` for every architecture of timm."""
    return tuple(sorted(MODELS))


def architecture_family(architecture: str) -> str:
    """The family an architecture counts as: its registered one, or timm's module (`resnet`).

    Raises:
        ModelError: no such architecture.
    """
    if architecture.startswith(PREFIX):
        return timm_family(architecture)
    return _registered(architecture).family


def check_model(architecture: str, options: Mapping[str, Any]) -> None:
    """Check a name and its options without building anything.

    The options of `timm:` networks are arguments of many different classes; only those flatscale
    sets itself are refused here, the others by `build_model`.

    Raises:
        ModelError: unknown architecture or option, or a value of the wrong type or range.
    """
    checked_options(architecture, options)


def checked_options(architecture: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as the builder takes them; raises like `check_model`."""
    builder = network_builder(architecture)
    if builder is timm_model:
        return _timm_options(architecture, options)
    try:
        checked = _options_schema(builder).model_validate(dict(options))
    except ValidationError as error:
        faults = "; ".join(_describe(fault, builder) for fault in error.errors())
        raise ModelError(f"options of {architecture!r}: {faults}") from None
    return {name: getattr(checked, name) for name in options}


def network_builder(architecture: str) -> Builder:
    """The function that builds an architecture.

    Raises:
        ModelError: no such architecture, naming the nearest.
    """
    if architecture.startswith(PREFIX):
        timm_family(architecture)
        return timm_model
    return _registered(architecture).builder


def _registered(architecture: str) -> RegisteredModel:
    if architecture not in MODELS:
        known = known_architectures()
        raise ModelError(
            f"unknown architecture {architecture!r}{nearest(architecture, known)}; "
            f"known: {', '.join(known)}, {PREFIX}<name>"
        )
    return MODELS[architecture]


def _timm_options(architecture: str, options: Mapping[str, Any]) -> dict[str, Any]:
    reserved = list(inspect.signature(timm_model).parameters.values())
    taken = {p.name for p in reserved if p.kind is not p.VAR_KEYWORD}
    taken |= {"model_name", "num_classes", "in_chans", "img_size", "pretrained", "checkpoint_path"}
    clash = sorted(taken & set(options))
    if clash:
        raise ModelError(
            f"option {clash[0]!r} of {architecture!r} cannot be set: flatscale sets it itself"
        )
    return dict(options)


def _option_parameters(builder: Builder) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(builder, eval_str=True).parameters
    return {name: p for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}


@lru_cache(maxsize=256)
def _options_schema(builder: Builder) -> type[BaseModel]:
    fields: dict[str, Any] = {
        name: (
            Any if p.annotation is p.empty else p.annotation,
            ... if p.default is p.empty else p.default,
        )
        for name, p in _option_parameters(builder).items()
    }
    settings = ConfigDict(extra="forbid", strict=True, protected_namespaces=())
    return create_model("Options", __config__=settings, **fields)


def _describe(fault: Any, builder: Builder) -> str:
    name = str(fault["loc"][0])
    allowed = list(_option_parameters(builder))
    if fault["type"] == "extra_forbidden":
        return f"unknown option {name!r}{nearest(name, allowed)}; allowed: {', '.join(allowed)}"
    if fault["type"] == "missing":
        return f"{name!r} is required"
    message = fault["msg"]
    return f"{name!r}: {message[:1].lower()}{message[1:]}; found {fault['input']!r}"
