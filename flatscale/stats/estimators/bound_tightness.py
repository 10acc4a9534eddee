"""Inequalities metric <= bound: how often they fail and how loose they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from flatscale.stats.estimators.counts import pearson_counts
from flatscale.stats.sample import find_problem, numeric_column, require_columns

_ROUNDING = 1e-6


def bound_tightness(
    df: pl.DataFrame, bound: str, metric: str, *, logged: bool = False
) -> Mapping[str, Any]:
    """Violations and slack log10(bound/metric) of one inequality, over rows with both sides
    positive.

    With `logged` both columns hold natural logarithms already. A violation is metric > bound by
    more than 1e-6 relative. The keys are the columns of the `bounds` table.
    """
    require_columns(df, [bound, metric])
    left, right = numeric_column(df, metric), numeric_column(df, bound)
    finite = np.isfinite(left) & np.isfinite(right)
    usable = finite if logged else finite & (left > 0) & (right > 0)
    if logged:
        small, large = left[usable] / np.log(10), right[usable] / np.log(10)
    else:
        small, large = np.log10(left[usable]), np.log10(right[usable])
    row: dict[str, Any] = {"bound": bound, "metric": metric, "num_trials": int(usable.sum())}
    if not usable.any():
        return row | {"reason": "no row has both sides positive and finite"}
    ratio = large - small
    row |= {
        "num_violations": int(np.sum(ratio < -_ROUNDING)),
        "median_log10_ratio": float(np.median(ratio)),
        "low_log10_ratio": float(np.quantile(ratio, 0.05)),
        "high_log10_ratio": float(np.quantile(ratio, 0.95)),
    }
    left_out = int(np.sum(finite & ~usable))
    notes = [f"{left_out} rows with a side that is not positive left out"] if left_out else []
    problem = find_problem(small, large, metric, bound)
    if problem:
        notes.append(problem)
    else:
        row["r"] = float(pearson_counts(np.ones((1, len(small))), small, large)[0])
    return row | {"reason": "; ".join(notes) or None}
