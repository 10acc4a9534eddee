"""FGSM and PGD: closed forms on linear networks, a second implementation on others."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from flatscale.errors import ConfigError
from flatscale.metrics import make_shard, measure
from flatscale.metrics.passes.attacks import Attack, _start
from tests.oracles.networks import mlp

NAMES = ["fgsm_loss", "fgsm_accuracy", "pgd_loss", "pgd_accuracy"]
RADIUS = 0.3


def points(n=40, d=6, classes=2, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(n, d, generator=rng), torch.randint(classes, (n,), generator=rng)


def attacked(model, x, y, *, loss="cross_entropy", steps=10, restarts=1, **options):
    pgd = {**options, "num_steps": steps, "num_restarts": restarts}
    chosen = {"fgsm": options, "pgd": pgd}
    return measure(model, (x, y), NAMES, loss=loss, options=chosen, test=(x, y))


def worst_margins(model, x, y, norm, low=None, high=None):
    """min over the ball (and the box) of f_y − f_other for a linear network of two classes."""
    w = (model.weight[y] - model.weight[1 - y]).detach()
    margins = (w * x).sum(1) + (model.bias[y] - model.bias[1 - y]).detach()
    if norm == "l2":
        return margins - RADIUS * w.norm(dim=1)
    away = -RADIUS * w.sign()
    if low is not None:
        away = (x + away).clamp(low, high) - x
    return margins + (w * away).sum(1)


@pytest.mark.parametrize(("norm", "low"), [("linf", None), ("l2", None), ("linf", 0.0)])
def test_linear_networks_of_two_classes_have_a_closed_form(norm, low):
    torch.manual_seed(0)
    model, (x, y) = nn.Linear(6, 2), points()
    box = {} if low is None else {"low": 0.0, "high": 1.0}
    found = attacked(model, x, y, norm=norm, radius=RADIUS, **box)
    margins = worst_margins(model, x, y, norm, *box.values())
    losses = nn.functional.softplus(-margins)
    for name in ("fgsm_loss", "pgd_loss"):
        assert found[name].value == pytest.approx(float(losses.mean()), rel=1e-5)
        error = float(losses.std()) / math.sqrt(len(x))
        assert found[name].std_error == pytest.approx(error, rel=1e-4)
    for name in ("fgsm_accuracy", "pgd_accuracy"):
        assert found[name].value == pytest.approx(float((margins > 0).double().mean()), abs=1e-12)
    assert 0 < found["pgd_accuracy"].value < 1


def test_the_margin_loss_falls_by_radius_times_the_dual_norm():
    torch.manual_seed(1)
    model, (x, y) = nn.Linear(6, 2), points()

    def loss(outputs, targets):
        rows = torch.arange(len(targets))
        return outputs[rows, 1 - targets] - outputs[rows, targets]

    for norm in ("linf", "l2"):
        found = attacked(model, x, y, loss=loss, norm=norm, radius=RADIUS)
        expected = float(-worst_margins(model, x, y, norm).mean())
        assert found["fgsm_loss"].value == pytest.approx(expected, rel=1e-5)
        assert found["pgd_loss"].value == pytest.approx(expected, rel=1e-5)


def one_point(model, x, y, norm, radius, steps, step, low, high):
    """Projected ascent of one point, plainly: losses and hits of every place looked at."""
    moved, looked = x.clone(), []
    for k in range(steps + 1):
        z = moved.clone().requires_grad_(True)
        out = model(z[None])
        loss = nn.functional.cross_entropy(out, y[None])
        looked.append((loss.item(), bool(out.argmax() == y)))
        if k == steps:
            return looked
        (g,) = torch.autograd.grad(loss, z)
        moved = moved + step * (torch.sign(g) if norm == "linf" else g / torch.linalg.norm(g))
        if norm == "linf":
            moved = torch.minimum(torch.maximum(moved, x - radius), x + radius)
        elif torch.linalg.norm(moved - x) > radius:
            moved = x + (moved - x) * radius / torch.linalg.norm(moved - x)
        moved = moved.clip(low, high)
    return looked


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_second_implementation_finds_the_same(norm):
    torch.manual_seed(2)
    model, (x, y) = mlp(6).eval(), points(12, 6, classes=4)
    found = attacked(model, x, y, norm=norm, radius=0.4, steps=4, low=0.0, high=1.0)
    looked = [one_point(model, *p, norm, 0.4, 4, 0.25, 0.0, 1.0) for p in zip(x, y, strict=True)]
    worst = [max(loss for loss, _ in places) for places in looked]
    right = [all(hit for _, hit in places) for places in looked]
    assert found["pgd_loss"].value == pytest.approx(np.mean(worst), rel=1e-4)
    assert found["pgd_accuracy"].value == pytest.approx(np.mean(right))
    single = [one_point(model, *p, norm, 0.4, 1, 0.4, 0.0, 1.0) for p in zip(x, y, strict=True)]
    fgsm = np.mean([places[-1][0] for places in single])
    assert found["fgsm_loss"].value == pytest.approx(fgsm, rel=1e-4)
    assert found["fgsm_accuracy"].value == np.mean([places[-1][1] for places in single])


def test_more_looks_find_no_less():
    torch.manual_seed(3)
    model, (x, y) = mlp(6).eval(), points(20, 6, classes=4)
    plain = measure(model, (x, y), ["test_loss"], loss="cross_entropy", test=(x, y))["test_loss"]
    few, more = (attacked(model, x, y, radius=0.5, restarts=k)["pgd_loss"] for k in (1, 4))
    assert plain.value < few.value <= more.value
    assert more.num_evaluations == 4 * few.num_evaluations == 4 * 21


@pytest.mark.parametrize(("norm", "mean_length"), [("linf", None), ("l2", 5 / 6)])
def test_random_starts_are_uniform_in_the_ball_and_of_each_point(norm, mean_length):
    attack = Attack(
        norm=norm, radius=2.0, num_steps=1, step_size=1, num_restarts=2, low=None, high=None,
        keep="worst", seed=4,
    )  # fmt: skip
    x = torch.zeros(4000, 5, dtype=torch.float64)
    drawn = _start(attack, x, np.arange(4000), 1)
    assert torch.equal(_start(attack, x[7:9], np.array([7, 8]), 1), drawn[7:9])
    assert not _start(attack, x, np.arange(4000), 0).any()
    sizes = drawn.norm(dim=1) if norm == "l2" else drawn.abs().amax(dim=1)
    assert float(sizes.max()) <= 2 + 1e-9
    # In d dimensions the length in units of the radius has mean d/(d+1) in either ball.
    assert float(sizes.mean()) / 2 == pytest.approx(mean_length or 5 / 6, abs=0.01)
    assert float(drawn.mean(dim=0).abs().max()) < 0.06


def test_tiny_gradients_are_followed_as_well():
    model = nn.Linear(6, 2)
    with torch.no_grad():
        model.weight.mul_(1e-25)
    (x, y), shard_loss = points(), "half_squared_error"
    assert make_shard(model, x, y, loss=shard_loss).num_points == 40
    found = attacked(model, x, y, norm="l2", radius=RADIUS)
    assert found["pgd_loss"].value is not None
    assert found["fgsm_loss"].value == found["fgsm_loss"].value


def test_what_cannot_be_attacked_says_so():
    (x, y), model = points(), nn.Linear(6, 2)
    found = attacked(model, 2 * x, y, low=0.0, high=1.0)["fgsm_loss"]
    assert "outside the range of the options low and high" in found.reason
    tokens = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(24, 2))
    found = attacked(tokens, (4 * x).long(), y)["pgd_loss"]
    assert "whole numbers" in found.reason
    with pytest.raises(ConfigError, match=r"low must be below high; found 1.0 and"):
        attacked(model, x, y, low=1.0, high=0.0)
