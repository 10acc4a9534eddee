"""Fused attention has no second derivatives: where needed, attention runs in steps."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from flatscale.metrics.probe.observers import Observer, Shard

NOTE = "fused attention switched to an implementation with second derivatives"


def twice_differentiable() -> AbstractContextManager[None]:
    """Inside, scaled dot-product attention runs in plain operations (torch's MATH backend)."""
    return sdpa_kernel(SDPBackend.MATH)


class _AttentionSeen(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen = False

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.seen = self.seen or func is scaled_dot_product_attention
        return func(*args, **(kwargs or {}))


def uses_fused_attention(shard: Shard) -> bool:
    """Whether the network calls fused attention."""
    with torch.no_grad(), _AttentionSeen() as watch:
        shard.logits(shard.x[:1])
    return watch.seen


def attention_notes(observer: Observer) -> tuple[str, ...]:
    """What a measurement with second derivatives must say of this network's attention."""
    return (NOTE,) if observer.once(uses_fused_attention) else ()
