"""All metrics side by side: each with each, against its noise, and bounds against metrics."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import polars as pl

from flatscale.stats.design import CONVERGED_SUFFIX, ERROR_SUFFIX
from flatscale.stats.estimators.bound_tightness import bound_tightness
from flatscale.stats.estimators.measurement_error import reliability
from flatscale.stats.sample import numeric_column, to_scale
from flatscale.stats.tables.all_findings import pair_findings
from flatscale.stats.tables.declaration import (
    COUNT,
    REAL,
    REASON,
    TEXT,
    Column,
    Row,
    X,
    Y,
    number_of_trials,
    study_table,
)
from flatscale.stats.tables.study_data import StudyData, with_q_values

_P = "family-jackknife p where there are 3 or more families, else the usual one"
_Q = "Benjamini-Hochberg over the matrix"


@study_table(
    "matrix",
    "one unordered pair of metrics",
    X,
    Y,
    Column("r", REAL, "Pearson r"),
    Column("r_p_value", REAL, _P),
    Column("r_q_value", REAL, _Q),
    Column("tau", REAL, "Kendall tau-b"),
    Column("tau_p_value", REAL, _P),
    Column("tau_q_value", REAL, _Q),
    number_of_trials("networks", "rows with both metrics"),
    REASON,
)
def matrix(study: StudyData) -> list[Row]:
    """r and tau of every pair, with q-values over all pairs."""
    found = study.once(pair_findings)
    pooled = {(f.x, f.y, f.method): f for f in found if f.scope == "pooled"}
    rows: list[Row] = []
    for x, y in study.design.all_pairs:
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
        rows = with_q_values(rows, p=f"{short}_p_value", q=f"{short}_q_value")
    return rows


@study_table(
    "reliability",
    "one metric",
    Column("metric", TEXT, "the metric, on the scale analysed", "metric"),
    Column(
        "reliability",
        REAL,
        "1 - mean(std_error^2)/variance; null where not positive or no errors recorded",
        "reliability",
        "correlation",
    ),
    Column("mean", REAL, "mean over rows", "mean"),
    Column("std_dev", REAL, "standard deviation over rows", "standard deviation"),
    Column("mean_squared_error", REAL, "mean over rows of the squared standard error"),
    number_of_trials("networks", "rows with a value"),
    Column("num_missing", COUNT, "rows without a finite value", "missing"),
    Column(
        "num_unconverged",
        COUNT,
        "rows whose estimate did not converge (kept); null: not recorded",
        "unconverged",
    ),
    replace(REASON, meaning="why reliability is null"),
    title="How well each metric is measured",
    caption="Reliability = 1 − mean squared standard error / variance over networks: 1 is "
    "measured without error; noise alone gives 0 and weakens every correlation with it.",
)
def reliabilities(study: StudyData) -> Iterator[Row]:
    """How much of each metric's variation is measurement noise, on the scale analysed."""
    table = study.table
    for name in study.design.all_metrics:
        log = name in study.design.log
        raw = numeric_column(table, name)
        scaled, unusable = to_scale(raw, log=log)
        usable = ~np.isin(np.arange(len(raw)), list(unusable))
        values = scaled[usable]
        row: Row = {
            "metric": name,
            "num_trials": len(values),
            "num_missing": len(raw) - len(values),
            "mean": float(values.mean()) if len(values) else None,
            "std_dev": float(values.std(ddof=1)) if len(values) > 1 else None,
            "reason": "no standard errors are recorded",
        }
        flag, error = f"{name}{CONVERGED_SUFFIX}", f"{name}{ERROR_SUFFIX}"
        if flag in table.columns:
            row["num_unconverged"] = int((~table[flag].cast(pl.Boolean).fill_null(True)).sum())
        if error in table.columns:
            errors = numeric_column(table, error)[usable]
            if log:
                errors = errors / (raw[usable] * np.log(10))
            known = errors[np.isfinite(errors)]
            row["mean_squared_error"] = float(np.mean(known**2)) if len(known) else None
            row["reliability"], row["reason"] = reliability(values, errors)
        yield row


@study_table(
    "bounds",
    "one inequality metric <= bound over all rows",
    Column("bound", TEXT, "column of the right-hand side"),
    Column("metric", TEXT, "column of the left-hand side"),
    number_of_trials(meaning="rows with both sides"),
    Column("num_violations", COUNT, "rows with metric > bound (beyond rounding)"),
    Column("median_log10_ratio", REAL, "median of log10(bound/metric); 0 is tight"),
    Column("low_log10_ratio", REAL, "5th percentile"),
    Column("high_log10_ratio", REAL, "95th percentile"),
    Column("r", REAL, "Pearson r of the logarithms of both sides"),
    REASON,
)
def bounds(study: StudyData) -> Iterator[Row]:
    """How tight each declared inequality is, and how often it fails."""
    for pair in study.design.bounds:
        yield dict(bound_tightness(study.table, *pair))
