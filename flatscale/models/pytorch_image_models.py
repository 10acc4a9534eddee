"""`timm:<name>`: any architecture of timm, sized to the data, with fresh weights."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from torch import nn

from flatscale.errors import ModelError
from flatscale.extras import needs
from flatscale.models.torchvision_ops import allow_torchvision_without_ops
from flatscale.study.registry import nearest

PREFIX = "timm:"
_IMPORTING = threading.RLock()
SET_HERE = frozenset(
    {"architecture", "input_shape", "num_classes", "in_chans", "img_size"}
    | {"model_name", "pretrained", "checkpoint_path"}
)
"""Arguments of timm's constructors that are no options here: data and weights decide them."""


def timm_model(
    input_shape: tuple[int, ...], num_classes: int, *, architecture: str, **options: Any
) -> nn.Module:
    """Build `timm:<name>` without pretrained weights.

    The image size is passed on where the network's constructor takes one (transformers, mixers);
    other networks take any size their strides allow.

    Args:
        input_shape: (channels, height, width).
        num_classes: outputs of the head.
        architecture: `timm:<name>`.
        options: further keyword arguments of timm's constructor, such as `drop_path_rate`.

    Raises:
        ModelError: timm cannot build it for this input or with these options.
    """
    name = _timm_name(architecture)
    channels, height, width = input_shape
    timm = timm_module()
    settings = timm.get_pretrained_cfg(name)
    native = settings.input_size[1:] if settings is not None else None
    sized = native != (height, width)
    while True:
        size = {"img_size": (height, width)} if sized else {}
        try:
            return timm.create_model(
                name,
                pretrained=False,
                num_classes=num_classes,
                in_chans=channels,
                **size,
                **options,
            )
        except Exception as error:  # a constructor of another library may raise anything
            if not (sized and isinstance(error, TypeError) and "img_size" in str(error)):
                raise ModelError(
                    f"timm cannot build {architecture!r} for images {input_shape}: {error}"
                ) from error
        sized = False


def timm_family(architecture: str) -> str:
    """The timm module that defines the architecture, such as `vision_transformer`.

    Raises:
        ModelError: timm has no such architecture, naming the nearest.
    """
    timm = timm_module()
    return timm.models.model_entrypoint(_timm_name(architecture)).__module__.rpartition(".")[2]


def timm_options(architecture: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `timm:<name>`, none of which flatscale sets itself.

    Raises:
        ModelError: timm has no such architecture, or an option cannot be set.
    """
    _timm_name(architecture)
    if clash := sorted(SET_HERE & set(options)):
        raise ModelError(
            f"option {clash[0]!r} of {architecture!r} cannot be set: flatscale sets it itself"
        )
    return dict(options)


def _timm_name(architecture: str) -> str:
    """The name without prefix; a pretraining tag after a dot is refused: weights are fresh here."""
    timm = timm_module()
    name = architecture.removeprefix(PREFIX)
    if not timm.is_model(name) or "." in name:
        known = [PREFIX + entry for entry in timm.list_models()]
        tag = " without a pretraining tag" if "." in name else ""
        hint = nearest(PREFIX + name.partition(".")[0], known)
        raise ModelError(
            f"unknown architecture {architecture!r}{hint}; after {PREFIX!r} must "
            f"come one of timm's {len(known)} names{tag}"
        )
    return name


def timm_module() -> Any:
    """The timm module; imported on first use, for it takes seconds.

    One thread at a time: timm's modules import each other, and two threads that begin at different
    ones meet half of them.
    """
    needs("timm")
    with _IMPORTING:
        allow_torchvision_without_ops()
        import timm
        import timm.data

        return timm
