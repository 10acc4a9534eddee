"""Other values for the parameters: modules and weights that a network holds more than once."""

import copy
from types import SimpleNamespace

import torch
from torch import nn

from flatscale.metrics import measure
from flatscale.metrics.probe.parameters import call_with
from tests.metrics.quick import QUICK

FEW = {name: QUICK[name] for name in ("adaptive_sharpness", "hessian_trace")}


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def registered_twice():
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.Tanh(), layer)


def unrolled(model):
    """The same network with every layer and weight a copy of its own."""
    layers = [model[0], model[2]] if isinstance(model, nn.Sequential) else [*model.children()]
    first, second = (copy.deepcopy(layer) for layer in layers)
    return nn.Sequential(first, nn.Tanh(), second)


def test_a_weight_is_replaced_wherever_it_is_held():
    torch.manual_seed(0)
    x = torch.randn(3, 4)
    for model in (Tied(), registered_twice()):
        values = {name: torch.randn_like(p) for name, p in model.named_parameters()}
        other = copy.deepcopy(model)
        with torch.no_grad():
            for name, p in other.named_parameters():
                p.copy_(values[name])
        assert torch.equal(call_with(model, values, x), other(x))


def test_a_network_that_holds_a_module_twice_comes_back_as_it_was():
    torch.manual_seed(0)
    x, y = torch.randn(5, 4), torch.randint(0, 4, (5,))
    for model in (Tied(), registered_twice()):
        before = dict(model.named_parameters())
        values = {name: p.clone() for name, p in before.items()}
        names = ["sharpness", "adaptive_sharpness", "hessian_trace", "mls"]
        measure(model, (x, y), names, options=FEW)
        after = dict(model.named_parameters())
        assert after.keys() == before.keys()
        assert all(after[name] is before[name] for name in before)
        assert all(torch.equal(after[name], values[name]) for name in before)


def test_sharpness_counts_a_shared_weight_once_with_both_its_gradients():
    torch.manual_seed(0)
    x, y = torch.randn(5, 4), torch.randint(0, 4, (5,))
    for model in (Tied(), registered_twice()):
        found = measure(model, (x, y), ["sharpness"])["sharpness"].value
        expected = 0.0
        for xi in x:
            for k in range(4):
                model.zero_grad()
                model(xi[None])[0, k].backward()
                expected += sum(p.grad.square().sum().item() for p in model.parameters()) / 5
        model.zero_grad(set_to_none=True)
        assert abs(found - expected) < 1e-4 * expected
        apart = measure(unrolled(model), (x, y), ["sharpness"])["sharpness"].value
        assert abs(found - apart) > 1e-3 * apart


def test_a_shared_weight_in_a_network_that_returns_an_object_with_logits():
    class Wrapped(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return SimpleNamespace(logits=self.inner(x))

    torch.manual_seed(0)
    x, y = torch.randn(5, 4), torch.randint(0, 4, (5,))
    names = ["mls", "sharpness", "hessian_trace", "adaptive_sharpness", "bound_d"]
    for model in (Tied(), registered_twice()):
        plain = measure(model, (x, y), names, options=FEW)
        wrapped = measure(Wrapped(model), (x, y), names, options=FEW)
        for name in names:
            assert abs(wrapped[name].value - plain[name].value) <= 1e-5 * abs(plain[name].value)
