"""The loops one would write first, in float32, for the numbers of the Jacobian pass."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from tests.oracles.loops import without_inplace


def float32_loops(model: nn.Sequential, x: Tensor) -> dict[str, np.ndarray]:
    """A forward and a backward pass per point, output and thing differentiated.

    Returns:
        sigma (n, N), layers (sigma_1 of each) and deltas (n, L), sharpness (n,), parameters
        (n, P), along_input ||J x||^2 (n,), first ||W_1 * grad_{W_1} f||^2 (n,).
    """
    model = without_inplace(model)
    places = [i for i, m in enumerate(model) if isinstance(m, nn.Linear | nn.Conv2d)]
    rows = [_one_point(model, places, xi.clone()) for xi in x.split(1)]
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


def _one_point(model: nn.Sequential, places: list[int], xi: Tensor) -> dict[str, np.ndarray]:
    jacobian = _rows(model, xi)
    layers, deltas = [], []
    for i in places:
        with torch.no_grad():
            before = model[:i](xi)
            after = model[i](before)
        layers.append(_sigma(_rows(model[i:], before))[0])
        deltas.append(_rows(model[i + 1 :], after).square().sum().item())
    parameters = list(model.parameters())
    norms, first = np.zeros(len(parameters)), 0.0
    for k in range(len(jacobian)):
        gradients = torch.autograd.grad(model(xi)[0, k], parameters)
        norms += [g.square().sum().item() for g in gradients]
        first += (parameters[0].detach() * gradients[0]).square().sum().item()
    return {
        "sigma": _sigma(jacobian),
        "layers": np.array(layers),
        "deltas": np.array(deltas),
        "sharpness": norms.sum(),
        "parameters": norms,
        "along_input": (jacobian @ xi.flatten()).square().sum().numpy(),
        "first": np.array(first),
    }


def _rows(function: nn.Module, at: Tensor) -> Tensor:
    at = at.detach().requires_grad_()
    with torch.no_grad():
        num_outputs = function(at).shape[1]
    rows = [torch.autograd.grad(function(at)[0, k], at)[0].flatten() for k in range(num_outputs)]
    return torch.stack(rows)


def _sigma(jacobian: Tensor) -> np.ndarray:
    return torch.linalg.svdvals(jacobian).numpy()
