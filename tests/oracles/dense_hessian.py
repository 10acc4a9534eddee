"""The whole Hessian of the mean loss in the parameters, in float64, by torch.func.hessian."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn


def half_squared(outputs: Tensor, y: Tensor) -> Tensor:
    hot = nn.functional.one_hot(y, outputs.shape[1]).to(outputs.dtype)
    return 0.5 * (outputs - hot).square().sum(dim=1)


def dense_hessian(model: nn.Module, x: Tensor, y: Tensor, loss=half_squared) -> np.ndarray:
    """(P, P), parameters in the order of named_parameters()."""
    model = copy.deepcopy(model).double().eval()
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    names = [name for name, _ in model.named_parameters()]
    sizes = [p.numel() for p in model.parameters()]
    shapes = [p.shape for p in model.parameters()]
    theta = torch.cat([p.detach().reshape(-1) for p in model.parameters()])

    def mean_loss(vector: Tensor) -> Tensor:
        parts = [v.reshape(s) for v, s in zip(vector.split(sizes), shapes, strict=True)]
        outputs = torch.func.functional_call(
            model, dict(zip(names, parts, strict=True)), (x.double(),)
        )
        return loss(outputs, y).mean()

    return torch.func.hessian(mean_loss)(theta).detach().numpy()


def curved_problem() -> tuple[nn.Sequential, Tensor, Tensor]:
    """A small network with both signs of curvature, and nine points."""
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0)
    return model, torch.randn(9, 5), torch.randint(0, 3, (9,))
