"""A small transformer on sequences of tokens; its output is what follows the last one."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from flatscale.errors import ModelError
from flatscale.models.architectures import model

_Count = Annotated[int, Field(ge=1)]


class _Block(nn.Module):
    """Attention, then two layers, each added to what goes in."""

    def __init__(self, width: int, heads: int, hidden: int, norm: bool, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention = nn.LayerNorm(width) if norm else nn.Identity()
        self.attended = nn.Linear(width, 3 * width)
        self.mixed = nn.Linear(width, width)
        self.before_layers = nn.LayerNorm(width) if norm else nn.Identity()
        self.layers = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.attended(self.before_attention(x)).unflatten(-1, (3, self.heads, -1))
        queries, keys, values = parts.permute(2, 0, 3, 1, 4)
        attention = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        x = x + self.dropout(self.mixed(attention.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.layers(self.before_layers(x)))


class Transformer(nn.Module):
    """Causal blocks over one-hot tokens (B, length, vocabulary); outputs (B, N) at the last."""

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_outputs: int,
        *,
        width: int,
        heads: int,
        depth: int,
        hidden: int,
        norm: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        length, vocabulary = input_shape
        self.embedding = nn.Linear(vocabulary, width, bias=False)
        self.position = nn.Parameter(torch.randn(length, width) / width**0.5)
        self.blocks = nn.Sequential(
            *(_Block(width, heads, hidden, norm, dropout) for _ in range(depth))
        )
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.head = nn.Linear(width, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(self.blocks(self.embedding(x) + self.position)[:, -1]))
        return out


@model("transformer", takes=("tokens",))
def transformer(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    width: _Count = 128,
    heads: _Count = 4,
    depth: _Count = 1,
    hidden: _Count = 512,
    norm: bool = True,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
) -> Transformer:
    """`depth` blocks of causal attention and two layers, with layer norm before each.

    Args:
        input_shape: (length, vocabulary): tokens come one-hot, so that the derivative by the input
            is defined; the embedding is a linear layer.
        num_classes: outputs, taken at the last token.
        width: of the stream; a multiple of `heads`.
        heads: of the attention.
        depth: number of blocks.
        hidden: units of a block's two layers.
        norm: with layer norm.
        dropout: share of what each part of a block adds left out in training.

    Raises:
        ModelError: the width is no multiple of the heads.
    """
    if width % heads:
        raise ModelError(f"'transformer': width {width} must be a multiple of heads {heads}")
    return Transformer(
        input_shape,
        num_classes,
        width=width,
        heads=heads,
        depth=depth,
        hidden=hidden,
        norm=norm,
        dropout=dropout,
    )
