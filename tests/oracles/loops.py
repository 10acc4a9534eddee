"""Plain-loop oracles: one point, one output, one backward pass at a time, in float64.

Written without the package: networks are cut by position in an nn.Sequential, singular values come
from numpy's SVD of the assembled Jacobian, ||W|| of a layer from the SVD of its dense matrix.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

LINEAR = (nn.Linear, nn.Conv2d)


@dataclass
class LoopResult:
    spectra: np.ndarray
    layer_spectra: np.ndarray
    sharpness: np.ndarray
    parameter_norms: dict[str, np.ndarray]
    layer_a: np.ndarray
    layer_g_unrolled: np.ndarray
    layer_g_shared: np.ndarray
    directional2: np.ndarray


def identity(outputs: Tensor) -> Tensor:
    return outputs


def loops(
    model: nn.Sequential, x: Tensor, output_map=identity, *, norms: bool = True
) -> LoopResult:
    """Everything of the Jacobian pass, by loops."""
    model = without_inplace(model).double().eval()
    places = [i for i, module in enumerate(model) if isinstance(module, LINEAR)]
    points = [_one_point(model, places, xi.double(), output_map) for xi in x.split(1)]
    stack = {key: np.stack([p[key] for p in points]) for key in points[0] if key != "by_parameter"}
    by_parameter = {
        name: np.array([p["by_parameter"][name] for p in points])
        for name in points[0]["by_parameter"]
    }
    weights = [dense_norm(model, i, x[:1].double()) if norms else np.nan for i in places]
    return LoopResult(
        spectra=stack["spectrum"],
        layer_spectra=stack["layer_spectra"],
        sharpness=sum(by_parameter.values()),
        parameter_norms=by_parameter,
        layer_a=np.array(weights) / np.sqrt(stack["x2"]),
        layer_g_unrolled=np.sqrt(stack["delta2"] * stack["x2"]),
        layer_g_shared=np.sqrt(stack["weight2"]),
        directional2=stack["directional2"],
    )


def without_inplace(model: nn.Sequential) -> nn.Sequential:
    model = copy.deepcopy(model)
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    return model


def jacobian_rows(function, at: Tensor) -> np.ndarray:
    """df/d(at), one backward pass an output: (N, size)."""
    at = at.detach().clone().requires_grad_()
    outputs = function(at)[0]
    rows = []
    for k in range(len(outputs)):
        (row,) = torch.autograd.grad(outputs[k], at, retain_graph=True)
        rows.append(row.reshape(-1).numpy())
    return np.stack(rows)


def dense_norm(model: nn.Sequential, place: int, x: Tensor) -> float:
    """Largest singular value of a layer's dense matrix, unrolled over its whole input."""
    layer_input = model[:place](x).detach()
    jacobian = torch.autograd.functional.jacobian(lambda v: model[place](v), layer_input)
    matrix = jacobian.reshape(-1, layer_input.numel()).numpy()
    return float(np.linalg.svd(matrix, compute_uv=False)[0])


def _one_point(model, places, xi, output_map) -> dict:
    full = jacobian_rows(lambda v: output_map(model(v)), xi)
    by_parameter = dict.fromkeys(dict(model.named_parameters()), 0.0)
    outputs = output_map(model(xi))[0]
    for k in range(len(outputs)):
        gradients = torch.autograd.grad(outputs[k], list(model.parameters()), retain_graph=True)
        for name, gradient in zip(by_parameter, gradients, strict=True):
            by_parameter[name] += float(gradient.square().sum())
    layer_spectra, x2, delta2, weight2 = [], [], [], []
    for i in places:
        layer_input = model[:i](xi).detach()
        rest = jacobian_rows(lambda v, i=i: output_map(model[i:](v)), layer_input)
        after = jacobian_rows(
            lambda v, i=i: output_map(model[i + 1 :](v) if i + 1 < len(model) else v),
            model[i](layer_input),
        )
        layer_spectra.append(_spectrum(rest))
        x2.append(float(layer_input.square().sum()))
        delta2.append(float(np.square(after).sum()))
        weight2.append(by_parameter[f"{i}.weight"])
    return {
        "spectrum": _spectrum(full),
        "layer_spectra": np.stack(layer_spectra),
        "x2": np.array(x2),
        "delta2": np.array(delta2),
        "weight2": np.array(weight2),
        "directional2": np.square(full @ xi.reshape(-1).numpy()).sum(),
        "by_parameter": by_parameter,
    }


def _spectrum(jacobian: np.ndarray) -> np.ndarray:
    values = np.linalg.svd(jacobian, compute_uv=False)
    return np.pad(values, (0, len(jacobian) - len(values)))
