"""One layer, its weights perturbed differently for every point of a batch: three ways.

Each computes (W + step S_W z_W) x + (b + step S_b z_b) with z ~ N(0, I) for every point, S =
|theta| or 1, and differs in what is drawn and what it costs:

- `OutputNoise`, Linear layers that read one vector a point: the output is Gaussian with
  independent entries of variance step^2 (S_W^2 x^2 + S_b^2), so the noise is drawn there (Kingma
  et al. 2015).
- `OwnWeights`, layers with fewer weights than outputs: every point gets weights of its own.
- `FlippedWeights`, larger convolutions and token-wise Linear layers: points of a group share z_W
  and flip its signs, z_W * (s t^T) with signs s, t of their own (Wen et al. 2018, flipout). Every
  point's perturbation is N(0, I); those of two points are uncorrelated, but equally large entry
  by entry. Of many tokens, a point's weight is made and multiplied once; of few, and in
  convolutions, the layer is applied twice, to x with W and to the flipped x with S_W z_W.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flatscale.metrics.probe.byte_limits import CACHED_WEIGHTS

Norm = nn.LayerNorm | nn.GroupNorm | nn.BatchNorm1d | nn.BatchNorm2d
Sliding = nn.Linear | nn.Conv1d | nn.Conv2d


_WORTH_A_WEIGHT = 64
"""Tokens of a point from which on its own weight costs less than a second product."""


@dataclass(frozen=True)
class PerturbedLayer:
    """A layer that can be evaluated with its parameters perturbed.

    Attributes:
        layer: the layer itself.
        adaptive: whether S is |theta| rather than 1.
        width: how many standard normals are drawn for each point.
        shared: the weight whose z a group of points shares; None where nothing is shared.
    """

    layer: Any
    adaptive: bool

    @property
    def width(self) -> int:
        raise NotImplementedError

    @property
    def shared(self) -> Tensor | None:
        return None

    def reversed(self, rows: Tensor) -> Tensor:
        """Standard normals that perturb the layer the opposite way."""
        return -rows

    def forward(self, x: Tensor, rows: Tensor, direction: Tensor | None, step: float) -> Tensor:
        """The perturbed output for one batch of points.

        Args:
            x: what the layer reads (B, ...).
            rows: standard normals (B, width), a row for every point.
            direction: S_W z_W of a weight whose z the points share; None where nothing is shared.
            step: rho.
        """
        raise NotImplementedError

    def slope(
        self, gradients: Mapping[str, Tensor], rows: Tensor, direction: Tensor | None
    ) -> Tensor:
        """d loss / d step of every point at step zero (B,), linear in what is drawn.

        Args:
            gradients: of every point's loss (B, ...), by the parameters' names in the layer.
            rows, direction: as in `forward`.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class OutputNoise(PerturbedLayer):
    """A Linear layer that reads one vector a point."""

    layer: nn.Linear

    @property
    def width(self) -> int:
        return self.layer.out_features

    def forward(self, x: Tensor, rows: Tensor, direction: Tensor | None, step: float) -> Tensor:
        squares = x.square()
        if self.adaptive:
            variance = squares @ self.layer.weight.detach().square().T
        else:
            variance = squares.sum(dim=1, keepdim=True)
        if self.layer.bias is not None:
            variance = variance + _scale(self.layer.bias, self.adaptive).square()
        center = F.linear(x, self.layer.weight, self.layer.bias)
        return torch.addcmul(center, rows, variance.sqrt(), value=step)


@dataclass(frozen=True)
class OwnWeights(PerturbedLayer):
    """A small layer: weight and bias anew for every point."""

    layer: Sliding | Norm

    @property
    def width(self) -> int:
        return sum(p.numel() for p in self.layer.parameters())

    def forward(self, x: Tensor, rows: Tensor, direction: Tensor | None, step: float) -> Tensor:
        weight, start = self._perturbed(self.layer.weight, rows, step, 0, x.dtype)
        bias, _ = self._perturbed(self.layer.bias, rows, step, start, x.dtype)
        if isinstance(self.layer, Norm):
            return _affine(_normalized(self.layer, x), weight, bias, self.layer)
        if isinstance(self.layer, nn.Linear):
            out = torch.einsum("b...i,boi->b...o", x, weight)
            return out if bias is None else out + _by_channel(bias, out, self.layer)
        return _own_convolution(self.layer, x, weight, bias)

    def slope(
        self, gradients: Mapping[str, Tensor], rows: Tensor, direction: Tensor | None
    ) -> Tensor:
        """The sum of gradient times S z over all of the point's own parameters."""
        weighted = [
            (gradients[name] * _scale(p, self.adaptive)).flatten(1)
            for name, p in self.layer.named_parameters()
        ]
        return (torch.cat(weighted, dim=1) * rows).sum(dim=1)

    def _perturbed(
        self, parameter: Tensor | None, rows: Tensor, step: float, start: int, dtype: torch.dtype
    ) -> tuple[Tensor | None, int]:
        """theta + step S z for every point (B, *shape), and where the next parameter's z start."""
        if parameter is None:
            return None, start
        end = start + parameter.numel()
        z = rows[:, start:end].reshape(-1, *parameter.shape)
        scale = _scale(parameter, self.adaptive)
        return torch.addcmul(parameter.detach(), z, scale, value=step).to(dtype), end


@dataclass(frozen=True)
class FlippedWeights(PerturbedLayer):
    """A convolution or token-wise Linear layer whose z_W a group shares up to signs."""

    layer: Sliding
    _rounded: dict[torch.dtype, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def width(self) -> int:
        """Signs of the outputs and of the inputs, and z of the bias."""
        biases = 0 if self.layer.bias is None else len(self.layer.bias)
        return sum(_channels(self.layer)) + biases

    @property
    def shared(self) -> Tensor | None:
        return self.layer.weight.detach()

    def reversed(self, rows: Tensor) -> Tensor:
        """Signs of the outputs and z of the bias reversed; both sides' signs would cancel."""
        flip_out, flip_in, bias = self._split(rows)
        return torch.cat([-flip_out, flip_in, -bias], dim=1)

    def _split(self, rows: Tensor) -> tuple[Tensor, ...]:
        """What the signs of the outputs and of the inputs are taken from, and z of the bias."""
        outgoing, incoming = _channels(self.layer)
        return rows.tensor_split([outgoing, outgoing + incoming], dim=1)

    def _flips(self, rows: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Signs of the outputs and of the inputs, and z of the bias."""
        flip_out, flip_in, z = self._split(rows)
        return flip_out.sign().to(dtype), flip_in.sign().to(dtype), z

    def forward(self, x: Tensor, rows: Tensor, direction: Tensor | None, step: float) -> Tensor:
        assert direction is not None
        flip_out, flip_in, z = self._flips(rows, x.dtype)
        bias = None
        if self.layer.bias is not None:
            bias = step * _scale(self.layer.bias, self.adaptive) * z
        if isinstance(self.layer, nn.Linear):
            if x[0].numel() >= _WORTH_A_WEIGHT * flip_in.shape[1]:
                return self._by_weights(x, direction, (step * flip_out, flip_in), bias)
            center = F.linear(x, self.layer.weight, self.layer.bias)
            change = F.linear(x * _by_channel(flip_in, x, self.layer), direction)
        else:
            flipped = x * _by_channel(flip_in, x, self.layer)
            center = self.layer._conv_forward(x, self.layer.weight, self.layer.bias)
            change = self.layer._conv_forward(flipped, direction, None)
        moved = torch.addcmul(center, change, _by_channel(flip_out, change, self.layer), value=step)
        return moved if bias is None else moved + _by_channel(bias, moved, self.layer)

    def slope(
        self, gradients: Mapping[str, Tensor], rows: Tensor, direction: Tensor | None
    ) -> Tensor:
        """s^T (G * S_W z_W) t, summed over a kernel's places, and the bias's part."""
        assert direction is not None
        of_weight = gradients["weight"]
        flip_out, flip_in, z = self._flips(rows, of_weight.dtype)
        products = of_weight * direction.to(of_weight.dtype)
        if products.ndim > 3:
            products = products.flatten(3).sum(dim=3)
        groups = getattr(self.layer, "groups", 1)
        by_group = products.unflatten(1, (groups, -1)) @ flip_in.unflatten(1, (groups, -1, 1))
        found = (by_group.flatten(1) * flip_out).sum(dim=1, dtype=rows.dtype)
        if self.layer.bias is not None:
            of_bias = gradients["bias"] * _scale(self.layer.bias, self.adaptive)
            found = found + (of_bias * z).sum(dim=1)
        return found

    def _by_weights(
        self, x: Tensor, direction: Tensor, flips: tuple[Tensor, Tensor], change: Tensor | None
    ) -> Tensor:
        """The same in one product a point, with weights of their own, so many as stay in cache."""
        kind, dtype = x.device.type, x.dtype
        if torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
        weight, direction = self._weight_in(dtype), direction.to(dtype)
        flip_out, flip_in = (flip.to(dtype) for flip in flips)
        biases = x.new_zeros(len(x), len(weight))
        if self.layer.bias is not None and change is not None:
            biases = self.layer.bias + change
        rows = x.reshape(len(x), -1, x.shape[-1]).to(dtype)
        moved = rows.new_empty(*rows.shape[:2], len(weight))
        limit = CACHED_WEIGHTS["cpu" if kind == "cpu" else "cuda"]
        at_once = max(1, int(limit / (weight.numel() * weight.element_size())))
        parts = (v.split(at_once) for v in (rows, biases.to(dtype), flip_out, flip_in, moved))
        for part, bias, outgoing, incoming, into in zip(*parts, strict=True):
            own = torch.addcmul(weight, direction * outgoing[:, :, None], incoming[:, None])
            torch.baddbmm(bias[:, None], part, own.mT, out=into)
        return moved.reshape(*x.shape[:-1], -1)

    def _weight_in(self, dtype: torch.dtype) -> Tensor:
        """The weight rounded once for all draws."""
        if dtype not in self._rounded:
            self._rounded[dtype] = self.layer.weight.detach().to(dtype)
        return self._rounded[dtype]


def _scale(parameter: Tensor, adaptive: bool) -> Tensor:
    """S: |theta|, or one."""
    return parameter.detach().abs() if adaptive else torch.ones_like(parameter)


def _own_convolution(
    layer: nn.Conv1d | nn.Conv2d, x: Tensor, weight: Tensor | None, bias: Tensor | None
) -> Tensor:
    """A convolution with a weight (B, out, in, ...) for every point: one of B times the groups."""
    assert weight is not None
    count = len(x)
    function = F.conv1d if isinstance(layer, nn.Conv1d) else F.conv2d
    out = function(
        x.reshape(1, count * x.shape[1], *x.shape[2:]),
        weight.flatten(0, 1),
        None if bias is None else bias.flatten(),
        layer.stride,
        layer.padding,
        layer.dilation,
        count * layer.groups,
    )
    return out.reshape(count, -1, *out.shape[2:])


def _normalized(layer: Norm, x: Tensor) -> Tensor:
    """What a normalization layer multiplies with its weight."""
    if isinstance(layer, nn.LayerNorm):
        return F.layer_norm(x, layer.normalized_shape, None, None, layer.eps)
    if isinstance(layer, nn.GroupNorm):
        return F.group_norm(x, layer.num_groups, None, None, layer.eps)
    return F.batch_norm(x, layer.running_mean, layer.running_var, eps=layer.eps)


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None, layer: Norm) -> Tensor:
    for values, combine in ((weight, torch.mul), (bias, torch.add)):
        if values is None:
            continue
        ones = [1] * (x.ndim - values.ndim)
        last = isinstance(layer, nn.LayerNorm)
        shape = [len(x), *ones, *values.shape[1:]] if last else [len(x), values.shape[1], *ones]
        x = combine(x, values.reshape(shape))
    return x


def _channels(layer: Sliding) -> tuple[int, int]:
    if isinstance(layer, nn.Linear):
        return layer.out_features, layer.in_features
    return layer.out_channels, layer.in_channels


def _by_channel(rows: Tensor, like: Tensor, layer: Sliding) -> Tensor:
    """(B, C) shaped to multiply the channels of a layer's inputs or outputs."""
    ones = [1] * (like.ndim - 2)
    if isinstance(layer, nn.Linear):
        return rows.reshape(len(rows), *ones, -1)
    return rows.reshape(len(rows), -1, *ones)
