"""The loop against a plain one, its ends, resuming bit for bit, snapshots."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from flatscale.errors import ConfigError, ModelError, StoreError
from flatscale.models import build_model
from flatscale.study.schema import OptimizerConfig, TrainingConfig
from flatscale.training import (
    OPTIMIZERS,
    build_optimizer,
    log_spaced_steps,
    optimizer,
    optimizer_constants,
    train,
)
from flatscale.training.order import BatchOrder

SHAPE, NUM_CLASSES, NUM_IMAGES = (1, 8, 8), 3, 50


@pytest.fixture
def images() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(NUM_IMAGES, *SHAPE, generator=generator)
    return x, torch.randint(NUM_CLASSES, (NUM_IMAGES,), generator=generator)


def network(architecture: str = "mlp", **options: object) -> nn.Module:
    options = options or ({"width": 16} if architecture == "mlp" else {})
    return build_model(architecture, SHAPE, NUM_CLASSES, options, seed=1)


def config(**changes: object) -> TrainingConfig:
    return TrainingConfig(**{"stop_loss": 1e-9, "max_steps": 100, **changes})


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def dropout_network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(144, NUM_CLASSES),
        )


def test_equals_a_loop_written_out(images) -> None:
    x, y = images
    model, reference = network(), network()
    result = train(
        model,
        x,
        y,
        config(max_steps=17, optimizer=OptimizerConfig(momentum=0.9, weight_decay=0.01)),
        learning_rate=0.05,
        batch_size=16,
        seed=3,
    )
    order = BatchOrder(NUM_IMAGES, 16, seed=3, device=torch.device("cpu"))
    velocity = [torch.zeros_like(p) for p in reference.parameters()]
    for step in range(17):
        rows = order.rows(step)
        outputs = reference(x[rows])
        targets = torch.eye(NUM_CLASSES)[y[rows]]
        loss = 0.5 * (outputs - targets).pow(2).sum() / len(rows)
        gradients = torch.autograd.grad(loss, list(reference.parameters()))
        with torch.no_grad():
            for p, v, g in zip(reference.parameters(), velocity, gradients, strict=True):
                v.mul_(0.9).add_(g + 0.01 * p)
                p.sub_(0.05 * v)
    for p, q in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        expected = 0.5 * (reference(x) - torch.eye(NUM_CLASSES)[y]).pow(2).sum(1).mean()
    assert result.train_loss == pytest.approx(expected.item(), rel=1e-5)
    assert (result.status, result.num_steps) == ("step_limit", 17)


@pytest.mark.parametrize("batch_size", [1, 7, 16, 50, 80])
def test_every_epoch_shows_every_image_once(batch_size: int) -> None:
    order = BatchOrder(NUM_IMAGES, batch_size, seed=0, device=torch.device("cpu"))
    assert order.steps_per_epoch == math.ceil(NUM_IMAGES / batch_size)
    epochs = []
    for epoch in range(2):
        steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
        epochs.append(torch.cat([order.rows(step) for step in steps]))
        assert sorted(epochs[-1].tolist()) == list(range(NUM_IMAGES))
    assert not torch.equal(*epochs)
    late = BatchOrder(NUM_IMAGES, batch_size, seed=0, device=torch.device("cpu"))
    step = order.steps_per_epoch + order.steps_per_epoch // 2
    assert torch.equal(late.rows(step), order.rows(step))


def test_interpolation_ends_training_at_the_first_evaluation_below(images) -> None:
    result = train(
        network(width=64),
        *images,
        config(stop_loss=0.05, max_steps=5000, evaluate_every=25),
        learning_rate=0.2,
        batch_size=10,
        seed=0,
    )
    assert result.status == "interpolated"
    assert result.train_loss <= 0.05
    assert result.num_steps % 25 == 0
    steps, losses = zip(*result.history, strict=True)
    assert steps == tuple(range(0, result.num_steps + 1, 25))
    assert all(loss > 0.05 for loss in losses[:-1])
    assert losses[-1] == result.train_loss
    assert "reached 0.05" in result.reason


def test_a_network_that_interpolates_already_takes_no_step(images) -> None:
    model = network()
    before = weights(model)
    result = train(model, *images, config(stop_loss=100), learning_rate=0.1, batch_size=8, seed=0)
    assert (result.status, result.num_steps) == ("interpolated", 0)
    assert same(before, weights(model))


def test_evaluation_is_once_an_epoch_and_at_the_end(images) -> None:
    result = train(
        network(), *images, config(max_steps=11), learning_rate=0.1, batch_size=16, seed=0
    )
    assert [step for step, _ in result.history] == [0, 4, 8, 11]


@pytest.mark.parametrize("architecture", ["mlp", "lenet", "vgg11"])
def test_divergence_is_a_result(images, architecture: str) -> None:
    model = network(architecture)
    result = train(model, *images, config(max_steps=2000), learning_rate=1e6, batch_size=8, seed=0)
    assert result.status == "diverged"
    assert not math.isfinite(result.train_loss)
    assert f"at step {result.num_steps}" in result.reason
    assert result.num_steps < 2000
    assert all(math.isfinite(loss) for _, loss in result.history)


def test_cross_entropy_learns(images) -> None:
    result = train(
        network(width=64),
        *images,
        config(loss="cross_entropy", stop_loss=0.1, max_steps=3000),
        learning_rate=0.3,
        batch_size=10,
        seed=0,
    )
    assert result.status == "interpolated"


@pytest.mark.parametrize("build", [network, dropout_network, lambda: network("lenet")])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_resuming_is_bit_identical(
    images, build: Callable[[], nn.Module], momentum: float, tmp_path: Path
) -> None:
    settings = config(optimizer=OptimizerConfig(momentum=momentum), checkpoint_every=30)
    arguments = {"learning_rate": 0.05, "batch_size": 7, "seed": 5}
    undisturbed = build()
    expected = train(undisturbed, *images, settings, **arguments)

    def die(step: int, model: nn.Module) -> None:
        raise KeyboardInterrupt

    file = tmp_path / "trial.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(
            build(),
            *images,
            settings,
            checkpoint=file,
            snapshot_steps=[77],
            on_snapshot=die,
            **arguments,
        )
    resumed = build()
    with torch.no_grad():
        for parameter in resumed.parameters():
            parameter.zero_()
    torch.rand(3)
    seen: list[int] = []
    result = train(
        resumed,
        *images,
        settings,
        checkpoint=file,
        snapshot_steps=[10, 60, 61, 77],
        on_snapshot=lambda step, model: seen.append(step),
        **arguments,
    )
    assert seen == [61, 77]
    assert same(weights(undisturbed), weights(resumed))
    assert result.history == expected.history
    assert (result.status, result.num_steps) == (expected.status, expected.num_steps)
    assert result.train_loss == expected.train_loss


def test_the_checkpoint_of_another_training_is_refused(images, tmp_path: Path) -> None:
    file = tmp_path / "trial.safetensors"
    arguments = {"learning_rate": 0.05, "batch_size": 10, "seed": 5, "checkpoint": file}
    train(network(), *images, config(checkpoint_every=40), **arguments)
    for change in ({"seed": 6}, {"learning_rate": 0.06}, {"batch_size": 11}):
        with pytest.raises(StoreError, match=f"another training: its {next(iter(change))} is"):
            train(network(), *images, config(), **{**arguments, **change})
    with pytest.raises(ModelError, match="does not fit"):
        train(network(width=17), *images, config(), **arguments)


def test_a_checkpoint_cut_short_is_named_and_the_network_untouched(images, tmp_path: Path) -> None:
    file = tmp_path / "trial.safetensors"
    arguments = {"learning_rate": 0.05, "batch_size": 10, "seed": 5, "checkpoint": file}
    train(network(), *images, config(checkpoint_every=40), **arguments)
    file.write_bytes(file.read_bytes()[:-10])
    model = network()
    before = weights(model)
    with pytest.raises(StoreError, match=r"trial\.safetensors.*cut short"):
        train(model, *images, config(), **arguments)
    assert same(before, weights(model))


def test_snapshots_come_at_their_steps_and_training_mode_returns(images) -> None:
    modes, steps = [], []

    def look(step: int, model: nn.Module) -> None:
        modes.append(model.training)
        steps.append(step)
        model.eval()

    model = dropout_network()
    disturbed = train(
        model,
        *images,
        config(),
        learning_rate=0.05,
        batch_size=9,
        seed=0,
        snapshot_steps=[0, 1, 2, 50, 99, 100, 1000],
        on_snapshot=look,
    )
    assert steps == [0, 1, 2, 50, 99]
    assert all(modes)
    assert model.training
    alone = dropout_network()
    expected = train(alone, *images, config(), learning_rate=0.05, batch_size=9, seed=0)
    assert same(weights(alone), weights(model))
    assert disturbed.history == expected.history


def test_the_global_generator_and_the_images_are_left_alone(images) -> None:
    x, y = (tensor.numpy().copy() for tensor in images)
    x.flags.writeable = y.flags.writeable = False
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, NUM_CLASSES))
    torch.manual_seed(9)
    before = torch.get_rng_state()
    train(model, x - np.float32(0.5), y, config(), learning_rate=0.1, batch_size=8, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    shifted = torch.from_numpy(x - np.float32(0.5))
    copy = shifted.clone()
    train(model, shifted, images[1], config(), learning_rate=0.1, batch_size=8, seed=0)
    assert torch.equal(shifted, copy)


def test_what_does_not_fit_is_refused(images) -> None:
    x, y = images
    arguments = {"learning_rate": 0.1, "batch_size": 8, "seed": 0}
    with pytest.raises(ModelError, match="50 images and 49 classes"):
        train(network(), x, y[:-1], config(), **arguments)
    with pytest.raises(ModelError, match="nothing to train"):
        train(nn.Flatten(), x, y, config(), **arguments)
    with pytest.raises(ConfigError, match=r"unknown optimizer 'sdg'.*did you mean 'sgd'"):
        train(network(), x, y, config(optimizer=OptimizerConfig(name="sdg")), **arguments)


def test_an_optimizer_is_one_decorated_function(
    images, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(OPTIMIZERS, "_entries", dict(OPTIMIZERS.items()))

    @optimizer("own_adam")
    def own_adam(
        parameters,
        learning_rate,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
    ):
        return torch.optim.Adam(parameters, learning_rate, betas, weight_decay=weight_decay)

    constants = OptimizerConfig(name="own_adam", betas=[0.8, 0.99])
    built = build_optimizer(network(), constants, 0.01)
    assert built.param_groups[0]["betas"] == (0.8, 0.99)
    assert optimizer_constants(constants) == {"betas": (0.8, 0.99), "weight_decay": 0.0}
    settings = config(optimizer=constants, checkpoint_every=50)
    arguments = {"learning_rate": 0.01, "batch_size": 8, "seed": 0}
    first, second = network(), network()
    train(first, *images, settings, checkpoint=tmp_path / "a", **arguments)
    train(second, *images, settings, checkpoint=tmp_path / "a", **arguments)
    assert same(weights(first), weights(second))
    for wrong, fault in (
        ({"momentum": 0.9}, "unknown option 'momentum'; allowed: betas, weight_decay"),
        ({"betas": [0.9]}, "'betas.1' is required"),
        ({"betas": [0.9, 2]}, "'own_adam' cannot be built: Invalid beta parameter at index 1"),
    ):
        with pytest.raises(ConfigError, match=fault):
            build_optimizer(network(), OptimizerConfig(name="own_adam", **wrong), 0.01)


def test_momentum_and_weight_decay_are_0_unless_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OPTIMIZERS, "_entries", dict(OPTIMIZERS.items()))
    assert optimizer_constants(OptimizerConfig()) == {
        "momentum": 0.0,
        "weight_decay": 0.0,
        "nesterov": False,
    }
    with pytest.raises(ConfigError, match="'adamw': the default of weight_decay must be 0"):

        @optimizer("adamw")
        def adamw(parameters, learning_rate, *, weight_decay: float = 0.01):
            return torch.optim.AdamW(parameters, learning_rate, weight_decay=weight_decay)


@pytest.mark.parametrize("num_snapshots", [1, 2, 5, 20, 200])
@pytest.mark.parametrize("max_steps", [1, 2, 7, 20_000])
def test_log_spaced_steps(num_snapshots: int, max_steps: int) -> None:
    steps = log_spaced_steps(num_snapshots, max_steps)
    assert list(steps) == sorted(set(steps))
    assert all(1 <= step < max_steps for step in steps)
    assert len(steps) == min(num_snapshots - 1, max_steps - 1)


def test_log_spaced_steps_are_even_in_the_logarithm() -> None:
    assert log_spaced_steps(5, 10_000) == (1, 10, 100, 1000)
    with pytest.raises(ValueError, match="at least 1"):
        log_spaced_steps(0, 10)
