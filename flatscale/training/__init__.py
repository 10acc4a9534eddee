"""Training: one loop, losses and optimizers by name, checkpoints and weights as safetensors."""

from flatscale.training.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_weights,
    save_checkpoint,
    save_weights,
    weights_from_bytes,
    weights_to_bytes,
)
from flatscale.training.loop import TrainingResult, train
from flatscale.training.losses import LOSSES, loss, point_loss
from flatscale.training.optimizers import (
    OPTIMIZERS,
    build_optimizer,
    optimizer,
    optimizer_constants,
    own_constants,
)
from flatscale.training.order import log_spaced_steps

__all__ = [
    "LOSSES",
    "OPTIMIZERS",
    "Checkpoint",
    "TrainingResult",
    "build_optimizer",
    "load_checkpoint",
    "load_weights",
    "log_spaced_steps",
    "loss",
    "optimizer",
    "optimizer_constants",
    "own_constants",
    "point_loss",
    "save_checkpoint",
    "save_weights",
    "train",
    "weights_from_bytes",
    "weights_to_bytes",
]
