"""The pass over ||W||_2 of the layers: as maps on their whole input (unrolled), and of kernels."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np
import torch
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh
from torch import Tensor, nn

from flatscale.errors import MetricError
from flatscale.metrics.probe.layer_calls import trace_calls
from flatscale.metrics.probe.observers import Observer, Shard, required
from flatscale.metrics.registration import measurement_pass

_TOLERANCE = 1e-4
_DENSE = 512
_PLAIN = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True, kw_only=True)
class LayerNorms:
    """||W_l||_2 of every linear layer, in forward order (L).

    Attributes:
        unrolled: of the layer as a map on its whole input.
        kernel: of the weight as a matrix, whatever its sharing.
    """

    unrolled: np.ndarray
    kernel: np.ndarray


@measurement_pass("layer_norms")
def layer_norms(observers: Mapping[str, Observer], seed: int) -> LayerNorms:
    """Operator norms of the linear layers, for inputs of the probe's shape."""
    return required(observers, "probe").once(norms_of_layers)


def norms_of_layers(shard: Shard) -> LayerNorms:
    """The norms, for inputs of the shard's shape."""
    linear = [call for call in trace_calls(shard)[0] if call.is_linear]
    kernel = [kernel_norm(call.module) for call in linear]
    unrolled = [
        of_kernel
        if isinstance(call.module, nn.Linear)
        else unrolled_norm(call.module, call.of_one_point(None)[0].input_shape)
        for call, of_kernel in zip(linear, kernel, strict=True)
    ]
    return LayerNorms(unrolled=np.array(unrolled), kernel=np.array(kernel))


def unrolled_norm(module: nn.Module, input_shape: tuple[int, ...]) -> float:
    """Largest singular value of a layer without its bias, on such inputs.

    A Linear acts on every token alike, so its norm is that of its matrix, exactly; so does a
    convolution whose patches do not overlap, with that of a group's kernel. Any other layer is
    applied and transposed inside ARPACK's Lanczos iteration (accurate to 1e-4, from below).

    Args:
        module: a linear layer.
        input_shape: one point's input, without the batch.

    Raises:
        MetricError: the iteration did not converge.
    """
    if isinstance(module, nn.Linear):
        return kernel_norm(module)
    if _patches_are_apart(module, input_shape):
        return max(matrix_norm(part, str(module)) for part in module.weight.chunk(module.groups))
    layer = copy.deepcopy(module).eval()
    example = next(layer.parameters())
    device, dtype = example.device, example.dtype
    size = int(np.prod(input_shape))
    with torch.enable_grad():
        origin = torch.zeros(1, *input_shape, device=device, dtype=dtype).requires_grad_()
        at_origin = layer(origin)

    def gram(v: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(v).reshape(1, *input_shape).to(device=device, dtype=dtype)
        with torch.no_grad():
            image = layer(x) - at_origin
        (pulled,) = torch.autograd.grad(at_origin, origin, image, retain_graph=True)
        return pulled.reshape(-1).double().cpu().numpy()

    if size <= 2:
        columns = np.stack([gram(e) for e in np.eye(size)])
        return float(np.sqrt(np.linalg.eigvalsh(columns)[-1]))
    operator = LinearOperator((size, size), matvec=gram, dtype=np.float64)
    return _root_of_largest(operator, str(module), _TOLERANCE)


def kernel_norm(module: nn.Module) -> float:
    """Largest singular value of the weight as an (outputs x rest) matrix: weight-shared."""
    weight = module.weight
    if not isinstance(weight, Tensor):
        raise MetricError(f"{module} has no weight tensor")
    if isinstance(module, nn.Linear) and type(module).forward is not nn.Linear.forward:
        # a weight that the layer computes from its parameter (normalized, standardized)
        unit = torch.eye(module.in_features, dtype=weight.dtype, device=weight.device)
        with torch.no_grad():
            weight = (module(unit) - module(torch.zeros_like(unit))).mT
    return matrix_norm(weight, str(module))


def matrix_norm(weight: Tensor, what: str) -> float:
    """Largest singular value of a weight as an (outputs x rest) matrix."""
    found = weight.detach().flatten(1).double().cpu()
    if not found.numel():
        return 0.0
    if found.shape[0] > found.shape[1]:
        found = found.mT
    size = len(found)
    if size <= _DENSE:
        largest = float(torch.linalg.eigvalsh(found @ found.mT)[-1])
        return float(np.sqrt(max(largest, 0.0)))
    matrix = found.numpy()
    operator = LinearOperator((size, size), matvec=lambda v: matrix @ (matrix.T @ v), dtype=float)
    return _root_of_largest(operator, what, 1e-8)


def _patches_are_apart(module: nn.Module, input_shape: tuple[int, ...]) -> TypeGuard[nn.Conv2d]:
    """Whether a plain convolution reads every input at most once, without padding."""
    if not isinstance(module, _PLAIN) or type(module) not in _PLAIN:
        return False
    spans = [d * (k - 1) + 1 for k, d in zip(module.kernel_size, module.dilation, strict=True)]
    apart = all(span <= step for span, step in zip(spans, module.stride, strict=True))
    inside = all(n >= k for n, k in zip(input_shape[-len(spans) :], spans, strict=True))
    return apart and inside and not any(module._reversed_padding_repeated_twice)


def _root_of_largest(operator: LinearOperator, what: str, tolerance: float) -> float:
    start = np.random.default_rng(0).standard_normal(operator.shape[0])
    try:
        largest = eigsh(
            operator, k=1, which="LA", v0=start, tol=tolerance, return_eigenvectors=False
        )
    except ArpackError as error:
        raise MetricError(f"operator norm of {what} did not converge: {error}") from error
    return float(np.sqrt(max(largest[0], 0.0)))
