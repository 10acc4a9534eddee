"""Tables over metrics: the metric x metric matrix and the reliability of each metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from flatscale.stats.design import CONVERGED_SUFFIX, ERROR_SUFFIX, StudyDesign
from flatscale.stats.estimators.measurement_error import reliability
from flatscale.stats.estimators.multiplicity import adjust
from flatscale.stats.findings import Finding
from flatscale.stats.sample import numeric_column

Row = dict[str, Any]


def matrix_rows(findings: Sequence[Finding], pairs: Sequence[tuple[str, str]]) -> list[Row]:
    """Rows of `matrix` from the pooled findings of each pair, with q-values over all pairs."""
    pooled = {(f.x, f.y, f.method): f for f in findings if f.scope == "pooled"}
    rows: list[Row] = []
    for x, y in pairs:
        row: Row = {"x": x, "y": y, "num_trials": pooled[x, y, "pearson"].num_trials}
        reasons = []
        for short, method in (("r", "pearson"), ("tau", "kendall")):
            naive = pooled[x, y, method]
            tested = pooled.get((x, y, f"{method}_jackknife"), naive)
            families = tested.num_families or 0
            row[short] = naive.estimate
            row[f"{short}_p_value"] = tested.p_value if families >= 3 else naive.p_value
            reasons.append(naive.reason if naive.estimate is None else tested.reason)
        row["reason"] = next(filter(None, reasons), None)
        rows.append(row)
    for short in ("r", "tau"):
        for row, q in zip(rows, adjust([row[f"{short}_p_value"] for row in rows]), strict=True):
            row[f"{short}_q_value"] = q
    return rows


def reliability_rows(table: pl.DataFrame, design: StudyDesign) -> list[Row]:
    """Rows of `reliability`, on the scale analysed."""
    return [_reliability_row(table, name, name in design.log) for name in design.all_metrics]


def _reliability_row(table: pl.DataFrame, name: str, log: bool) -> Row:
    raw = numeric_column(table, name)
    usable = np.isfinite(raw) & (raw > 0) if log else np.isfinite(raw)
    values = np.log10(raw[usable]) if log else raw[usable]
    row: Row = {
        "metric": name,
        "num_trials": len(values),
        "num_missing": len(raw) - len(values),
        "mean": float(values.mean()) if len(values) else None,
        "std_dev": float(values.std(ddof=1)) if len(values) > 1 else None,
    }
    flag = f"{name}{CONVERGED_SUFFIX}"
    if flag in table.columns:
        row["num_unconverged"] = int((~table[flag].cast(pl.Boolean).fill_null(True)).sum())
    error = f"{name}{ERROR_SUFFIX}"
    if error not in table.columns:
        return row | {"reason": "no standard errors are recorded"}
    errors = numeric_column(table, error)[usable]
    if log:
        errors = errors / (raw[usable] * np.log(10))
    known = errors[np.isfinite(errors)]
    row["mean_squared_error"] = float(np.mean(known**2)) if len(known) else None
    row["reliability"], row["reason"] = reliability(values, errors)
    return row
