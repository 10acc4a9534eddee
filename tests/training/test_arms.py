"""Optimizers, schedules, averages, clipping, augmentation, rules: against closed forms."""

from __future__ import annotations

import inspect
import itertools
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from flatscale.errors import ConfigError, ModelError
from flatscale.models import build_model
from flatscale.study.reading import parse_config
from flatscale.study.schema import (
    AveragingConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainingConfig,
    TransformConfig,
)
from flatscale.training import (
    LOSSES,
    build_optimizer,
    check_optimizer,
    loss,
    optimizer_constants,
    own_constants,
    train,
)
from flatscale.training.augmentation import Augmentation
from flatscale.training.averages import WeightAverage
from flatscale.training.losses import squared_error
from flatscale.training.order import BatchOrder
from flatscale.training.schedules import rate_factor

CURVATURE = torch.tensor([[3.0, 1.0], [1.0, 0.5]], dtype=torch.float64)
START = torch.tensor([1.0, -2.0], dtype=torch.float64)
RATE, NUM_STEPS = 0.1, 6
Update = Callable[[torch.Tensor, Callable[[torch.Tensor], torch.Tensor], int], torch.Tensor]


class Point(nn.Module):
    """A network that is one vector."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(START.clone())


def gradient(w: torch.Tensor) -> torch.Tensor:
    return CURVATURE @ w


def path_of(config: OptimizerConfig) -> list[torch.Tensor]:
    """The points that an optimizer goes through on w'Aw/2."""
    point = Point()
    optimizer = build_optimizer(point, config, RATE)

    def look() -> torch.Tensor:
        optimizer.zero_grad()
        loss = point.w @ CURVATURE @ point.w / 2
        loss.backward()
        return loss.detach()

    path = []
    for _ in range(NUM_STEPS):
        if config.name in ("sam", "asam"):
            optimizer.step(look)
        else:
            look()
            optimizer.step()
        path.append(point.w.detach().clone())
    return path


def momentum(nesterov: bool) -> Update:
    velocity = torch.zeros(2, dtype=torch.float64)

    def update(w: torch.Tensor, slope: Any, step: int) -> torch.Tensor:
        nonlocal velocity
        velocity = 0.9 * velocity + slope(w)
        return w - RATE * (slope(w) + 0.9 * velocity if nesterov else velocity)

    return update


def adam(decoupled: float = 0.0) -> Update:
    first = second = torch.zeros(2, dtype=torch.float64)

    def update(w: torch.Tensor, slope: Any, step: int) -> torch.Tensor:
        nonlocal first, second
        first, second = 0.8 * first + 0.2 * slope(w), 0.99 * second + 0.01 * slope(w) ** 2
        mean, square = first / (1 - 0.8**step), second / (1 - 0.99**step)
        return w - RATE * (mean / (square.sqrt() + 1e-8) + decoupled * w)

    return update


def rmsprop() -> Update:
    square = torch.zeros(2, dtype=torch.float64)

    def update(w: torch.Tensor, slope: Any, step: int) -> torch.Tensor:
        nonlocal square
        square = 0.9 * square + 0.1 * slope(w) ** 2
        return w - RATE * slope(w) / (square.sqrt() + 1e-8)

    return update


def perturbed(around: Update, rho: float, scale: Callable[[torch.Tensor], torch.Tensor]) -> Update:
    def update(w: torch.Tensor, slope: Any, step: int) -> torch.Tensor:
        t = scale(w)
        worst = w + rho * t**2 * slope(w) / (t * slope(w)).norm()
        return around(w, lambda _: slope(worst), step)

    return update


ADAM = {"name": "adam", "betas": [0.8, 0.99]}
OPTIMIZERS: dict[str, tuple[Any, Callable[[], Update]]] = {
    "sgd": ("sgd", lambda: lambda w, slope, step: w - RATE * slope(w)),
    "momentum": ({"momentum": 0.9}, lambda: momentum(False)),
    "nesterov": ({"momentum": 0.9, "nesterov": True}, lambda: momentum(True)),
    "adam": (ADAM, adam),
    "adamw": ({**ADAM, "name": "adamw", "weight_decay": 0.2}, lambda: adam(0.2)),
    "rmsprop": ({"name": "rmsprop", "alpha": 0.9}, rmsprop),
    "timm": ({"name": "timm:sgd", "momentum": 0.9, "nesterov": False}, lambda: momentum(False)),
    "sam": ("sam", lambda: perturbed(OPTIMIZERS["sgd"][1](), 0.05, torch.ones_like)),
    "sam of adam": (
        {"name": "sam", "rho": 0.3, "base": ADAM},
        lambda: perturbed(adam(), 0.3, torch.ones_like),
    ),
    "asam": (
        {"name": "asam", "rho": 0.2, "eta": 0.1, "momentum": 0.9},
        lambda: perturbed(momentum(False), 0.2, lambda w: w.abs() + 0.1),
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_takes_the_published_steps(name: str) -> None:
    given, make = OPTIMIZERS[name]
    w, update = START, make()
    for step, found in enumerate(path_of(OptimizerConfig.model_validate(given)), start=1):
        w = update(w, gradient, step)
        torch.testing.assert_close(found, w, rtol=1e-7, atol=1e-10)


def test_an_optimizer_around_another_hands_its_further_constants_on() -> None:
    one = OptimizerConfig.model_validate({"name": "sam", "base": "adam", "betas": [0.8, 0.99]})
    two = OptimizerConfig.model_validate({"name": "sam", "base": ADAM})
    for first, second in zip(path_of(one), path_of(two), strict=True):
        assert torch.equal(first, second)
    assert own_constants(one) == {
        "rho": 0.05,
        "base": "adam",
        "betas": (0.8, 0.99),
        "eps": 1e-8,
        "amsgrad": False,
    }
    assert optimizer_constants(OptimizerConfig(name="sam", momentum=0.9))["momentum"] == 0.9


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"name": "sam", "base": "asam"}, "'sam' cannot be around 'asam'"),
        ({"name": "adam", "base": "sgd"}, "'adam' is around no other: it takes no base"),
        (
            {"name": "sam", "roh": 0.1},
            r"unknown option 'roh' \(did you mean 'rho'\?\); allowed: rho, momentum",
        ),
        ({"name": "sam", "rho": 0}, "'rho': input should be greater than 0"),
        ({"name": "sam", "base": {"betas": [0.9, 0.9]}}, "unknown option 'betas'"),
        ({"nesterov": True}, "Nesterov momentum requires a momentum"),
        ("timm:lamp", r"unknown optimizer 'timm:lamp' \(did you mean 'timm:lamb'\?\)"),
        ("timm:adahessian", "needs second derivatives"),
        ({"name": "timm:lamb", "betta": 1}, "'timm:lamb' cannot be built.*betta"),
    ],
)
def test_an_optimizer_that_cannot_be_is_refused(given: Any, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        build_optimizer(Point(), OptimizerConfig.model_validate(given), 0.1)


@pytest.mark.parametrize("config", ["adam", {"name": "sam", "base": "adamw"}])
def test_a_check_builds_the_optimizer_and_does_not_import_the_compiler(
    config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed = OptimizerConfig.model_validate(config)
    method = torch.optim.Optimizer.add_param_group
    monkeypatch.delattr(inspect.unwrap(method), "__dynamo_disable", raising=False)
    monkeypatch.setitem(sys.modules, "torch._dynamo", None)  # cannot be imported
    check_optimizer(Point(), parsed)
    with pytest.raises(ConfigError, match=r"torch\._dynamo"):
        build_optimizer(Point(), parsed, 0.1)
    assert torch.optim.Optimizer.add_param_group is method
    with pytest.raises(ConfigError, match="requires a momentum"):
        check_optimizer(Point(), OptimizerConfig(name="sgd", nesterov=True))


def test_a_name_alone_is_a_document() -> None:
    study = {
        "name": "short",
        "models": [{"architecture": "mlp"}],
        "design": {"kind": "grid", "learning_rate": [0.1], "batch_size": [8]},
        "training": {"optimizer": "adamw", "schedule": "cosine", "augmentation": ["RandomInvert"]},
    }
    training = parse_config(study).training
    assert training.optimizer == OptimizerConfig(name="adamw")
    assert training.schedule == ScheduleConfig(name="cosine")
    assert training.augmentation == (TransformConfig(name="RandomInvert"),)


def factors(schedule: dict[str, Any], num_steps: int = 10) -> list[float]:
    config = ScheduleConfig.model_validate(schedule)
    return [rate_factor(config, step, num_steps) for step in range(num_steps)]


def test_schedules_are_those_of_torch() -> None:
    rates = torch.optim.lr_scheduler
    wanted = {
        "constant": lambda o: rates.ConstantLR(o, 1.0),
        "cosine": lambda o: rates.CosineAnnealingLR(o, 10, eta_min=0.1),
        "linear": lambda o: rates.LinearLR(o, 1.0, 0.1, total_iters=10),
        "steps": lambda o: rates.MultiStepLR(o, [3, 7], 0.5),
    }
    own = {"cosine": {"final": 0.1}, "linear": {"final": 0.1}}
    own["steps"] = {"milestones": [3, 7], "factor": 0.5}
    for name, make in wanted.items():
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 1.0)
        scheduler, found = make(optimizer), []
        for _ in range(10):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        assert factors({"name": name, **own.get(name, {})}) == pytest.approx(found), name


def test_a_warm_up_comes_before_any_schedule() -> None:
    warm = factors({"name": "cosine", "warmup_steps": 4}, 14)
    assert warm[:4] == [0.25, 0.5, 0.75, 1.0]
    assert warm[4:] == factors({"name": "cosine"}, 10)
    with pytest.raises(ConfigError, match="'milestones' is required"):
        factors({"name": "steps"})


NUM_IMAGES, NUM_CLASSES = 30, 3
DATA = torch.Generator().manual_seed(0)
X = torch.rand(NUM_IMAGES, 1, 8, 8, generator=DATA)
Y = torch.randint(NUM_CLASSES, (NUM_IMAGES,), generator=DATA)


def network(**options: Any) -> nn.Module:
    return build_model("mlp", X.shape[1:], NUM_CLASSES, {"width": 8, **options}, seed=1)


def config(**changes: Any) -> TrainingConfig:
    return TrainingConfig.model_validate({"stop_loss": None, "max_steps": 20, **changes})


def trained(model: nn.Module, settings: TrainingConfig, **more: Any) -> Any:
    return train(
        model, X, Y, settings, **{"learning_rate": 0.1, "batch_size": 8, "seed": 3, **more}
    )


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([value.flatten().double() for value in model.state_dict().values()])


def test_full_batches_are_gradient_descent_in_microbatches_too() -> None:
    reference = network()
    for _ in range(20):
        loss = 0.5 * (reference(X) - torch.eye(NUM_CLASSES)[Y]).square().sum(1).mean()
        gradients = torch.autograd.grad(loss, list(reference.parameters()))
        with torch.no_grad():
            for p, g in zip(reference.parameters(), gradients, strict=True):
                p.sub_(0.1 * g)
    for size in (None, 7):
        model = network()
        trained(model, config(microbatch_size=size), batch_size=NUM_IMAGES)
        torch.testing.assert_close(weights(model), weights(reference), rtol=1e-4, atol=1e-6)


def test_the_schedule_smoothing_and_clipping_reach_the_steps() -> None:
    model, reference = network(), network()
    changes = {"schedule": {"name": "linear", "warmup_steps": 3}, "label_smoothing": 0.3}
    trained(model, config(**changes, clip_gradient=0.5, loss="cross_entropy"))
    order = BatchOrder(NUM_IMAGES, 8, seed=3, device=torch.device("cpu"))
    clipped = 0
    for step in range(20):
        rows = order.rows(step)
        loss = nn.functional.cross_entropy(reference(X[rows]), Y[rows], label_smoothing=0.3)
        gradients = torch.autograd.grad(loss, list(reference.parameters()))
        norm = math.sqrt(sum(g.square().sum().item() for g in gradients))
        factor = (step + 1) / 3 if step < 3 else 1 - (step - 3) / 17
        clipped += norm > 0.5
        with torch.no_grad():
            for p, g in zip(reference.parameters(), gradients, strict=True):
                p.sub_(0.1 * factor * min(1, 0.5 / norm) * g)
    assert 0 < clipped < 20
    torch.testing.assert_close(weights(model), weights(reference), rtol=1e-4, atol=1e-5)


def test_averages_are_those_of_the_path() -> None:
    path: list[torch.Tensor] = []
    trained(
        network(),
        config(max_steps=12),
        snapshot_steps=range(13),
        on_snapshot=lambda step, model: path.append(weights(model)),
    )
    model = network()
    trained(model, config(max_steps=12))
    path.append(weights(model))
    taken = path[6::2]
    ema = taken[0]
    for now in taken[1:]:
        ema = 0.7 * ema + 0.3 * now
    both = {"start_step": 4, "every": 2}
    for average, expected in (
        ({"name": "swa"}, torch.stack(taken).mean(dim=0)),
        ({"name": "ema", "decay": 0.7}, ema),
    ):
        found, seen = network(), dict[int, torch.Tensor]()
        trained(
            found,
            config(max_steps=12, averaging={**average, **both}),
            weights="average",
            snapshot_steps=[4, 8],
            on_snapshot=lambda step, model, seen=seen: seen.update({step: weights(model)}),
        )
        torch.testing.assert_close(weights(found), expected, rtol=1e-5, atol=1e-6)
        assert torch.equal(seen[4], path[4])
        assert not torch.equal(seen[8], path[8])
    last = network()
    trained(last, config(max_steps=12, averaging={"name": "swa", **both}))
    assert torch.equal(weights(last), path[12])


def test_an_averaged_network_has_running_statistics_of_its_own() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4))
    average = WeightAverage(model, AveragingConfig(name="swa"))
    for step in (1, 2):
        with torch.no_grad():
            model[1].weight.add_(step)
        average.update(step)
    averaged = average.network([X])
    inner = nn.functional.linear(X.flatten(1), averaged[1].weight, averaged[1].bias)
    torch.testing.assert_close(averaged[2].running_mean, inner.mean(dim=0))


def test_an_augmentation_follows_from_seed_epoch_and_image() -> None:
    configs = [{"name": "RandomHorizontalFlip"}, {"name": "RandomCrop", "size": 8, "padding": 2}]
    parsed = [TransformConfig.model_validate(config) for config in configs]
    rows = torch.arange(NUM_IMAGES)
    augment = Augmentation(parsed, seed=1)
    whole = augment(X, rows, 5)
    assert torch.equal(whole[7:9], Augmentation(parsed, seed=1)(X[7:9], rows[7:9], 5))
    for other in (augment(X, rows, 6), Augmentation(parsed, seed=2)(X, rows, 5), X):
        same = (whole == other).flatten(1).all(dim=1)
        assert same.double().mean() < 0.3
    flips = Augmentation(parsed[:1], seed=1)(X, rows, 0)
    flipped = (flips == X.flip(-1)).flatten(1).all(dim=1)
    assert torch.equal(flips[~flipped], X[~flipped])
    assert 5 < flipped.sum() < 25


@pytest.mark.parametrize(
    ("transform", "fault"),
    [
        ({"name": "RandomHorizontalFlop"}, "did you mean 'RandomHorizontalFlip'"),
        ({"name": "RandomCrop"}, "'RandomCrop' cannot be made"),
        ({"name": "RandomCrop", "size": 4}, r"make \(1, 4, 4\) torch.float32 of an image"),
    ],
)
def test_an_augmentation_that_cannot_be_is_refused(transform: dict, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        Augmentation([TransformConfig.model_validate(transform)], seed=0)(X, torch.arange(30), 0)


ARMS: dict[str, dict[str, Any]] = {
    "nesterov": {"optimizer": {"momentum": 0.9, "nesterov": True}},
    "adamw": {"optimizer": {"name": "adamw", "weight_decay": 0.1}},
    "rmsprop": {"optimizer": {"name": "rmsprop", "momentum": 0.5, "centered": True}},
    "sam": {"optimizer": {"name": "sam", "momentum": 0.9}},
    "asam": {"optimizer": {"name": "asam", "base": "adam"}},
    "timm": {"optimizer": "timm:lamb"},
    "schedule": {"schedule": {"name": "cosine", "warmup_steps": 7}, "clip_gradient": 0.5},
    "ema": {"averaging": {"name": "ema", "decay": 0.9}},
    "swa": {"averaging": {"name": "swa", "start_step": 10, "every": 3}},
    "augmentation": {"augmentation": ["RandomHorizontalFlip"], "label_smoothing": 0.1},
    "microbatches": {"microbatch_size": 3},
    "early stopping": {"patience": 40},
}


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_resumes_bit_for_bit(arm: str, tmp_path: Path) -> None:
    changes = {**ARMS[arm], "checkpoint_every": 6}
    more = {"weights": "average" if "averaging" in changes else "last", "held_out": (X[:9], Y[:9])}
    undisturbed = network(dropout=0.2)
    expected = trained(undisturbed, config(**changes), **more)

    def die(step: int, model: nn.Module) -> None:
        raise KeyboardInterrupt

    file, resumed = tmp_path / "trial", network(dropout=0.2)
    more["checkpoint"] = file
    with pytest.raises(KeyboardInterrupt):
        trained(
            network(dropout=0.2), config(**changes), snapshot_steps=[15], on_snapshot=die, **more
        )
    torch.nn.init.zeros_(resumed[1].weight)
    seen: list[int] = []
    found = trained(
        resumed,
        config(**changes),
        snapshot_steps=range(20),
        on_snapshot=lambda step, model: seen.append(step),
        **more,
    )
    assert seen == list(range(13, 20))
    assert torch.equal(weights(undisturbed), weights(resumed))
    assert found == expected


def test_running_statistics_are_of_the_first_look() -> None:
    def build() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, NUM_CLASSES))

    plain, twice = build(), build()
    trained(plain, config(max_steps=3))
    trained(twice, config(max_steps=3, optimizer="sam"))
    # The inputs of the first layer are the same whatever the weights.
    assert torch.equal(plain[1].running_mean, twice[1].running_mean)
    assert twice[1].num_batches_tracked == 3
    assert not torch.equal(plain[2].weight, twice[2].weight)


def test_every_rule_ends_training_with_its_own_status() -> None:
    long = {"max_steps": 3000, "evaluate_every": 10}
    fast = {"learning_rate": 0.3}
    result = trained(network(), config(stop_accuracy=0.9, **long), **fast)
    assert (result.status, result.num_steps < 3000) == ("accuracy_reached", True)
    model = network()
    result = trained(model, config(stop_gradient_norm=0.3, **long), batch_size=NUM_IMAGES)
    assert result.status == "stationary"
    loss = 0.5 * (model(X) - torch.eye(NUM_CLASSES)[Y]).square().sum(1).mean()
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    norm = math.sqrt(sum(g.square().sum().item() for g in gradients))
    assert norm <= 0.3
    assert f"norm {norm:.3g}"[:9] in result.reason
    result = trained(network(), config(max_epochs=3))
    assert (result.status, result.num_steps) == ("epoch_limit", 12)
    result = trained(network(), config(max_epochs=30))
    assert (result.status, result.num_steps) == ("step_limit", 20)


def test_early_stopping_waits_for_a_lower_held_out_loss() -> None:
    labels = torch.randint(NUM_CLASSES, (200,), generator=torch.Generator().manual_seed(5))
    held_out = torch.rand(200, 1, 8, 8), labels
    losses: dict[int, float] = {}

    def look(step: int, model: nn.Module) -> None:
        model.eval()
        targets = torch.eye(NUM_CLASSES)[labels]
        losses[step] = 0.5 * (model(held_out[0]) - targets).square().sum(1).mean().item()

    result = trained(
        network(),
        config(patience=3, max_steps=5000, evaluate_every=10),
        held_out=held_out,
        learning_rate=0.3,
        snapshot_steps=range(0, 5000, 10),
        on_snapshot=look,
    )
    assert result.status == "early_stopped"
    best = min(losses, key=losses.__getitem__)
    assert result.num_steps == best + 30
    with pytest.raises(ModelError, match=r"patience needs .* data\.held_out_size"):
        trained(network(), config(patience=3))


@pytest.mark.parametrize("seed", range(4))
def test_brief_looks_end_training_where_whole_ones_do(seed: int) -> None:
    settings = {"stop_loss": 0.02, "max_steps": 20_000}
    every = math.ceil(NUM_IMAGES / 8)
    brief, whole = network(), network()
    found = trained(brief, config(**settings), seed=seed, learning_rate=0.2)
    expected = trained(
        whole, config(**settings, evaluate_every=every), seed=seed, learning_rate=0.2
    )
    assert (found.status, found.num_steps) == ("interpolated", expected.num_steps)
    assert found.train_loss == expected.train_loss
    assert torch.equal(weights(brief), weights(whole))
    assert set(found.history) < set(expected.history)
    steps = [step for step, _ in found.history]
    assert all(
        later <= max(earlier * 1.125, earlier) + every
        for earlier, later in itertools.pairwise(steps)
    )


def test_a_loss_that_may_be_negative_is_looked_at_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LOSSES, "_entries", dict(LOSSES.items()))

    @loss("shifted")
    def shifted(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return squared_error(outputs, targets) - 1e-6

    result = trained(network(), config(loss="shifted", stop_loss=1e-9, max_steps=200))
    assert [step for step, _ in result.history] == list(range(0, 201, 4))
