"""Tables of metrics against outcomes: associations, comparisons, granulated Kendall, information,
sign errors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import polars as pl

from flatscale.stats.design import StudyDesign, pair_sample
from flatscale.stats.estimators.comparison import compare_metrics
from flatscale.stats.estimators.granulated import granulated_kendall
from flatscale.stats.estimators.multiplicity import adjust
from flatscale.stats.estimators.mutual_information import conditional_information
from flatscale.stats.estimators.sign_error import sign_errors
from flatscale.stats.findings import Finding
from flatscale.stats.pair import headline
from flatscale.stats.sample import numeric_column

Row = dict[str, Any]


def metric_outcome_pairs(design: StudyDesign) -> Iterator[tuple[str, str]]:
    """Every metric with every outcome it is not itself."""
    for outcome in design.outcomes:
        for metric in design.all_metrics:
            if metric != outcome:
                yield metric, outcome


def association_findings(table: pl.DataFrame, design: StudyDesign) -> list[Finding]:
    """Headline correlations of every metric with every outcome."""
    rows = []
    for metric, outcome in metric_outcome_pairs(design):
        sample = pair_sample(table, design, metric, outcome)
        rows += headline(sample, confidence=design.confidence)
    return rows


def comparison_rows(table: pl.DataFrame, design: StudyDesign) -> list[Row]:
    """Rows of `comparisons`: the primary x against every other metric, outcome by outcome."""
    rows: list[Row] = []
    first = design.primary[0]
    for outcome in design.outcomes:
        for other in design.all_metrics:
            if other == first or outcome in (first, other):
                continue
            left = pair_sample(table, design, first, outcome)
            right = pair_sample(table, design, other, outcome)
            _, at_left, at_right = np.intersect1d(left.rows, right.rows, return_indices=True)
            family = None if left.family is None else _recode(left.family[at_left])
            result = compare_metrics(
                left.x[at_left],
                right.x[at_right],
                left.y[at_left],
                family=family,
                confidence=design.confidence,
                num_resamples=design.num_resamples,
                seed=design.seed,
            )
            names = {"metric_a": first, "metric_b": other, "outcome": outcome}
            rows.append(names | {"method": "pearson"} | asdict(result))
    for row, q in zip(rows, adjust([row["p_value"] for row in rows]), strict=True):
        row["q_value"] = q
    return rows


def granulated_rows(table: pl.DataFrame, design: StudyDesign) -> list[Row]:
    """Rows of `granulated`."""
    rows: list[Row] = []
    if not design.hyperparameters:
        return rows
    for metric, outcome in metric_outcome_pairs(design):
        found = granulated_kendall(table, metric, outcome, design.hyperparameters)
        for name, estimate in [*found.psi.items(), ("mean", found.mean)]:
            rows.append(
                {
                    "metric": metric,
                    "outcome": outcome,
                    "hyperparameter": name,
                    "estimate": estimate.estimate,
                    "num_groups": found.num_groups.get(name),
                    "num_trials": estimate.num_trials,
                    "reason": estimate.reason,
                }
            )
    return rows


def information_rows(table: pl.DataFrame, design: StudyDesign) -> list[Row]:
    """Rows of `mutual_information`."""
    rows: list[Row] = []
    if not design.hyperparameters:
        return rows
    for metric, outcome in metric_outcome_pairs(design):
        found = conditional_information(table, metric, outcome, design.hyperparameters)
        named = [(" & ".join(names) or "nothing", e) for names, e in found.by_set.items()]
        for name, estimate in [*named, ("minimum", found.minimum)]:
            rows.append(
                {
                    "metric": metric,
                    "outcome": outcome,
                    "conditioned_on": name,
                    "estimate": estimate.estimate,
                    "num_pairs": found.num_pairs,
                    "num_trials": estimate.num_trials,
                    "reason": estimate.reason,
                }
            )
    return rows


def sign_error_rows(table: pl.DataFrame, design: StudyDesign) -> list[Row]:
    """Rows of `sign_errors`."""
    rows: list[Row] = []
    if not design.hyperparameters and not design.environments:
        return rows
    for metric, outcome in metric_outcome_pairs(design):
        samples = design.num_test_samples
        if samples is not None and not _is_rate(table, outcome):
            samples = None
        found = sign_errors(
            table,
            metric,
            outcome,
            environments=design.environments,
            hyperparameters=design.hyperparameters,
            num_test_samples=samples,
        )
        summaries = {
            "mean": found.mean,
            "percentile_90": found.percentile_90,
            "max": found.maximum,
        }
        note = None
        if samples != design.num_test_samples:
            note = f"{outcome} is not a rate in [-1, 1]: all pairs weighted alike"
        for name, estimate in summaries.items():
            rows.append(
                {
                    "metric": metric,
                    "outcome": outcome,
                    "summary": name,
                    "estimate": estimate.estimate,
                    "num_environments": found.environments.height,
                    "num_pairs": int(found.environments["num_pairs"].sum()),
                    "num_trials": estimate.num_trials,
                    "reason": "; ".join(filter(None, [estimate.reason, note])) or None,
                }
            )
    return rows


def _is_rate(table: pl.DataFrame, outcome: str) -> bool:
    values = numeric_column(table, outcome)
    return bool(np.nanmax(np.abs(np.where(np.isfinite(values), values, np.nan)), initial=0) <= 1)


def _recode(family: np.ndarray) -> np.ndarray:
    return np.unique(family, return_inverse=True)[1]
