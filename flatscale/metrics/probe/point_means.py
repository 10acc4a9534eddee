"""From one value per probe point to a measurement: mean, standard error, who was left out."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from flatscale.errors import MetricError
from flatscale.measurement import Measurement


def mean_over_points(
    name: str,
    values: np.ndarray,
    *,
    num_evaluations: int,
    converged: bool = True,
    left_out: Mapping[str, np.ndarray] | None = None,
    layers: Mapping[str, np.ndarray] | None = None,
    extras: Mapping[str, tuple[float, ...]] | None = None,
    note: str | None = None,
) -> Measurement:
    """The mean over points with standard error std / sqrt(n); non-finite points named and left out.

    Args:
        name: the metric.
        values: one per point (n,).
        num_evaluations: network evaluations per point.
        converged: whether the values reached their tolerance.
        left_out: further points to leave out (n,) bool, by reason.
        layers: per-point values (n,) of each layer, averaged over the same points.
        extras: passed on.
        note: what a reader must know, joined to the reason.

    Raises:
        MetricError: no point is left.
    """
    reasons = {"not finite": ~np.isfinite(values)}
    for reason, mask in (left_out or {}).items():
        if reason == "not finite":
            reasons[reason] |= mask
        else:
            reasons[reason] = mask & ~reasons["not finite"]
    kept = ~np.any(list(reasons.values()), axis=0)
    lines = [left_out_note(reason, mask) for reason, mask in reasons.items() if mask.any()]
    if not kept.any():
        raise MetricError(f"no probe point is left: {'; '.join(lines)}")
    used = values[kept]
    count = len(used)
    return Measurement(
        name=name,
        value=float(used.mean()),
        std_error=float(used.std(ddof=1) / np.sqrt(count)) if count > 1 else None,
        converged=converged,
        num_evaluations=num_evaluations,
        num_points=count,
        reason="; ".join([*lines, *([note] if note else [])]) or None,
        layers={layer: float(v[kept].mean()) for layer, v in (layers or {}).items()},
        extras=extras or {},
    )


def left_out_note(reason: str, mask: np.ndarray) -> str:
    """Which points (n,) bool a measurement does not rest on, and why."""
    places = np.flatnonzero(mask)
    shown = ", ".join(str(i) for i in places[:10]) + (", ..." if len(places) > 10 else "")
    return f"{len(places)} of {len(mask)} points left out, {reason}: {shown}"
