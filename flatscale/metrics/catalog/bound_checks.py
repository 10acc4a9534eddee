"""Checking an inequality: both sides, the slack, violations, and what an estimate may hide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np

from flatscale.errors import MetricError
from flatscale.measurement import Measurement
from flatscale.metrics.catalog.reduction import who_is_left_out, widening
from flatscale.metrics.passes.jacobian.estimated import JacobianEstimates, Rounds
from flatscale.metrics.passes.jacobian.exact import JacobianPoints
from flatscale.metrics.passes.jacobian.layer_norms import LayerNorms

Form = Literal["unrolled", "shared"]

_TOLERANCE = 1e-3
"""Relative room for the operator norm's own accuracy and float32 Jacobians."""
_GROUPS = 20
"""Groups of points that the jackknife leaves a round out of, one at a time."""


@dataclass(frozen=True, kw_only=True)
class Sides:
    """left <= right, for each point (n,) or once for means (1,); value is the bound."""

    left: np.ndarray
    right: np.ndarray
    value: float

    @classmethod
    def of_means(cls, left: float, right: float) -> Sides:
        return cls(left=np.array([left]), right=np.array([right]), value=right)


@dataclass(frozen=True, kw_only=True)
class Squares:
    """Squared gradient norms, per point: exact, or estimates that are unbiased.

    Attributes:
        delta2: ||delta_i^l||_F^2 (n, L).
        weight2: ||grad_{W_l} f(x_i)||_F^2, weight sharing included (n, L).
        sharpness: over all parameters (n,).
        first_layer: the columns of `FIRST_LAYER` (n, 4).
    """

    delta2: np.ndarray
    weight2: np.ndarray
    sharpness: np.ndarray
    first_layer: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Factors:
    """The two factors of every bound, per point and linear layer.

    Attributes:
        a: ||W_l||_2 / ||x_i^l|| (n, L).
        g: ||grad_{W_l} f(x_i)||_F (n, L).
        sharpness: S_i, the squared gradient norm over all parameters (n,).
    """

    a: np.ndarray
    g: np.ndarray
    sharpness: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a bound is checked on, at the points where all of it is finite.

    Attributes:
        squares: gradient norms.
        rounds: independent estimates (R, n, ...) whose mean `squares` is; None where it is exact.
        kept: which of the probe's points those are.
        converged: whether estimates and iterations reached their tolerance.
        left_tolerance: relative accuracy of left sides that were iterated for, from below.
        num_evaluations: per point.
    """

    squares: Squares
    rounds: Squares | None
    kept: np.ndarray
    converged: bool
    left_tolerance: float
    num_evaluations: int


def evidence(
    jacobian: JacobianPoints | JacobianEstimates,
    kept: np.ndarray,
    *,
    settled: bool = True,
    relative: float = 1.0,
) -> Evidence:
    """Gradient norms at the kept points.

    Args:
        jacobian: the pass.
        kept: points whose left side is finite (n,).
        settled: whether the left side's iteration settled.
        relative: relative error of the left side for one of sigma.
    """
    if isinstance(jacobian, JacobianPoints):
        kept = kept & jacobian.finite
        return Evidence(
            squares=Squares(
                delta2=jacobian.layer_delta_norm2[kept],
                weight2=jacobian.layer_weight_gradient2[kept],
                sharpness=jacobian.parameter_gradient2[kept].sum(axis=1),
                first_layer=jacobian.first_layer[kept],
            ),
            rounds=None,
            kept=kept,
            converged=True,
            left_tolerance=0.0,
            num_evaluations=jacobian.num_evaluations,
        )
    sums = jacobian.sums
    kept = kept & sums.finite
    rounds = _at_points(sums.rounds, kept)
    return Evidence(
        squares=_combined(rounds, lambda name, parts: parts.mean(axis=0)),
        rounds=rounds,
        kept=kept,
        converged=sums.converged and settled,
        left_tolerance=0.5 * jacobian.tolerance * relative,
        num_evaluations=jacobian.num_evaluations,
    )


def factors(
    squares: Squares, input_norm2: np.ndarray, names: tuple[str, ...], norms: LayerNorms, form: Form
) -> Factors:
    """The factors from squared norms and ||x_i^l||^2 (n, L).

    Raises:
        MetricError: a layer reads zeros only.
    """
    if (input_norm2 == 0.0).any():
        layer = names[int(np.flatnonzero((input_norm2 == 0.0).any(axis=0))[0])]
        raise MetricError(
            f"layer {layer} reads only zeros at a probe point: ||W||/||x|| is infinite"
        )
    total, unrolled = squares.sharpness, squares.delta2 * input_norm2
    spectral, g2 = norms.kernel, squares.weight2
    if form == "unrolled":
        spectral, g2 = norms.unrolled, unrolled
        total = total - squares.weight2.sum(axis=1) + unrolled.sum(axis=1)
    return Factors(a=spectral / np.sqrt(input_norm2), g=np.sqrt(g2), sharpness=total)


def checked(
    name: str,
    held: Evidence,
    sides: Callable[[Squares, Form], Sides],
    *,
    logs: bool = False,
    note: str | None = None,
) -> Measurement:
    """The bound with both sides' slack (right - left) and how often each form was violated.

    Where the gradient norms are estimated, the slack's standard error (jackknife over rounds)
    decides how often a violation may hide within two of them.
    """
    unrolled, shared = sides(held.squares, "unrolled"), sides(held.squares, "shared")
    if not np.isfinite(unrolled.value):
        raise MetricError("the bound is not finite: a layer's weights or gradients vanish")
    notes = [note] if note else []
    lost = ~held.kept
    if lost.any():
        notes.append(who_is_left_out("not finite", lost))
    broken = _violations(unrolled, logs)
    if broken.any():
        notes.append(f"the bound is violated {broken.sum()} times")
    error, extras = None, {}
    if held.rounds is not None:
        slack_error, error = _jackknife(held.rounds, lambda s: sides(s, "unrolled"))
        scale = 1.0 if logs else np.abs(unrolled.left)
        room = 2.0 * slack_error + held.left_tolerance * scale
        close = np.abs(unrolled.right - unrolled.left) <= room
        notes += _estimate_notes(error, unrolled.value, logs, broken, close)
        extras = {
            "monte_carlo_std_error": (error,),
            "slack_std_error": tuple(float(v) for v in slack_error),
            "undecided": (float(close.sum()),),
        }
    return Measurement(
        name=name,
        value=unrolled.value,
        std_error=error,
        converged=held.converged,
        num_evaluations=held.num_evaluations,
        num_points=int(held.kept.sum()),
        reason="; ".join(notes) or None,
        extras={
            "slack": _slack(unrolled),
            "violations": (float(broken.sum()),),
            "shared": (shared.value,) if np.isfinite(shared.value) else (),
            "shared_slack": _slack(shared),
            "shared_violations": (float(_violations(shared, logs).sum()),),
            **extras,
        },
    )


def _estimate_notes(
    error: float, value: float, logs: bool, broken: np.ndarray, close: np.ndarray
) -> list[str]:
    size = f"{error:.2g} nats" if logs else f"{error / max(abs(value), 1e-300):.1%}"
    notes = [f"gradient norms estimated (standard error of the bound {size})"]
    hidden, chance = int((close & ~broken).sum()), int((close & broken).sum())
    if hidden:
        notes.append(f"within the estimate's error of a violation {hidden} times")
    if chance:
        notes.append(f"{chance} of the violations are within the estimate's error")
    return notes


def _jackknife(rounds: Squares, sides: Callable[[Squares], Sides]) -> tuple[np.ndarray, float]:
    """Standard errors of slack and value: each round left out of each group of points.

    Points draw independently, so that groups give (rounds - 1) degrees of freedom each; errors of
    few degrees of freedom are widened.
    """
    count, points = rounds.sharpness.shape
    mean = _combined(rounds, lambda name, parts: parts.mean(axis=0))
    slack2, value2 = np.zeros(1), 0.0
    groups = np.array_split(np.arange(points), min(points, _GROUPS))
    for group in groups:
        found = [sides(_without(rounds, mean, out, group)) for out in range(count)]
        slack2 = slack2 + _spread([s.right - s.left for s in found])
        value2 += float(_spread([np.array(s.value) for s in found]))
    together = widening(len(groups) * (count - 1))
    by_point = len(slack2) == points
    each = widening(count - 1) if by_point else together
    return each * np.sqrt(slack2), together * float(np.sqrt(value2))


def _without(rounds: Squares, mean: Squares, out: int, group: np.ndarray) -> Squares:
    """The mean over rounds, at the group's points without the round `out`."""

    def rest(name: str, parts: np.ndarray) -> np.ndarray:
        moved = getattr(mean, name).copy()
        moved[group] = (parts[:, group].sum(axis=0) - parts[out, group]) / (len(parts) - 1)
        return moved

    return _combined(rounds, rest)


def _spread(left_out: list[np.ndarray]) -> np.ndarray:
    values = np.stack(left_out)
    with np.errstate(invalid="ignore"):
        return (len(values) - 1) * np.nan_to_num(values.var(axis=0))


def _combined(rounds: Squares, reduce: Callable[[str, np.ndarray], np.ndarray]) -> Squares:
    parts = {f.name: reduce(f.name, getattr(rounds, f.name)) for f in fields(Squares)}
    return replace(rounds, **parts)


def _at_points(rounds: Rounds, kept: np.ndarray) -> Squares:
    return Squares(
        delta2=rounds.layer_delta_norm2[:, kept],
        weight2=rounds.layer_weight_gradient2[:, kept],
        sharpness=rounds.sharpness[:, kept],
        first_layer=rounds.first_layer[:, kept],
    )


def _slack(sides: Sides) -> tuple[float, ...]:
    slack = sides.right - sides.left
    return tuple(float(v) for v in slack[np.isfinite(slack)])


def _violations(sides: Sides, logs: bool) -> np.ndarray:
    room = _TOLERANCE if logs else _TOLERANCE * np.abs(sides.right)
    return np.asarray(sides.left > sides.right + room)
