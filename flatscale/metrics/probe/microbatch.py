"""Going over a shard's points in microbatches that halve when memory runs out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from flatscale.errors import MetricError
from flatscale.training.memory import is_out_of_memory

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


class BatchSize:
    """How many points are computed at once: starts at a limit and only ever shrinks.

    Args:
        limit: the first size tried; None for all points.
        on_batch: called with the size before every computation; a test makes it raise.
    """

    def __init__(
        self, limit: int | None = None, on_batch: Callable[[int], None] | None = None
    ) -> None:
        if limit is not None and limit < 1:
            raise ValueError(f"microbatch must be at least 1; found {limit}")
        self.limit = limit
        self._on_batch = on_batch

    def run(
        self, num_points: int, compute: Callable[[slice], Result], at_most: int | None = None
    ) -> Iterator[Result]:
        """compute(slice) over even consecutive slices; out of memory, a slice is tried at half.

        Raises:
            MetricError: memory runs out with a single point.
        """
        start = 0
        while start < num_points:
            sizes = [s for s in (self.limit, at_most, num_points - start) if s is not None]
            pieces = -(-(num_points - start) // max(1, min(sizes)))
            size = -(-(num_points - start) // pieces)
            try:
                if self._on_batch is not None:
                    self._on_batch(size)
                result = compute(slice(start, start + size))
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if size == 1:
                    raise MetricError(
                        f"out of memory with a single point at a time ({error})"
                    ) from error
                self.limit = size // 2
                logger.warning("out of memory with %d points at once; trying %d", size, self.limit)
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                continue
            yield result
            start += size
