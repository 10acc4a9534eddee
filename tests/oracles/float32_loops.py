"""The loops one would write first, in the network's own precision."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from tests.oracles.loops import without_inplace


def float32_loops(model: nn.Sequential, x: Tensor) -> dict[str, np.ndarray]:
    """A forward and a backward pass per point, output and thing differentiated."""
    model = without_inplace(model)
    places = [i for i, m in enumerate(model) if isinstance(m, nn.Linear | nn.Conv2d)]
    sigma, layers, sharpness = [], [], []
    for xi in x.split(1):
        xi = xi.clone().requires_grad_()
        sigma.append(_spectrum(model, xi))
        rows = []
        for i in places:
            at = model[:i](xi).detach().requires_grad_()
            rows.append(_spectrum(model[i:], at)[0])
        layers.append(rows)
        total = 0.0
        for k in range(len(sigma[-1])):
            gradients = torch.autograd.grad(model(xi)[0, k], list(model.parameters()))
            total += sum(g.square().sum().item() for g in gradients)
        sharpness.append(total)
    return {
        "sigma": np.stack(sigma),
        "layers": np.array(layers),
        "sharpness": np.array(sharpness),
    }


def _spectrum(function, at: Tensor) -> np.ndarray:
    with torch.no_grad():
        num_outputs = function(at).shape[1]
    rows = [torch.autograd.grad(function(at)[0, k], at)[0].flatten() for k in range(num_outputs)]
    return torch.linalg.svdvals(torch.stack(rows)).numpy()
