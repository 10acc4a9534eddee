"""Ascent metrics: closed forms on quadratics, SAM's one step, the best value kept."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from flatscale.metrics import LocalObserver, measure
from flatscale.metrics.ascent import _ascend
from flatscale.metrics.theta import loss_surface
from tests.oracles.dense_hessian import dense_hessian, half_squared
from tests.oracles.networks import case


def at_minimum():
    """A Linear layer at the minimum of its quadratic loss: the worst rise is rho^2 lambda / 2."""
    torch.manual_seed(0)
    x, y = torch.randn(30, 3), torch.randint(0, 2, (30,))
    design = torch.cat([x, torch.ones(30, 1)], dim=1).double()
    solution = torch.linalg.lstsq(design, nn.functional.one_hot(y, 2).double()).solution
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight.copy_(solution[:3].T)
        model.bias.copy_(solution[3])
    return model, x, y


def test_worst_rise_of_a_quadratic_is_half_rho_squared_lambda():
    model, x, y = at_minimum()
    top = np.linalg.eigvalsh(dense_hessian(model, x, y))[-1]
    options = {"worst_case_sharpness": {"rho": 0.5, "num_steps": 40, "num_restarts": 4}}
    found = measure(model, (x, y), ["worst_case_sharpness"], options=options)[
        "worst_case_sharpness"
    ]
    assert found.value == pytest.approx(0.5 * 0.5**2 * top, rel=0.01)


def test_one_step_is_sam():
    model, x, y = case("mlp", num_points=12)
    loss = half_squared(model(x), y).mean()
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    norm = torch.sqrt(sum(g.square().sum() for g in gradients))
    moved = {
        name: p.detach() + 0.1 * g / norm
        for (name, p), g in zip(model.named_parameters(), gradients, strict=True)
    }
    expected = half_squared(torch.func.functional_call(model, moved, (x,)), y).mean() - loss
    options = {"worst_case_sharpness": {"rho": 0.1, "num_steps": 1, "num_restarts": 1}}
    found = measure(model, (x, y), ["worst_case_sharpness"], options=options)[
        "worst_case_sharpness"
    ]
    assert found.value == pytest.approx(expected.item(), rel=1e-4)
    assert found.extras["one_step"][0] == pytest.approx(expected.item(), rel=1e-4)
    longer = measure(
        model, (x, y), ["worst_case_sharpness"], options={"worst_case_sharpness": {"rho": 0.1}}
    )
    assert longer["worst_case_sharpness"].value >= found.value


def test_one_adaptive_step_is_asam():
    model, x, y = case("mlp", num_points=12)
    loss = half_squared(model(x), y).mean()
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss, parameters)
    scaled = [p.detach().abs() * g for p, g in zip(parameters, gradients, strict=True)]
    norm = torch.sqrt(sum(s.square().sum() for s in scaled))
    moved = {
        name: p.detach() + 0.1 * p.detach().abs() * s / norm
        for (name, p), s in zip(model.named_parameters(), scaled, strict=True)
    }
    expected = half_squared(torch.func.functional_call(model, moved, (x,)), y).mean() - loss
    settings = {"rho": 0.1, "num_steps": 1, "num_restarts": 1, "adaptive": True}
    found = measure(
        model, (x, y), ["worst_case_sharpness"], options={"worst_case_sharpness": settings}
    )
    assert found["worst_case_sharpness"].value == pytest.approx(expected.item(), rel=1e-4)


def test_keskar_one_step_is_the_corner_the_gradient_points_to():
    model, x, y = case("mlp", num_points=12)
    loss = half_squared(model(x), y).mean()
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    moved = {
        name: p.detach() + 1e-3 * (p.detach().abs() + 1) * g.sign()
        for (name, p), g in zip(model.named_parameters(), gradients, strict=True)
    }
    worst = half_squared(torch.func.functional_call(model, moved, (x,)), y).mean()
    expected = 100 * (worst - loss) / (1 + loss)
    found = measure(
        model, (x, y), ["keskar_sharpness"], options={"keskar_sharpness": {"num_steps": 1}}
    )
    assert found["keskar_sharpness"].value == pytest.approx(expected.item(), rel=1e-3)


def test_the_region_is_respected_and_the_best_value_is_kept():
    model, x, y = case("mlp", num_points=8)
    surface = loss_surface(LocalObserver(model, x, y))
    seen = []

    class Watched:
        def gradient(self, shift):
            loss, gradient = surface.gradient(shift)
            seen.append((np.linalg.norm(shift), loss))
            return loss, gradient

    def project(u):
        return u * min(1.0, 0.3 / max(np.linalg.norm(u), 1e-300))

    zero = np.zeros_like(surface.theta)
    # a step that overshoots: the ascent must go on from the best point, and keep its value
    losses = _ascend(Watched(), zero, np.ones_like(zero), project, lambda g: -g * 50, 6)
    assert losses == [loss for _, loss in seen]
    assert max(norm for norm, _ in seen) <= 0.3 * (1 + 1e-6)
    options = {"worst_case_sharpness": {"rho": 0.3, "num_steps": 6}}
    found = measure(model, (x, y), ["worst_case_sharpness"], options=options)[
        "worst_case_sharpness"
    ]
    assert found.value >= found.extras["one_step"][0] > 0


def test_pac_bayes_bound_is_its_formula():
    model, x, y = case("mlp", num_points=12)
    names = ["pac_bayes_bound", "worst_case_sharpness"]
    shared = {"rho": 0.2, "num_steps": 3}
    options = {
        "pac_bayes_bound": {**shared, "num_train_points": 5000, "delta": 0.1},
        "worst_case_sharpness": shared,
    }
    report = measure(model, (x, y), names, options=options)
    k = sum(p.numel() for p in model.parameters())
    w2 = sum(p.detach().square().sum().item() for p in model.parameters())
    n, rise = 5000, report["worst_case_sharpness"]
    inside = k * math.log(1 + w2 / 0.04 * (1 + math.sqrt(math.log(n) / k)) ** 2)
    inside += 4 * math.log(n / 0.1) + 8 * math.log(6 * n + 3 * k)
    worst = rise.value + rise.extras["loss"][0]
    expected = worst + math.sqrt(inside / (n - 1))
    assert report["pac_bayes_bound"].value == pytest.approx(expected, rel=1e-3)
    default = measure(model, (x, y), ["pac_bayes_bound"])["pac_bayes_bound"]
    assert "no training set was given" in default.reason
    with_train = measure(model, (x, y), ["pac_bayes_bound"], train=(x, y))["pac_bayes_bound"]
    assert with_train.reason is None
