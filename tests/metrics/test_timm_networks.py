"""Architectures of timm, randomly initialised, against plain autograd."""

import numpy as np
import pytest
import torch

from flatscale.metrics import LocalObserver, measure, metric_catalog
from flatscale.metrics.passes.jacobian.exact import exact_pass
from flatscale.models import allow_torchvision_without_ops

allow_torchvision_without_ops()
timm = pytest.importorskip("timm")

NETWORKS = {
    "vit_tiny_patch16_224": {"img_size": 32, "depth": 2},
    "swin_tiny_patch4_window7_224": {
        "img_size": 56,
        "depths": (2, 1),
        "num_heads": (2, 2),
        "embed_dim": 24,
    },
    "mobilevit_xxs": {},
    "convnext_atto": {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)},
    "resnet18": {"layers": (1, 1, 1, 1), "channels": (8, 16, 24, 32)},
    "fastvit_t8": {"layers": (1, 1, 1, 1), "embed_dims": (16, 32, 64, 128)},
}
SIZES = {
    "swin_tiny_patch4_window7_224": 56,
    "mobilevit_xxs": 64,
    "fastvit_t8": 64,
}
CHEAP = [
    info.name
    for info in metric_catalog()
    if info.group in ("compression", "bound") and "jacobian" in info.passes
]


def build(name):
    torch.manual_seed(0)
    if name == "mixer":
        model = timm.models.mlp_mixer.MlpMixer(
            num_classes=3, img_size=32, patch_size=8, num_blocks=2, embed_dim=32
        )
        # timm starts its head at zero, where every Jacobian vanishes
        torch.nn.init.normal_(model.head.weight, std=0.1)
        return model, torch.rand(2, 3, 32, 32), torch.tensor([0, 2])
    model = timm.create_model(name, pretrained=False, num_classes=3, **NETWORKS[name])
    size = SIZES.get(name, 32)
    return model, torch.rand(2, 3, size, size), torch.tensor([0, 2])


def by_autograd(model, x):
    model.eval()
    sharpness, sensitivity = [], []
    for xi in x.split(1):
        xi = xi.clone().requires_grad_()
        outputs, total, rows = model(xi)[0], 0.0, []
        for output in outputs:
            inputs = [xi, *model.parameters()]
            row, *rest = torch.autograd.grad(output, inputs, retain_graph=True, allow_unused=True)
            total += sum(g.square().sum().item() for g in rest if g is not None)
            rows.append(row.flatten())
        sharpness.append(total)
        sensitivity.append(torch.linalg.svdvals(torch.stack(rows))[0].item())
    return np.array(sharpness), np.array(sensitivity)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*NETWORKS, "mixer"])
def test_sharpness_and_mls_equal_plain_autograd_and_bounds_hold(name):
    model, x, y = build(name)
    found = exact_pass(LocalObserver(model, x, y))
    sharpness, sensitivity = by_autograd(model, x)
    np.testing.assert_allclose(found.sums.norms.sharpness, sharpness, rtol=1e-3)
    np.testing.assert_allclose(found.singular_values[:, 0], sensitivity, rtol=1e-4)
    report = measure(model, (x, y), [*CHEAP, "relative_flatness"])
    for name, measured in report.items():
        assert measured.value is not None, (name, measured.reason)
        assert measured.extras.get("violations", (0.0,)) == (0.0,), name
    leading = found.layer_singular_values[:, :, 0].sum(axis=1)
    assert report["nmls"].value == pytest.approx(leading.mean(), rel=1e-6)
    estimate = {"jacobian": {"method": "estimate"}}
    estimated = measure(model, (x, y), ["nmls"], options=estimate)["nmls"]
    assert estimated.value == pytest.approx(leading.mean(), rel=2e-3)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "mobilevit_xxs"])
def test_attention_networks_have_curvature_and_say_what_was_switched(name):
    model, x, y = build(name)
    settings = {"hessian_trace": {"sketch_size": 1, "max_products": 4}}
    found = measure(model, (x, y), ["hessian_trace"], options=settings)["hessian_trace"]
    assert np.isfinite(found.value)
    assert "fused attention switched" in found.reason
