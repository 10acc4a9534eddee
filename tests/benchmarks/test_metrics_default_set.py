"""The default set on 100 CIFAR-10 images against loops; adaptive sharpness, one image at a time.

The loops are what one writes first: a forward and a backward pass per image, logit and thing
differentiated, and perturbations of one image at a time. They are timed on some of the images and
scaled; they leave out the layers' operator norms.
"""

import itertools
from time import perf_counter

import numpy as np
import pytest
import torch
from torch import nn

from flatscale.data import load_dataset
from flatscale.metrics import measure
from flatscale.study.schema import DataConfig
from tests.oracles.float32_loops import float32_loops
from tests.oracles.loops import loops
from tests.oracles.networks import small_vgg11

POINTS = 100
LOOPED = 4
PERTURBED = 40
DRAWS = 25
RHO = 0.1
SETTINGS = {
    "identity, half_squared_error": ("identity", "half_squared_error"),
    "sigmoid, squared_error": ("sigmoid", "squared_error"),
}


def one_hot(y):
    return nn.functional.one_hot(y, 10).float()


def loss_of(outputs, y, setting):
    output_map, loss = SETTINGS[setting]
    mapped = outputs.sigmoid() if output_map == "sigmoid" else outputs
    squares = (mapped - one_hot(y)).square().sum(dim=1)
    return squares if loss == "squared_error" else 0.5 * squares


def small_mlp():
    widths = [3072, 500, 500, 500]
    hidden = [(nn.Linear(a, b), nn.Tanh()) for a, b in itertools.pairwise(widths)]
    return nn.Sequential(nn.Flatten(), *[m for pair in hidden for m in pair], nn.Linear(500, 10))


def trained(model, x, y, stop_loss, most_steps):
    """Trained by gradient descent on all images at once, until the mean loss is small enough."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    while len(losses) < most_steps and (not losses or losses[-1] > stop_loss):
        optimizer.zero_grad()
        loss = loss_of(model(x), y, "identity, half_squared_error").mean()
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
    return model.eval(), f"loss {losses[-1]:.2g} after {len(losses)} steps"


NETWORKS = {
    "VGG-11, interpolating": (small_vgg11, 0.01, 2000),
    "VGG-11, half trained": (small_vgg11, 0.25, 2000),
    "MLP, interpolating": (small_mlp, 0.01, 2000),
}


@pytest.fixture(scope="module")
def images(cifar10_folder):
    config = DataConfig(source="parquet", path=str(cifar10_folder), train_size=POINTS, test_size=10)
    dataset = load_dataset(config, seed=0)
    return torch.tensor(dataset.x_train), torch.tensor(dataset.y_train).long()


@pytest.fixture(scope="module", params=NETWORKS)
def problem(request, images):
    make, stop_loss, most_steps = NETWORKS[request.param]
    torch.manual_seed(0)
    model, state = trained(make(), *images, stop_loss, most_steps)
    print(f"\n{request.param}: {state}")
    return request.param, model, *images


def looped_rises(model, x, y, draws, setting):
    """Rises of the loss (n, draws) under unpaired and under antithetic perturbations, per rho^2."""
    plus, minus = np.empty((len(x), draws)), np.empty((len(x), draws))
    saved = [p.detach().clone() for p in model.parameters()]
    with torch.no_grad():
        for i, (xi, yi) in enumerate(zip(x.split(1), y.split(1), strict=True)):
            base = loss_of(model(xi), yi, setting).item()
            for k in range(draws):
                steps = [RHO * s.abs() * torch.randn_like(s) for s in saved]
                for rises, sign in ((plus, 1), (minus, -1)):
                    for p, s, step in zip(model.parameters(), saved, steps, strict=True):
                        p.copy_(s + sign * step)
                    rises[i, k] = loss_of(model(xi), yi, setting).item() - base
            for p, s in zip(model.parameters(), saved, strict=True):
                p.copy_(s)
    return plus / RHO**2, (plus + minus) / 2 / RHO**2


def evaluations_needed(rises, std_error, per_draw):
    """Evaluations a point that independent perturbations of each need for this standard error."""
    variance = rises.var(axis=1, ddof=1).mean() / POINTS
    return per_draw * variance / std_error**2


def seconds(function, *args):
    began = perf_counter()
    result = function(*args)
    return result, perf_counter() - began


@pytest.mark.benchmark(group="default set, 100 CIFAR-10 images, against loops")
def test_default_set_against_loops(benchmark, problem):
    name, model, x, y = problem
    setting = "identity, half_squared_error"
    measure(model, (x[:5], y[:5]))
    _, float32 = seconds(float32_loops, model, x[:LOOPED])
    few = x[:PERTURBED], y[:PERTURBED]
    (plain, _), perturbed = seconds(looped_rises, model, *few, DRAWS, setting)
    report = benchmark.pedantic(measure, (model, (x, y)), rounds=5)
    _, float64 = seconds(lambda: loops(model, x[:LOOPED], norms=False))
    found, took = report["adaptive_sharpness"], benchmark.stats.stats.median
    needed = evaluations_needed(plain, found.std_error, 1)
    one_each = perturbed / (2 * DRAWS) * POINTS / PERTURBED
    print(f"\n{name}: {took:.3f} s; adaptive sharpness to {found.std_error / found.value:.1%}")
    for kind, jacobians in (("float32", float32), ("float64 (the oracle)", float64)):
        for count, why in ((50, ""), (100, ""), (200, ""), (needed, ", the same standard error")):
            ratio = (jacobians * POINTS / LOOPED + count * one_each) / took
            what = f"{kind} Jacobians, {count:.0f} perturbations an image{why}"
            print(f"  loops, {what}: {ratio:.0f} times as long")
            benchmark.extra_info[what] = f"{ratio:.0f}"
    benchmark.extra_info["network"] = name


@pytest.mark.benchmark(group="adaptive sharpness to 5%: evaluations per point")
@pytest.mark.parametrize("setting", SETTINGS)
def test_evaluations_of_adaptive_sharpness(benchmark, problem, setting):
    name, model, x, y = problem
    output_map, loss = SETTINGS[setting]
    call = {"output_map": output_map, "loss": loss}
    found = benchmark.pedantic(measure, (model, (x, y), ["adaptive_sharpness"]), call, rounds=1)
    found = found["adaptive_sharpness"]
    few = x[:PERTURBED], y[:PERTURBED]
    plain, paired = looped_rises(model, *few, DRAWS, setting)
    same = measure(model, few, ["adaptive_sharpness"], **call)["adaptive_sharpness"]
    needed = evaluations_needed(plain, found.std_error, 1)
    with_pairs = evaluations_needed(paired, found.std_error, 2)
    error = np.sqrt(paired.var(axis=1, ddof=1).mean() / PERTURBED / DRAWS)
    print(
        f"\n{name}; {setting}: {found.value:.4g} +- {found.std_error:.2g} (converged: "
        f"{found.converged}) with {found.num_evaluations} evaluations a point; one image at a time "
        f"needs {needed:.0f} ({needed / found.num_evaluations:.1f} times), {with_pairs:.0f} in "
        f"antithetic pairs; on the first {PERTURBED} images"
        f" loops give {paired.mean():.4g} +- {error:.2g}, flatscale {same.value:.4g}"
    )
    benchmark.extra_info["network"] = f"{name}; {setting}"
    benchmark.extra_info["evaluations"] = found.num_evaluations
    benchmark.extra_info["one image at a time"] = round(needed)
    assert abs(same.value - paired.mean()) < 5 * np.hypot(error, same.std_error)
