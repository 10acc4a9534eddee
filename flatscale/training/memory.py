"""Training on when memory runs out: a batch in microbatches, where that gives the same gradient."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from flatscale.errors import ModelError

logger = logging.getLogger(__name__)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on a GPU or on the host."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "not enough memory" in text or "can't allocate memory" in text or "out of memory" in text
    )


class Microbatches:
    """How many images are computed at once: a whole batch, until memory runs out.

    Args:
        model: the network; one that normalises over the batch is not the same network on a part of
            it, and is never trained so.
        limit: most images computed at once from the start.
    """

    def __init__(self, model: nn.Module, limit: int | None = None) -> None:
        self._limit = limit
        self._normalises = any(isinstance(module, _BatchNorm) for module in model.modules())

    def slices(self, num_images: int) -> Iterator[slice]:
        """Consecutive slices of at most the size that memory allows."""
        size = min(self._limit or num_images, num_images)
        for start in range(0, num_images, size):
            yield slice(start, min(start + size, num_images))

    def until_it_fits(
        self, num_images: int, compute: Callable[[], Tensor], *, training: bool
    ) -> Tensor:
        """compute(), which goes over `slices`, again with half the size when memory runs out.

        Args:
            num_images: how many `compute` goes over.
            compute: starts afresh at every call.
            training: batch statistics are taken in it, so that a network that normalises over the
                batch needs it whole.

        Raises:
            ModelError: memory runs out with one image, or with a batch that must stay whole.
        """
        while True:
            try:
                return compute()
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = str(error)
            # The exception, and with it what its frames hold, is gone here.
            size = min(self._limit or num_images, num_images)
            if training and self._normalises:
                raise ModelError(
                    f"training ran out of memory with a batch of {size} images, and the network "
                    "normalises over the batch, so that a part of it would train another network; "
                    f"use a smaller batch size or network ({reason})"
                )
            if size == 1:
                raise ModelError(f"training ran out of memory with one image at a time ({reason})")
            self._limit = size // 2
            logger.warning("out of memory with %d images at once; trying %d", size, self._limit)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
