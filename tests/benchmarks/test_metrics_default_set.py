"""The default set on 100 images against loops; adaptive sharpness against one image at a time."""

import itertools
from time import perf_counter

import numpy as np
import pytest
import torch
from torch import nn

from flatscale.metrics import measure
from tests.oracles.float32_loops import float32_loops
from tests.oracles.networks import small_vgg11

POINTS = 100


def trained(model, x, y, steps):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module", params=["vgg11", "mlp"])
def problem(request):
    torch.manual_seed(0)
    x, y = torch.rand(POINTS, 3, 32, 32), torch.randint(0, 10, (POINTS,))
    if request.param == "vgg11":
        model = small_vgg11()
    else:
        widths = [3072, 500, 500, 500]
        hidden = [(nn.Linear(a, b), nn.Tanh()) for a, b in itertools.pairwise(widths)]
        model = nn.Sequential(
            nn.Flatten(), *[m for pair in hidden for m in pair], nn.Linear(500, 10)
        )
    return request.param, trained(model, x, y, 20), x, y


def looped_rises(model, x, y, draws, rho=0.1):
    rises = np.empty((len(x), draws))
    saved = [p.detach().clone() for p in model.parameters()]
    hot = nn.functional.one_hot(y, 10)
    with torch.no_grad():
        for i in range(len(x)):
            base = 0.5 * (model(x[i : i + 1]) - hot[i]).square().sum()
            for k in range(draws):
                for p, s in zip(model.parameters(), saved, strict=True):
                    p.copy_(s + rho * s.abs() * torch.randn_like(s))
                moved = 0.5 * (model(x[i : i + 1]) - hot[i]).square().sum()
                rises[i, k] = (moved - base).item()
            for p, s in zip(model.parameters(), saved, strict=True):
                p.copy_(s)
    return rises


LOOPED = 3
DRAWS = 100


@pytest.mark.benchmark(group="default set, 100 images, against loops")
def test_default_set_against_loops(benchmark, problem):
    """Loops: Jacobian quantities output by output, adaptive sharpness image by image.

    Timed on 3 images and scaled to 100; they leave out the layers' operator norms. Their adaptive
    sharpness takes 100 perturbations an image, or as many as reach flatscale's standard error.
    """
    name, model, x, y = problem
    measure(model, (x[:5], y[:5]))
    began = perf_counter()
    float32_loops(model, x[:LOOPED])
    jacobians = (perf_counter() - began) * POINTS / LOOPED
    began = perf_counter()
    looped_rises(model, x[:LOOPED], y[:LOOPED], DRAWS)
    one_draw = (perf_counter() - began) / DRAWS * POINTS / LOOPED
    report = benchmark.pedantic(measure, (model, (x, y)), rounds=5)
    found, took = report["adaptive_sharpness"], benchmark.stats.stats.median
    rises = looped_rises(model, x, y, 10) / 0.1**2
    needed = rises.var(axis=1, ddof=1).sum() / (len(x) * found.std_error) ** 2
    rows = {
        f"loops, {DRAWS} unpaired perturbations an image": jacobians + DRAWS * one_draw,
        f"loops, {needed:.0f} unpaired perturbations an image (same standard error)": (
            jacobians + needed * one_draw
        ),
    }
    relative = found.std_error / abs(found.value)
    print(f"\n{name}: flatscale {took:.3f} s (adaptive sharpness to {relative:.1%})")
    for what, seconds in rows.items():
        print(f"  {what}: {seconds:.1f} s, {seconds / took:.0f} times as long")
        benchmark.extra_info[what] = f"{seconds / took:.0f} times"
    benchmark.extra_info["network"] = name


@pytest.mark.benchmark(group="adaptive sharpness to 5%: evaluations per point")
def test_evaluations_of_adaptive_sharpness(benchmark, problem):
    name, model, x, y = problem
    found = benchmark.pedantic(measure, (model, (x, y), ["adaptive_sharpness"]), rounds=1)
    found = found["adaptive_sharpness"]
    rises = looped_rises(model, x, y, 10) / 0.1**2
    deviation = np.sqrt(rises.var(axis=1, ddof=1).sum()) / len(x)
    reached = found.std_error
    single = (deviation / reached) ** 2
    benchmark.extra_info["flatscale"] = found.num_evaluations
    benchmark.extra_info["one image at a time"] = single
    print(
        f"\n{name}: {found.num_evaluations} evaluations a point for {found.value:.4g} +- "
        f"{reached:.2g} (converged: {found.converged}); one image at a time needs {single:.0f} "
        f"for the same standard error; loops give {rises.mean():.4g}"
    )
