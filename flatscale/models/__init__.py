"""Networks by name: the paper's, a transformer, `timm:<name>`, and plugins through `@model`."""

from flatscale.models.architectures import (
    MODELS,
    InputKind,
    architecture_family,
    build_model,
    model,
    model_options,
)
from flatscale.models.paper_networks import lenet, mlp, vgg11
from flatscale.models.torchvision_ops import allow_torchvision_without_ops
from flatscale.models.transformer import transformer
from flatscale.models.zoo.folders import modelzoo_cnn

__all__ = [
    "MODELS",
    "InputKind",
    "allow_torchvision_without_ops",
    "architecture_family",
    "build_model",
    "lenet",
    "mlp",
    "model",
    "model_options",
    "modelzoo_cnn",
    "transformer",
    "vgg11",
]
