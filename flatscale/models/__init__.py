"""Networks by name: the paper's three, `timm:<name>`, and plugins through `@model`."""

from flatscale.models.build import build_model
from flatscale.models.lenet import lenet
from flatscale.models.mlp import mlp
from flatscale.models.registry import (
    architecture_family,
    check_model,
    known_architectures,
    model,
)
from flatscale.models.torchvision_ops import allow_torchvision_without_ops
from flatscale.models.vgg import vgg11

__all__ = [
    "allow_torchvision_without_ops",
    "architecture_family",
    "build_model",
    "check_model",
    "known_architectures",
    "lenet",
    "mlp",
    "model",
    "vgg11",
]
