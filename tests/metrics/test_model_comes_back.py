"""The network and everything around it are after a measurement what they were before."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from flatscale.metrics import held_for_measurement, measure, metric, metric_catalog
from flatscale.metrics.registration import METRICS
from tests.metrics.quick import QUICK
from tests.oracles.networks import Residual, case

NAMES = [info.name for info in metric_catalog()]


class Everything(nn.Module):
    """A residual network with what a measurement could disturb."""

    def __init__(self):
        super().__init__()
        self.body = Residual()
        self.normalized = nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))
        self.drop = nn.Dropout(0.5)
        self.also_the_head = self.body.head
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("late", None)
        self.last, self.table_cache, self.steps = None, {}, 0

    def forward(self, x):
        x.sub_(0.5)
        self.steps += 1
        self.calls += 1
        self.late = torch.ones(2)
        if "scale" not in self.table_cache:
            self.table_cache["scale"] = 2.0 * self.body.scale
        self.last = self.drop(self.body(x)) + self.table_cache["scale"].mean()
        self.extra = self.last
        return self.normalized(self.last)


def built():
    torch.manual_seed(0)
    model = Everything().train()
    x, y = torch.rand(4, 3, 6, 6), torch.tensor([0, 1, 2, 0])
    model(x.clone()).square().sum().backward()
    model.body.norm.eval()
    model.body.head.weight.requires_grad_(False)
    model.last, model.table_cache, model.steps = None, {}, 0
    del model.extra
    return model, x, y


def snapshot(model, *tensors):
    """Everything about a model that can be compared with ==, and the global generators."""
    parameters = dict(model.named_parameters())
    return {
        "state": {name: (v.dtype, v.tolist()) for name, v in model.state_dict().items()},
        "buffers": {name: (id(v), v.tolist()) for name, v in model.named_buffers()},
        "storage": {name: (id(p), p.data_ptr()) for name, p in parameters.items()},
        "gradients": {
            name: None if p.grad is None else (id(p.grad), p.grad.tolist())
            for name, p in parameters.items()
        },
        "flags": {name: p.requires_grad for name, p in parameters.items()},
        "modes": {name: m.training for name, m in model.named_modules()},
        "hooks": {
            name: [list(v) for key, v in vars(m).items() if "hooks" in key and v is not None]
            for name, m in model.named_modules()
        },
        "attributes": {
            name: {key: repr(v) for key, v in vars(m).items() if not key.startswith("_")}
            for name, m in model.named_modules()
        },
        "tensor attributes": {
            name: [id(v) for v in vars(m).values() if isinstance(v, torch.Tensor)]
            for name, m in model.named_modules()
        },
        "data": [t.tolist() for t in tensors],
        "torch": torch.get_rng_state().tolist(),
        "numpy": repr(np.random.get_state()),  # noqa: NPY002
        "attention": torch.backends.mha.get_fastpath_enabled(),
        "grad mode": torch.is_grad_enabled(),
    }


def test_everything_is_as_it_was_after_every_metric():
    model, x, y = built()
    calls = []
    model.body.stem.register_forward_hook(lambda *args: calls.append(1))
    before = snapshot(model, x, y)
    report = measure(model, (x, y), NAMES, options=QUICK, train=(x, y), test=(x, y), shifted=(x, y))
    failed = {name: m.reason for name, m in report.items() if m.value is None}
    assert set(failed) == {"reparametrization_check", "input_invariant_bound"}
    assert calls
    after = snapshot(model, x, y)
    for part, value in before.items():
        assert after[part] == value, part


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("place", ["forward", "metric"])
def test_everything_is_as_it_was_after_an_error(error, place):
    model, x, y = built()
    countdown = iter(range(20))

    def interrupt(*args):
        if next(countdown) == 19:
            raise error("enough")

    @metric("breaking", passes=("jacobian",), formula="none", group="compression")
    def breaking(jacobian):
        """Raises."""
        raise error("enough")

    if place == "forward":
        model.body.norm.register_forward_hook(interrupt)
    names = ["mls", *(["breaking"] if place == "metric" else []), *NAMES]
    before = snapshot(model, x, y)
    try:
        if issubclass(error, Exception):
            report = measure(model, (x, y), names, options=QUICK)
            assert sum(m.reason == "RuntimeError: enough" for m in report.values()) >= 1
            assert report["mls"].value is not None
        else:
            with pytest.raises(error):
                measure(model, (x, y), names, options=QUICK)
    finally:
        del METRICS._entries["breaking"]
    after = snapshot(model, x, y)
    for part, value in before.items():
        assert after[part] == value, part


def test_half_precision_weights_and_buffers_come_back():
    model = Residual().bfloat16().train()
    x, y = torch.rand(4, 3, 6, 6).bfloat16(), torch.tensor([0, 1, 2, 0])
    before = snapshot(model, x, y)
    with held_for_measurement(model):
        assert {v.dtype for v in model.state_dict().values()} == {torch.float32, torch.int64}
    measure(model, (x, y), ["mls", "sharpness", "adaptive_sharpness"], options=QUICK)
    assert snapshot(model, x, y) == before


class InDict(nn.Module):
    """Caches what it computed from its weights, as timm's LeViT and TinyViT do in eval mode."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 6))
        self.bias_cache = {}

    def train(self, mode=True):
        if mode:
            self.bias_cache = {}
        return super().train(mode)

    def forward(self, x):
        if self.training:
            return x @ self.weight.T
        if "w" not in self.bias_cache:
            self.bias_cache["w"] = self.weight.T
        return x @ self.bias_cache["w"]


class InAttribute(InDict):
    transposed = None

    def train(self, mode=True):
        if mode and self.transposed is not None:
            del self.transposed
        return super().train(mode)

    def forward(self, x):
        if self.transposed is None:
            self.transposed = self.weight.T
        return x @ self.transposed


class Plain(InDict):
    def forward(self, x):
        return x @ self.weight.T


@pytest.mark.parametrize("kind", [InDict, InAttribute])
@pytest.mark.parametrize("filled", [False, True])
def test_a_cache_of_values_computed_from_weights_does_not_outlive_them(kind, filled):
    torch.manual_seed(0)
    cached, plain = kind(), Plain()
    plain.load_state_dict(cached.state_dict())
    x, y = torch.rand(5, 6), torch.tensor([0, 1, 2, 0, 1])
    if filled:
        cached.eval()(x)
        with torch.no_grad():
            cached.weight.mul_(2.0)
            plain.weight.mul_(2.0)
    contents = dict(cached.bias_cache), cached.transposed if kind is InAttribute else None
    names = ["sharpness", "top_eigenvalue", "average_sharpness", "worst_case_sharpness"]
    found, expected = (measure(m, (x, y), names, options=QUICK) for m in (cached, plain))
    for name in names:
        assert found[name].value == pytest.approx(expected[name].value, rel=1e-5), name
    assert cached.bias_cache.keys() == contents[0].keys()
    assert contents[1] is (cached.transposed if kind is InAttribute else None)


def test_measuring_in_inference_mode_and_without_gradients():
    model, x, y = case("mlp")
    names = ["mls", "sharpness", "top_eigenvalue"]
    expected = measure(model, (x, y), names)
    with torch.inference_mode():
        made_here = measure(model, (x.clone(), y.clone()), names)
    with torch.no_grad():
        without = measure(model, (x, y), names)
    for name in names:
        assert made_here[name].value == expected[name].value
        assert without[name].value == expected[name].value


def test_a_shuffled_loader_leaves_the_global_generators_alone():
    model, x, y = case("mlp", num_points=7)

    class Drawing(torch.utils.data.TensorDataset):
        def __getitem__(self, index):
            np.random.rand()  # noqa: NPY002
            return super().__getitem__(index)

    loader = torch.utils.data.DataLoader(Drawing(x, y), batch_size=3, shuffle=True)
    before = snapshot(model, x, y)
    found = measure(model, loader, ["mls"])["mls"]
    assert snapshot(model, x, y) == before
    assert found.value == pytest.approx(measure(model, (x, y), ["mls"])["mls"].value, rel=1e-6)


def test_a_copy_is_measured_on_another_device():
    model, x, y = case("mlp")
    before = snapshot(model, x, y)
    found = measure(model, (x, y), ["mls", "nmls"], device="cpu")
    assert found["mls"].value == measure(model, (x, y), ["mls"])["mls"].value
    away = copy.deepcopy(model).to("meta")
    report = measure(away, (x, y), ["sharpness"])
    assert report["sharpness"].value is None
    assert snapshot(model, x, y) == before
