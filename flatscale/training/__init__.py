"""Training: one loop; losses, optimizers, schedules by name; checkpoints as safetensors."""

from flatscale.training.augmentation import Augmentation
from flatscale.training.averages import AVERAGES, average, average_constants
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
from flatscale.training.losses import LOSSES, loss, point_loss, smoothed_targets
from flatscale.training.optimizers import (
    OPTIMIZERS,
    build_optimizer,
    check_optimizer,
    optimizer,
    optimizer_constants,
    own_constants,
)
from flatscale.training.order import log_spaced_steps, step_limit
from flatscale.training.schedules import SCHEDULES, schedule, schedule_constants
from flatscale.training.sharpness_aware import SharpnessAware

__all__ = [
    "AVERAGES",
    "LOSSES",
    "OPTIMIZERS",
    "SCHEDULES",
    "Augmentation",
    "Checkpoint",
    "SharpnessAware",
    "TrainingResult",
    "average",
    "average_constants",
    "build_optimizer",
    "check_optimizer",
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
    "schedule",
    "schedule_constants",
    "smoothed_targets",
    "step_limit",
    "train",
    "weights_from_bytes",
    "weights_to_bytes",
]
