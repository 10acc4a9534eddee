"""Deep linear networks f = W_3 W_2 W_1 x, where every quantity has a closed form."""

import numpy as np
import pytest
import torch
from torch import nn

from flatscale.metrics import measure

POINTS, RHO = 6, 0.1


@pytest.fixture(scope="module")
def linear():
    """The network, its points, and W_1, W_2, W_3, x, t in float64."""
    torch.manual_seed(1)
    model = nn.Sequential(*[nn.Linear(a, b, bias=False) for a, b in ((5, 6), (6, 7), (7, 3))])
    with torch.no_grad():
        for layer in model:
            layer.weight.mul_(2.0)
    x, y = torch.randn(POINTS, 5), torch.randint(0, 3, (POINTS,))
    weights = [layer.weight.detach().double().numpy() for layer in model]
    return model, x, y, weights, x.double().numpy(), np.eye(3)[y.numpy()]


def value(linear, name, **settings):
    model, x, y, *_ = linear
    return measure(model, (x, y), [name], **settings)[name]


def singular(matrix):
    return np.linalg.svd(matrix, compute_uv=False)


def norm2(rows):
    return np.square(rows).sum(axis=-1)


def test_compression(linear):
    _, _, _, (w1, w2, w3), x, _ = linear
    after = [w3 @ w2 @ w1, w3 @ w2, w3]
    sigma = singular(after[0])
    volumes = [np.log(singular(m)).sum() for m in after]
    expected = {
        "mls": sigma[0],
        "nmls": sum(singular(m)[0] for m in after),
        "log_lvr": volumes[0],
        "log_nvr": np.log(np.exp(volumes).sum()),
        "local_dimensionality": (sigma**2).sum() ** 2 / (sigma**4).sum(),
        "input_gradient": (sigma**2).sum(),
        "normalized_mls": sigma[0] ** 2 * norm2(x).mean(),
        "input_invariant_mls": norm2(x @ after[0].T).mean() / 5,
    }
    for name, number in expected.items():
        assert value(linear, name).value == pytest.approx(number, rel=1e-4), name
    steep = {"finite_mls": {"num_steps": 60}}
    assert value(linear, "finite_mls", options=steep).value == pytest.approx(sigma[0], rel=1e-3)
    nmls = value(linear, "nmls").layers
    assert list(nmls.values()) == pytest.approx([singular(m)[0] for m in after], rel=1e-4)
    nvr = value(linear, "log_nvr").layers
    assert list(nvr.values()) == pytest.approx(volumes, rel=1e-4)


def parts_of_sharpness(weights, x):
    """||delta_l||^2 ||x_l||^2 of each layer, mean over points."""
    w1, w2, w3 = weights
    deltas = [norm2((w3 @ w2).ravel()), norm2(w3.ravel()), 3.0]
    inputs = [x, x @ w1.T, x @ w1.T @ w2.T]
    return [d * norm2(h).mean() for d, h in zip(deltas, inputs, strict=True)]


def test_sharpness_layer_by_layer(linear):
    _, _, _, weights, x, _ = linear
    parts = parts_of_sharpness(weights, x)
    found = value(linear, "sharpness")
    assert found.value == pytest.approx(sum(parts), rel=1e-5)
    assert found.layers == pytest.approx(
        dict(zip(["0.weight", "1.weight", "2.weight"], parts, strict=True)), rel=1e-5
    )


@pytest.mark.parametrize(("loss", "factor"), [("half_squared_error", 1.0), ("squared_error", 2.0)])
def test_hessian_trace_and_mean_eigenvalue_are_the_sharpness(linear, loss, factor):
    """f is linear in each layer, so the residuals' curvature has no trace."""
    _, _, _, weights, x, _ = linear
    sharpness = factor * sum(parts_of_sharpness(weights, x))
    size = sum(w.size for w in weights)
    many = {"max_relative_error": 0.01, "max_products": 4000}
    trace = value(linear, "hessian_trace", loss=loss, options={"hessian_trace": many})
    assert abs(trace.value - sharpness) <= 4 * trace.std_error < 0.05 * sharpness
    probes = {"num_probes": 100, "max_probes": 100, "num_steps": 2}
    mean = value(linear, "spectral_density", loss=loss, options={"spectral_density": probes})
    assert abs(mean.value - sharpness / size) <= 4 * mean.std_error < 0.5 * sharpness / size


@pytest.mark.parametrize("place", [0, 1, 2])
def test_relative_flatness_of_every_layer(linear, place):
    _, _, _, weights, x, _ = linear
    before, after = np.eye(5), np.eye(3)
    for w in weights[:place]:
        before = w @ before
    for w in weights[place:][::-1]:
        after = after @ w
    expected = norm2(x @ before.T).mean() * norm2(after.ravel())
    options = {"relative_flatness": {"layer": str(place)}}
    found = value(linear, "relative_flatness", options=options)
    assert found.value == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["adaptive_sharpness", "average_sharpness"])
def test_random_sharpness_from_second_moments(linear, name):
    """E h h^T through a layer: W M W^T + rho^2 diag(s(W)^2 diag M), W_l perturbed independently."""
    _, _, _, weights, x, _ = linear
    adaptive = name == "adaptive_sharpness"
    rise = 0.0
    for point in x:
        moment = mean = np.outer(point, point)
        for w in weights:
            scale = w**2 if adaptive else np.ones_like(w)
            moment = w @ moment @ w.T + RHO**2 * np.diag(scale @ np.diag(moment))
            mean = w @ mean @ w.T
        rise += 0.5 * (np.trace(moment) - np.trace(mean)) / RHO**2 / POINTS
    options = {name: {"rho": RHO, "max_relative_error": 0.03, "max_evaluations": 4000}}
    found = value(linear, name, options=options)
    assert found.converged
    assert abs(found.value - rise) <= 4 * found.std_error


def test_bounds(linear):
    _, _, _, weights, x, _ = linear
    w1, w2, w3 = weights
    sharpness = sum(parts_of_sharpness(weights, x))
    norms = [singular(w)[0] for w in weights]
    inputs = [norm2(h) for h in (x, x @ w1.T, x @ w1.T @ w2.T)]
    squares = [n**2 / h for n, h in zip(norms, inputs, strict=True)]
    gradient = np.linalg.norm(w3 @ w2)
    root = np.sqrt(squares[0].mean())
    volume = 1.5 * np.log(POINTS * sharpness / 3) - np.log(POINTS)
    first = np.square(w3 @ w2).sum(axis=0) @ np.square(w1) @ np.square(x).mean(axis=0)
    expected = {
        "bound_a": singular(w3 @ w2 @ w1)[0],
        "bound_b": norms[0] * gradient,
        "bound_c": root * gradient * np.sqrt(inputs[0].mean()),
        "bound_d": root * np.sqrt(sharpness),
        "nmls_bound": np.sqrt(sum(squares).mean() * sharpness),
        "lvr_bound": 0.5 * np.log((squares[0] ** 3).sum()) + volume,
        "nvr_bound": 0.5 * np.log(sum(s**3 for s in squares).sum()) + volume,
        "input_invariant_bound": 6 * first,
    }
    for name, number in expected.items():
        assert value(linear, name).value == pytest.approx(number, rel=1e-4), name


def test_one_layer_has_the_eigenvalues_of_its_inputs_second_moment():
    torch.manual_seed(3)
    model, x, y = nn.Linear(12, 4, bias=False), torch.randn(40, 12), torch.randint(0, 4, (40,))
    values = np.linalg.eigvalsh((x.T @ x / 40).double().numpy())
    names = ["top_eigenvalue", "bottom_eigenvalue", "eigenvalue_ratio"]
    report = measure(model, (x, y), names)
    assert report["top_eigenvalue"].value == pytest.approx(values[-1], rel=1e-3)
    assert report["bottom_eigenvalue"].value == pytest.approx(values[0], rel=5e-3)
    assert report["eigenvalue_ratio"].value == pytest.approx(values[0] / values[-1], rel=6e-3)
    softer = measure(model, (x, y), names, loss="squared_error")
    assert softer["top_eigenvalue"].value == pytest.approx(2 * values[-1], rel=1e-3)
