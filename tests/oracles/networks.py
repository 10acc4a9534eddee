"""Tiny networks for tests, all nn.Sequential, so that an oracle can cut them between two layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def mlp(num_inputs: int = 12, num_classes: int = 4, width: int = 20) -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(num_inputs, width),
        nn.Tanh(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, num_classes),
    )


def lenet(num_classes: int = 4) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 3, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(3, 5, 3, stride=2, padding=1, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(5 * 3 * 3, 24),
        nn.ReLU(),
        nn.Linear(24, num_classes),
    )


def vgg(num_classes: int = 4, widths: tuple[int, ...] = (6, 8)) -> nn.Sequential:
    """VGG-like: padding-2 convolutions and in-place ReLU."""
    layers: list[nn.Module] = []
    channels = 3
    size = 8
    for width in widths:
        layers += [nn.Conv2d(channels, width, 3, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        channels, size = width, (size + 2) // 2
    layers += [nn.Flatten(), nn.Linear(channels * size * size, 24), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(24, num_classes))


def small_vgg11() -> nn.Sequential:
    """The paper's small VGG-11 on 3x32x32, 10 classes."""
    layers: list[nn.Module] = []
    channels, size = 3, 32
    for width in (16, 16, 32, 64, 64):
        layers += [nn.Conv2d(channels, width, 3, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        channels, size = width, (size + 2) // 2
    layers += [nn.Flatten(), nn.Linear(channels * size * size, 128), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(128, 10))


def grouped_convolutions(num_classes: int = 3) -> nn.Sequential:
    """Depthwise, dilated, circular and 'same' convolutions with normalization between."""
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, groups=4, padding=1, padding_mode="circular"),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 8, 3, groups=8, dilation=2, padding="same"),
        nn.GroupNorm(2, 8),
        nn.GELU(),
        nn.Flatten(),
        nn.LayerNorm(8 * 25),
        nn.Linear(8 * 25, num_classes),
    )


def tokens(num_classes: int = 3) -> nn.Sequential:
    """Linear layers applied to every token of (B, 5, 6)."""
    return nn.Sequential(
        nn.Linear(6, 7),
        nn.GELU(),
        nn.LayerNorm(7),
        nn.Linear(7, 4),
        nn.Flatten(),
        nn.Linear(20, num_classes),
    )


class Residual(nn.Module):
    """A BatchNorm ResNet with one skip connection, a shared layer and an unused parameter."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.block = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, num_classes)
        self.scale = nn.Parameter(torch.ones(4, 1, 1) * 0.7)
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.stem(x)))
        for _ in range(2):
            x = self.act(x + self.scale * self.block(x))
        return self.head(x.mean(dim=(2, 3)))


CASES = {
    "mlp": (mlp, (12,)),
    "lenet": (lenet, (1, 14, 14)),
    "vgg": (vgg, (3, 8, 8)),
    "grouped": (grouped_convolutions, (4, 5, 5)),
    "tokens": (tokens, (5, 6)),
}


def case(name: str, num_points: int = 5, seed: int = 0) -> tuple[nn.Sequential, Tensor, Tensor]:
    """A seeded network of that name with points and labels for it."""
    make, shape = CASES[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = make()
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.weight.data *= 2.0
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2.0)
        x = torch.rand(num_points, *shape) * 2 - 0.5
        y = torch.randint(0, model[-1].out_features, (num_points,))
    return model, x, y
