"""The loops one would write first, in the network's own precision."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from tests.oracles.loops import without_inplace


def float32_loops(model: nn.Sequential, x: Tensor) -> dict[str, np.ndarray]:
    """Per point and output: one backward pass for the input, each layer's input, the weights."""
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
        outputs = model(xi)[0]
        for k in range(len(outputs)):
            gradients = torch.autograd.grad(outputs[k], list(model.parameters()), retain_graph=True)
            total += sum(g.square().sum().item() for g in gradients)
        sharpness.append(total)
    return {
        "sigma": np.stack(sigma),
        "layers": np.array(layers),
        "sharpness": np.array(sharpness),
    }


def _spectrum(function, at: Tensor) -> np.ndarray:
    outputs = function(at)[0]
    rows = [torch.autograd.grad(o, at, retain_graph=True)[0].flatten() for o in outputs]
    return torch.linalg.svdvals(torch.stack(rows)).numpy()
