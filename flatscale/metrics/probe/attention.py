"""Fused attention has no second derivatives: where needed, attention runs in steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from flatscale.metrics.probe.observers import Observer, Shard

_SCORES = 16_000_000
"""Most scores held at once by attention in products."""
NOTE = "fused attention switched to an implementation with second derivatives"


def twice_differentiable() -> AbstractContextManager[None]:
    """Inside, scaled dot-product attention runs in plain operations (torch's MATH backend)."""
    return sdpa_kernel(SDPBackend.MATH)


@contextmanager
def attention_by_products(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Inside, attention runs the quickest way for this type.

    On a CPU the fused kernel works in float32 whatever the type; in bfloat16 two products and a
    softmax take half as long. They round more. Networks find the function in torch.nn.functional; a
    mode would intercept every other function as well.
    """
    if device.type != "cpu" or dtype != torch.bfloat16:
        yield
        return
    fused = functional.scaled_dot_product_attention

    def attention(*args: Any, **options: Any) -> Tensor:
        found = _by_products(*args, **options)
        return fused(*args, **options) if found is None else found

    functional.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = fused


def _by_products(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor | None:
    """Attention of every query to every key; None where it is anything but that, or large."""
    if attn_mask is not None or dropout_p or is_causal or enable_gqa:
        return None
    if query.shape[:-2].numel() * query.shape[-2] * key.shape[-2] > _SCORES:
        return None
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    return ((query * scale) @ key.mT).softmax(dim=-1) @ value


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
