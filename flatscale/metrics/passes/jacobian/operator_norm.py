"""||W||_2 of a layer: as the map on its whole input (unrolled), and of its kernel (shared)."""

from __future__ import annotations

import copy
from typing import TypeGuard

import numpy as np
import torch
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh
from torch import Tensor, nn

from flatscale.errors import MetricError

_TOLERANCE = 1e-4
_DENSE = 512
_PLAIN = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


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
