"""Dinh et al.'s check: which measures move when two layers are rescaled and the function is not."""

from __future__ import annotations

import copy
import importlib
import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from pydantic import PositiveFloat

from flatscale.errors import MetricError
from flatscale.measurement import Measurement
from flatscale.metrics.probe.layer_calls import trace_calls
from flatscale.metrics.probe.observers import (
    Arrays,
    Observer,
    Result,
    Shard,
    ShardFunction,
    required,
)
from flatscale.metrics.probe.parameters import float_parameters, parameter_name
from flatscale.metrics.registration import RESCALING, measurement_pass, metric, metric_info

_SAME_OUTPUTS = 1e-5

_REMEASURED = (
    "mls",
    "log_lvr",
    "local_dimensionality",
    "relative_flatness",
    "adaptive_sharpness",
    "sharpness",
    "nmls",
    "top_eigenvalue",
    "worst_case_sharpness",
)


def _others_are_named(*, alpha: float, metrics: tuple[str, ...]) -> None:
    if alpha == 1:
        raise ValueError("alpha must be positive and not 1; found 1.0")
    if not metrics or "reparametrization_check" in metrics:
        raise ValueError("metrics must name others than the check itself")


@measurement_pass("reparametrization", check=_others_are_named)
def reparametrization(
    observers: Mapping[str, Observer],
    seed: int,
    *,
    alpha: PositiveFloat = 2.0,
    metrics: tuple[str, ...] = _REMEASURED,
) -> Measurement:
    """Every measure before and after rescaling the first pair of layers that allows it.

    Args:
        observers: the point sets; the probe's is used.
        seed: of what is measured.
        alpha: the first layer's weight and bias are multiplied by it, the next layer's weight
            divided.
        metrics: what is measured again.
    """
    from flatscale.metrics.pass_runner import measure_observers

    probe = required(observers, "probe")
    pair = _rescalable_pair(probe, alpha)
    rescaled = RescaledObserver(probe, pair, alpha)
    before = measure_observers({"probe": probe}, metrics, seed=seed)
    after = measure_observers({"probe": rescaled}, metrics, seed=seed)
    ratios, failed = {}, []
    for name in metrics:
        first, second = before[name].value, after[name].value
        if first is None or second is None or first == 0.0:
            failed.append(f"{name} ({before[name].reason or after[name].reason or 'is zero'})")
            continue
        ratios[name] = second / first
    claimed = [n for n in ratios if RESCALING in metric_info(n).invariances]
    if not claimed:
        raise MetricError(f"no invariant measure could be taken: {'; '.join(failed)}")
    moved = max(abs(ratios[name] - 1.0) for name in claimed)
    notes = [f"layers {pair[0]} and {pair[1]} rescaled by {alpha}"]
    notes += [f"not compared: {name}" for name in failed]
    notes += [f"{n}: {m.reason}" for n, m in before.items() if n in ratios and m.reason]
    return Measurement(
        name="reparametrization_check",
        value=moved,
        num_evaluations=sum(m.num_evaluations for m in (*before.values(), *after.values())),
        num_points=min(before[name].num_points for name in claimed),
        reason="; ".join(notes),
        extras={name: (ratio,) for name, ratio in ratios.items()},
    )


@metric(
    "reparametrization_check",
    passes=("reparametrization",),
    formula="max_m |m(rescaled θ) / m(θ) − 1| over the invariant measures m",
    group="invariance",
    source="Dinh et al. 2017",
)
def reparametrization_check(estimate: Measurement) -> Measurement:
    """How far the invariant measures move when the function does not; every ratio in extras."""
    return estimate


class RescaledObserver:
    """An observer of the same points whose model has one pair of layers rescaled.

    Args:
        observer: the original.
        pair: names of the layer multiplied by alpha and of the one divided by it.
        alpha: the factor.
    """

    def __init__(self, observer: Observer, pair: tuple[str, str], alpha: float) -> None:
        self._observer, self._pair, self._alpha = observer, pair, alpha
        self.num_points = observer.num_points
        self.content_hash = observer.content_hash

    def gather(self, function: ShardFunction, /, **arguments: Any) -> Arrays:
        return self._observer.gather(on_rescaled, **self._call(function), **arguments)

    def total(self, function: ShardFunction, /, **arguments: Any) -> Arrays:
        return self._observer.total(on_rescaled, **self._call(function), **arguments)

    def once(self, function: Callable[..., Result], /, **arguments: Any) -> Result:
        return self._observer.once(on_rescaled, **self._call(function), **arguments)

    def _call(self, function: Callable[..., Any]) -> dict[str, Any]:
        return {
            "inner_function": f"{function.__module__}:{function.__qualname__}",
            "rescaled_pair": self._pair,
            "rescaled_by": self._alpha,
        }


def on_rescaled(
    shard: Shard,
    *,
    inner_function: str,
    rescaled_pair: tuple[str, str],
    rescaled_by: float,
    **arguments: Any,
) -> Any:
    """A shard function, by its import path, on the shard with a rescaled copy of its model."""
    module, _, name = inner_function.partition(":")
    function = getattr(importlib.import_module(module), name)
    return function(_rescaled(shard, rescaled_pair, rescaled_by), **arguments)


def candidate_pairs(shard: Shard) -> list[str]:
    """Names of the linear layers in forward order, used once and with a plain weight."""
    names = [call.name for call in trace_calls(shard)[0] if call.is_linear]
    twice = {name.partition("@")[0] for name in names if "@" in name}
    parameters = float_parameters(shard.model)
    return [n for n in names if n not in twice and parameter_name(n, "weight") in parameters]


def output_rows(shard: Shard) -> Arrays:
    """f(x) of every point (B, N)."""

    def compute(points: slice) -> Arrays:
        with torch.no_grad():
            return {"outputs": shard.outputs(shard.x[points]).double().cpu().numpy()}

    return shard.rows(compute)


def _rescalable_pair(observer: Observer, alpha: float) -> tuple[str, str]:
    names = observer.once(candidate_pairs)
    before = observer.gather(output_rows)["outputs"]
    finite = np.isfinite(before).all(axis=1)
    if not finite.any():
        raise MetricError("the outputs are not finite at any point")
    for pair in itertools.pairwise(names):
        after = RescaledObserver(observer, pair, alpha).gather(output_rows)["outputs"]
        moved = np.abs(after - before)[finite].max()
        if moved <= _SAME_OUTPUTS * np.abs(before[finite]).max():
            return pair
    raise MetricError(
        "no two consecutive linear layers can be rescaled without changing the outputs: between "
        "them there must be only ReLUs, pooling or other positively homogeneous maps"
    )


def _rescaled(shard: Shard, pair: tuple[str, str], alpha: float) -> Shard:
    model = copy.deepcopy(shard.model)
    parameters = float_parameters(model)
    first, second = pair
    with torch.no_grad():
        parameters[parameter_name(first, "weight")].mul_(alpha)
        if parameter_name(first, "bias") in parameters:
            parameters[parameter_name(first, "bias")].mul_(alpha)
        parameters[parameter_name(second, "weight")].div_(alpha)
    return replace(shard, model=model, kept={})
