"""Arithmetic in a narrower type than a network's own, for what is corrected by the wider one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from flatscale.errors import MetricError
from flatscale.metrics.probe.attention import attention_by_products
from flatscale.metrics.probe.observers import Shard
from flatscale.metrics.probe.parameters import float_parameters
from flatscale.training.memory import is_out_of_memory

Precision = Literal["float32", "bfloat16"]


def rounded_type(shard: Shard, precision: Precision) -> torch.dtype | None:
    """The type that a float32 network is rounded to; None for its own.

    Raises:
        MetricError: the network is of another type than float32.
    """
    if precision == "float32":
        return None
    found = {p.dtype for p in float_parameters(shard.model).values()} - {torch.float32}
    if found:
        raise MetricError(f"precision {precision} takes a network of float32; found {found.pop()}")
    return getattr(torch, precision)


@contextmanager
def computed_in(dtype: torch.dtype | None, device: torch.device) -> Iterator[None]:
    """Inside, products are computed in this type; None changes nothing.

    Raises:
        MetricError: an operation of the network is not known in this type.
    """
    if dtype is None:
        yield
        return
    try:
        with torch.autocast(device.type, dtype), attention_by_products(device, dtype):
            yield
    except (RuntimeError, TypeError) as error:
        if is_out_of_memory(error):
            raise
        raise MetricError(
            f"the network cannot be computed in {dtype}: leave `precision` at float32 ({error})"
        ) from error
