"""Ascent metrics: closed forms on quadratics, SAM's one step, the best value kept."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from flatscale.metrics import LocalObserver, measure, measure_observers
from flatscale.metrics.passes.curvature.loss_surface import loss_gradient
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


class Recorded(LocalObserver):
    """Keeps every shift the ascent asks for, with the mean loss and gradient it is told."""

    visits: list

    def total(self, function, /, **arguments):
        found = super().total(function, **arguments)
        if function is loss_gradient:
            loss, gradient = found["loss"] / self.num_points, found["gradient"] / self.num_points
            self.visits.append((arguments["shift"], float(loss), gradient))
        return found


REGIONS = {
    "ball": ("worst_case_sharpness", {"rho": 2.0, "num_steps": 8}),
    "ellipsoid": ("worst_case_sharpness", {"rho": 2.0, "adaptive": True, "num_steps": 5}),
    "box": ("keskar_sharpness", {"epsilon": 0.2, "num_steps": 5}),
}


def wavy(outputs, targets):
    """A loss with many maxima, which steps overshoot."""
    return (1.0 - torch.cos(2.0 * outputs)).sum(dim=1)


@pytest.fixture(params=REGIONS)
def ascent(request):
    """One start, and so many steps that the last one falls."""
    name, settings = REGIONS[request.param]
    model, x, y = case("mlp", num_points=8)
    probe = Recorded(model, x, y, loss=wavy)
    probe.visits = []
    restarts = {"num_restarts": 1} if name == "worst_case_sharpness" else {}
    options = {name: {**settings, **restarts}}
    found = measure_observers({"probe": probe}, [name], options=options)[name]
    theta = np.concatenate([p.detach().double().numpy().ravel() for p in model.parameters()])
    return request.param, theta, probe.visits, found


def in_region(kind, theta, shift):
    """The shift in units of the region: its largest extent is 1."""
    if kind == "box":
        return np.abs(shift / (0.2 * (np.abs(theta) + 1))).max()
    return np.linalg.norm(shift if kind == "ball" else shift / np.abs(theta)) / 2.0


def test_the_region_is_respected_and_reached(ascent):
    kind, theta, visits, _ = ascent
    extents = [in_region(kind, theta, shift) for shift, _, _ in visits]
    assert extents[0] == 0.0
    assert max(extents) == pytest.approx(1.0, abs=1e-9)


def test_a_step_starts_from_the_best_place_and_halves_after_a_fall(ascent):
    kind, theta, visits, _ = ascent
    scale = {"ball": 1.0, "ellipsoid": np.abs(theta), "box": 0.2 * (np.abs(theta) + 1)}[kind]
    best, step, falls = 0, 1.0, 0
    for k in range(1, len(visits)):
        shift, _, gradient = visits[best]
        along = gradient * scale
        direction = np.sign(along) if kind == "box" else 2.0 * along / np.linalg.norm(along)
        wanted = shift / scale + step * direction
        if kind == "box":
            wanted = np.clip(wanted, -1, 1)
        else:
            wanted *= min(1.0, 2.0 / np.linalg.norm(wanted))
        np.testing.assert_allclose(visits[k][0], wanted * scale, rtol=1e-9, atol=1e-12)
        if visits[k][1] > visits[best][1]:
            best = k
        else:
            step, falls = step / 2, falls + 1
    assert falls >= 1


def test_the_best_value_is_kept_not_the_last(ascent):
    kind, _, visits, found = ascent
    losses = [loss for _, loss, _ in visits]
    highest = max(losses) - losses[0]
    assert losses[-1] < max(losses)
    if kind == "box":
        highest = 100 * highest / (1 + losses[0])
    assert found.value == pytest.approx(highest, rel=1e-9)
    assert found.extras["one_step"][0] == pytest.approx(losses[1] - losses[0], rel=1e-9)
    assert max(losses) >= losses[1]


def test_restarts_only_raise_the_value_and_start_on_the_surface():
    model, x, y = case("mlp", num_points=8)
    probe = Recorded(model, x, y)
    probe.visits = []
    values = []
    for restarts in (1, 4):
        options = {"worst_case_sharpness": {"rho": 2.0, "num_restarts": restarts, "num_steps": 3}}
        found = measure_observers({"probe": probe}, ["worst_case_sharpness"], options=options)
        values.append(found["worst_case_sharpness"].value)
    assert values[1] >= values[0]
    starts = [probe.visits[4 + 4 * k][0] for k in range(1, 4)]
    assert [np.linalg.norm(s) for s in starts] == pytest.approx([2.0] * 3)


def test_places_where_the_loss_is_not_finite_are_counted():
    model, x, y = case("mlp", num_points=8)
    edge = half_squared(model.eval()(x), y).mean().item() + 0.5

    def loss(outputs, targets):
        losses = half_squared(outputs, targets)
        return torch.where(losses.mean() > edge, torch.inf, losses)

    found = measure(
        model,
        (x, y),
        ["worst_case_sharpness"],
        loss=loss,
        options={"worst_case_sharpness": {"rho": 2}},
    )["worst_case_sharpness"]
    assert "the loss was not finite at" in found.reason
    assert 0 <= found.value <= 0.5


@pytest.mark.parametrize(("n", "delta", "rho"), [(7, 0.1, 0.2), (5000, 0.01, 1.0)])
def test_pac_bayes_bound_is_its_formula(n, delta, rho):
    """Three weights 3, 4, 12 (k = 3, ||w||^2 = 169) and a loss of the weights that is known."""
    model = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, 4.0, 12.0]]))
    x, y = torch.tensor([[0.6, 0.8, 0.0]] * 4), torch.zeros(4, 1)
    settings = {"rho": rho, "delta": delta, "num_train_points": n, "num_steps": 1}
    found = measure(
        model,
        (x, y),
        ["pac_bayes_bound"],
        options={"pac_bayes_bound": settings},
        loss=lambda f, t: f[:, 0] + 1.0,
    )["pac_bayes_bound"]
    worst = 0.6 * 3 + 0.8 * 4 + 1.0 + rho  # a linear loss with a unit gradient
    k = 3
    inside = k * math.log(1 + 169 / rho**2 * (1 + math.sqrt(math.log(n) / k)) ** 2)
    inside += 4 * math.log(n / delta) + 8 * math.log(6 * n + 3 * k)
    slack = math.sqrt(inside / (n - 1))
    assert found.extras["complexity"][0] == pytest.approx(slack, rel=1e-9)
    assert found.value == pytest.approx(worst + slack, rel=1e-6)


def test_pac_bayes_bound_says_where_n_comes_from():
    model, x, y = case("mlp", num_points=12)
    default = measure(model, (x, y), ["pac_bayes_bound"])["pac_bayes_bound"]
    assert "n = 12 is the probe set's size: no training set was given" in default.reason
    given = measure(model, (x, y), ["pac_bayes_bound"], train=(x[:9], y[:9]))["pac_bayes_bound"]
    assert given.reason is None
    assert given.value > default.value
    x[2, 0] = torch.nan
    fewer = measure(model, (x, y), ["pac_bayes_bound"])["pac_bayes_bound"]
    assert "n = 11 is the probe set's size" in fewer.reason
    assert fewer.num_points == 11
