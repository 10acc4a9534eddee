"""Training: one loop, losses and optimizers by name, checkpoints and weights as safetensors."""

from flatscale.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from flatscale.training.loop import TrainingResult, train
from flatscale.training.losses import point_loss
from flatscale.training.optimizers import (
    build_optimizer,
    check_optimizer,
    known_optimizers,
    optimizer,
)
from flatscale.training.order import log_spaced_steps
from flatscale.training.weights import (
    load_weights,
    save_weights,
    weights_from_bytes,
    weights_to_bytes,
)

__all__ = [
    "Checkpoint",
    "TrainingResult",
    "build_optimizer",
    "check_optimizer",
    "known_optimizers",
    "load_checkpoint",
    "load_weights",
    "log_spaced_steps",
    "optimizer",
    "point_loss",
    "save_checkpoint",
    "save_weights",
    "train",
    "weights_from_bytes",
    "weights_to_bytes",
]
