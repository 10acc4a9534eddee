"""Checking an inequality: both sides, the slack, violations, and what an estimate may hide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from flatscale.errors import MetricError
from flatscale.measurement import Measurement
from flatscale.metrics.estimators.accurate_draws import widening
from flatscale.metrics.passes.jacobian.jacobians import Found, GradientNorms, Jacobians
from flatscale.metrics.passes.jacobian.layer_norms import LayerNorms
from flatscale.metrics.probe.point_means import left_out_note

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
    def of_points(cls, left: np.ndarray, right: np.ndarray) -> Sides:
        return cls(left=left, right=right, value=float(right.mean()))

    @classmethod
    def of_means(cls, left: float, right: float) -> Sides:
        return cls(left=np.array([left]), right=np.array([right]), value=float(right))

    @property
    def slack(self) -> np.ndarray:
        return self.right - self.left

    def violations(self, logs: bool) -> np.ndarray:
        """Where the left side exceeds the right one by more than the arithmetic's error."""
        room = _TOLERANCE if logs else _TOLERANCE * np.abs(self.right)
        return np.asarray(self.left > self.right + room)


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
        norms: gradient norms.
        rounds: independent estimates whose mean `norms` is; None where it is exact.
        input_norm2: ||x_i^l||^2 (n, L).
        kept: which of the probe's points those are.
        converged: whether estimates and iterations reached their tolerance.
        left_tolerance: relative accuracy of left sides that were iterated for, from below.
        num_evaluations: per point.
    """

    norms: GradientNorms
    rounds: GradientNorms | None
    input_norm2: np.ndarray
    kept: np.ndarray
    converged: bool
    left_tolerance: float
    num_evaluations: int


def evidence(
    jacobian: Jacobians, left: np.ndarray, found: Found, left_tolerance: float = 0.0
) -> Evidence:
    """Gradient norms at the points whose left side is finite.

    Args:
        jacobian: the pass.
        left: what the left side is made of (n, ...).
        found: how that was found.
        left_tolerance: its relative accuracy, from below.
    """
    sums = jacobian.sums
    kept = np.isfinite(left).reshape(len(left), -1).all(axis=1) & sums.finite
    return Evidence(
        norms=sums.norms.each(lambda values: values[kept]),
        rounds=None if sums.rounds is None else sums.rounds.each(lambda values: values[:, kept]),
        input_norm2=sums.layer_input_norm2[kept],
        kept=kept,
        converged=sums.converged and found.converged,
        left_tolerance=left_tolerance,
        num_evaluations=jacobian.num_evaluations,
    )


def factors(
    squares: GradientNorms,
    input_norm2: np.ndarray,
    names: tuple[str, ...],
    norms: LayerNorms,
    form: Form,
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
    sides: Callable[[GradientNorms, Form], Sides],
    *,
    logs: bool = False,
) -> Measurement:
    """The bound with both sides' slack (right - left) and how often each form was violated.

    Where the gradient norms are estimated, the slack's standard error (jackknife over rounds)
    decides how often a violation may hide within two of them.
    """
    unrolled, shared = sides(held.norms, "unrolled"), sides(held.norms, "shared")
    if not np.isfinite(unrolled.value):
        raise MetricError("the bound is not finite: a layer's weights or gradients vanish")
    lost, broken = ~held.kept, unrolled.violations(logs)
    notes = [left_out_note("not finite", lost)] if lost.any() else []
    if broken.any():
        notes.append(f"the bound is violated {broken.sum()} times")
    error, extras = None, {}
    if held.rounds is not None:
        slack_error, error = _jackknife(held.rounds, lambda norms: sides(norms, "unrolled"))
        scale = 1.0 if logs else np.abs(unrolled.left)
        close = np.abs(unrolled.slack) <= 2.0 * slack_error + held.left_tolerance * scale
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
            "slack": _finite(unrolled.slack),
            "violations": (float(broken.sum()),),
            "shared": _finite(np.array([shared.value])),
            "shared_slack": _finite(shared.slack),
            "shared_violations": (float(shared.violations(logs).sum()),),
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


def _jackknife(
    rounds: GradientNorms, sides: Callable[[GradientNorms], Sides]
) -> tuple[np.ndarray, float]:
    """Standard errors of slack and value: each round left out of each group of points.

    Points draw independently, so that groups give (rounds - 1) degrees of freedom each; errors of
    few degrees of freedom are widened.
    """
    count, points = rounds.sharpness.shape

    def without(out: int, group: np.ndarray) -> Sides:
        def rest(parts: np.ndarray) -> np.ndarray:
            moved = parts.mean(axis=0)
            moved[group] = (parts[:, group].sum(axis=0) - parts[out, group]) / (count - 1)
            return moved

        return sides(rounds.each(rest))

    slack2, value2 = np.zeros(1), 0.0
    groups = np.array_split(np.arange(points), min(points, _GROUPS))
    for group in groups:
        found = [without(out, group) for out in range(count)]
        slack2 = slack2 + _spread([s.slack for s in found])
        value2 += float(_spread([np.array(s.value) for s in found]))
    together = widening(len(groups) * (count - 1))
    each = widening(count - 1) if len(slack2) == points else together
    return each * np.sqrt(slack2), together * float(np.sqrt(value2))


def _spread(left_out: list[np.ndarray]) -> np.ndarray:
    values = np.stack(left_out)
    with np.errstate(invalid="ignore"):
        return (len(values) - 1) * np.nan_to_num(values.var(axis=0))


def _finite(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(v) for v in values[np.isfinite(values)])
