"""Tables of the pairs analysed in depth: families, synthesis, robust line, family scan, mixed
model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from flatscale.stats.design import CONVERGED_SUFFIX, StudyDesign
from flatscale.stats.estimators.correlation import estimate_correlation
from flatscale.stats.estimators.families import leave_one_family_out, per_family
from flatscale.stats.estimators.mixed_model import mixed_model
from flatscale.stats.estimators.multiplicity import adjust
from flatscale.stats.estimators.outlier_clusters import OUTLIER_Z, SIDES, Scan, scan_families
from flatscale.stats.estimators.robust_line import band_positions, robust_line
from flatscale.stats.estimators.synthesis import fisher_z, synthesize
from flatscale.stats.findings import Finding
from flatscale.stats.sample import Sample
from flatscale.stats.tables import declared as tables

Row = dict[str, Any]
SMALL_CLUSTER = "two rows: at the limit of what a permutation test can tell, not a family effect"


@dataclass(frozen=True, kw_only=True, eq=False)
class Clusters:
    """The scan of one pair as table rows, and which sample rows belong to each flagged cluster."""

    rows: list[Row]
    flagged: dict[str, np.ndarray]
    scan: Scan

    def flagged_rows(self, num_rows: int) -> np.ndarray:
        """Which rows belong to any flagged cluster."""
        mask = np.zeros(num_rows, dtype=bool)
        for members in self.flagged.values():
            mask[members] = True
        return mask


def leave_one_out_rows(sample: Sample) -> list[Row]:
    """Rows of `leave_one_out`."""
    if sample.family is None or sample.problem():
        return []
    pooled = estimate_correlation(sample.x, sample.y).estimate
    values = leave_one_family_out(sample)
    rows = []
    for code, name in enumerate(sample.family_names):
        value = None if math.isnan(values[code]) else float(values[code])
        shift = None if value is None or pooled is None else value - pooled
        remaining = int(np.sum(sample.family != code))
        rows.append(
            _pair(sample)
            | {"family": name, "num_trials": remaining, "estimate": value, "shift": shift}
        )
    return sorted(rows, key=lambda row: str(row["family"]))


def family_rows(sample: Sample, confidence: float) -> tuple[list[Row], list[Row]]:
    """Rows of `family_correlations` and the one row of `synthesis`."""
    if sample.family is None:
        return [], [_pair(sample) | {"reason": "the table has no family column"}]
    found = per_family(sample, confidence=confidence)
    used, z, variance, refused = fisher_z(found)
    result = synthesize(z, variance, confidence=confidence) if len(used) >= 2 else None
    place = {name: index for index, name in enumerate(used)}
    rows = []
    for name, estimate in found.items():
        row = _pair(sample) | {
            "family": name,
            "num_trials": estimate.num_trials,
            "estimate": estimate.estimate,
            "conf_low": estimate.conf_low,
            "conf_high": estimate.conf_high,
            "reason": refused.get(name),
        }
        if name in place:
            index = place[name]
            row |= {"z": float(z[index]), "std_error": math.sqrt(variance[index])}
            row["weight"] = None if result is None else float(result.weights[index])
        rows.append(row)
    summary = _pair(sample) | {"num_families": len(used), "num_left_out": len(refused)}
    if result is None:
        summary["reason"] = f"{len(used)} families with a usable correlation, at least 2 needed"
        return rows, [summary]
    summary |= {name: getattr(result, name) for name in _SAME}
    ends = ("conf_low", "conf_high", "prediction_low", "prediction_high")
    summary |= {name: math.tanh(getattr(result, name)) for name in ends}
    return rows, [summary | {"estimate": result.r}]


_SAME = (
    "z",
    "std_error",
    "wald_std_error",
    "p_value",
    "tau_squared",
    "q_statistic",
    "q_p_value",
    "i_squared",
)


def line_rows(sample: Sample, design: StudyDesign) -> tuple[list[Row], list[Row]]:
    """The row of `robust_line` and the rows of `line_band`."""
    row = _pair(sample) | {
        "log_x": sample.x_name in design.log,
        "log_y": sample.y_name in design.log,
        "num_trials": sample.num_trials,
    }
    line = robust_line(sample)
    if line is None:
        return [row | {"reason": sample.problem()}], []
    row |= {
        "method": line.method,
        "slope": line.slope,
        "intercept": line.intercept,
        "scale": line.scale,
        "reason": line.reason,
    }
    interval = line.interval(design.confidence)
    if interval is not None and line.covariance is not None:
        row["slope_std_error"] = math.sqrt(line.covariance[1, 1])
        row["slope_low"], row["slope_high"] = interval
    positions = band_positions(sample)
    band = line.band(positions, design.confidence)
    points = []
    for index, position in enumerate(positions):
        point = {"x_value": float(position), "y_value": line.intercept + line.slope * position}
        if band is not None:
            point |= {"band_low": float(band[0][index]), "band_high": float(band[1][index])}
        points.append(_pair(sample) | point)
    return [row], points


def find_clusters(sample: Sample, design: StudyDesign) -> Clusters:
    """The family scan of a pair with q-values over families x sides."""
    scan = scan_families(
        sample, num_resamples=design.num_resamples, seed=design.seed, alpha=design.alpha
    )
    flat = [None if math.isnan(p) else float(p) for p in scan.p_value.ravel()]
    q_values = adjust(flat)
    rows: list[Row] = []
    flagged: dict[str, np.ndarray] = {}
    for index, (p_value, q_value) in enumerate(zip(flat, q_values, strict=True)):
        code, side = divmod(index, 2)
        members = scan.members[code][side]
        name, size = sample.family_names[code], int(np.sum(sample.family == code))
        row = _pair(sample) | {
            "family": name,
            "side": SIDES[side],
            "num_trials": size,
            "num_members": len(members),
            "members": [str(label) for label in sample.labels[members]],
            "p_value": p_value,
            "q_value": q_value,
            "flagged": q_value is not None and q_value <= design.alpha,
        }
        if p_value is None:
            row["reason"] = scan.reason or "one row: nothing to scan"
        elif scan.residuals is not None:
            row["mean_z"] = float(scan.residuals.z[members].mean())
            row["statistic"] = float(scan.log_score[code, side])
            row["reason"] = SMALL_CLUSTER if len(members) == 2 else None
        if row["flagged"]:
            flagged[f"{name} ({SIDES[side]})"] = members
        rows.append(row)
    rows.sort(
        key=lambda row: (row["p_value"] is None, row["p_value"] or 0, row["family"], row["side"])
    )
    return Clusters(rows=rows, flagged=flagged, scan=scan)


def residual_rows(
    sample: Sample, clusters: Clusters, table: pl.DataFrame
) -> tuple[list[Row], list[Row]]:
    """Rows of `residuals` and of `outlier_rows`."""
    residuals = clusters.scan.residuals
    if residuals is None:
        return [], []
    flagged = clusters.flagged_rows(sample.num_trials)
    converged = _converged(sample, table)
    rows, outliers = [], []
    for k in range(sample.num_trials):
        name = None if sample.family is None else sample.family_names[sample.family[k]]
        base = _pair(sample) | {"label": str(sample.labels[k]), "family": name}
        z = float(residuals.z[k])
        rows.append(
            base
            | {
                "x_value": float(sample.x[k]),
                "y_value": float(sample.y[k]),
                "residual": float(residuals.residual[k]),
                "z": z,
                "flagged": bool(flagged[k]),
                "outlier": abs(z) > OUTLIER_Z,
                "converged": None if converged is None else bool(converged[k]),
            }
        )
        if abs(z) > OUTLIER_Z:
            outliers.append(base | {"z": z})
    outliers.sort(key=lambda row: -abs(row["z"]))
    return rows, outliers


def effect_rows(
    sample: Sample, clusters: Clusters, headline: Callable[[Sample], list[Finding]]
) -> list[Row]:
    """Rows of `cluster_effects`: the headline with all rows, without each cluster and without all
    of them.
    """
    removals: dict[str, np.ndarray] = {"none": np.zeros(0, dtype=np.int64)}
    removals |= clusters.flagged
    if len(clusters.flagged) > 1:
        removals["all flagged"] = np.flatnonzero(clusters.flagged_rows(sample.num_trials))
    rows = []
    for name, members in removals.items():
        mask = np.ones(sample.num_trials, dtype=bool)
        mask[members] = False
        for found in headline(sample.keep(mask)):
            row = {key: getattr(found, key) for key in _HEADLINE}
            rows.append(_pair(sample) | {"removed": name, "num_removed": len(members)} | row)
    return rows


_HEADLINE = (
    "scope",
    "method",
    "estimate",
    "conf_low",
    "conf_high",
    "p_value",
    "num_trials",
    "reason",
)


def mixed_rows(sample: Sample, confidence: float) -> list[Row]:
    """Rows of `mixed_model`; one row with the reason where there is no fit."""
    fit = mixed_model(sample, confidence=confidence)
    base = _pair(sample) | {
        "singular": fit.singular,
        "num_trials": sample.num_trials,
        "num_families": sample.num_families,
        "reason": fit.reason,
    }
    if not fit.terms:
        return [base]
    keys = ("term", "estimate", "std_error", "conf_low", "conf_high", "p_value")
    return [base | {key: getattr(term, key) for key in keys} for term in fit.terms]


def excluded_rows(sample: Sample) -> list[Row]:
    """Rows of `excluded`."""
    return [
        _pair(sample)
        | {"label": e.label, "family": e.family, "column": e.column, "reason": e.reason}
        for e in sample.excluded
    ]


def _pair(sample: Sample) -> Row:
    return {"x": sample.x_name, "y": sample.y_name}


def _converged(sample: Sample, table: pl.DataFrame) -> np.ndarray | None:
    """Whether both estimates of each row converged; None where neither column records it."""
    columns = [f"{name}{CONVERGED_SUFFIX}" for name in (sample.x_name, sample.y_name)]
    present = [column for column in columns if column in table.columns]
    if not present:
        return None
    flags = [table[column].cast(pl.Boolean).fill_null(True).to_numpy() for column in present]
    return np.logical_and.reduce(flags)[sample.rows]


def frame(name: str, rows: list[Row]) -> pl.DataFrame:
    """Rows as the table `name`, columns that a row lacks null."""
    return tables.TABLES[name].frame(rows)
