"""Networks by name: the paper's three, `timm:<name>`, and plugins through `@model`."""

from flatscale.models.architectures import MODELS, architecture_family, model, model_options
from flatscale.models.build import build_model
from flatscale.models.lenet import lenet
from flatscale.models.mlp import mlp
from flatscale.models.torchvision_ops import allow_torchvision_without_ops
from flatscale.models.vgg import vgg11

__all__ = [
    "MODELS",
    "allow_torchvision_without_ops",
    "architecture_family",
    "build_model",
    "lenet",
    "mlp",
    "model",
    "model_options",
    "vgg11",
]
