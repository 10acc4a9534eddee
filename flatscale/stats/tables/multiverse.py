"""The primary pair under every choice, declared or not: one specification curve, and its test."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict

import numpy as np

from flatscale.stats.estimators.families import per_family
from flatscale.stats.estimators.specification_curve import (
    POOLED,
    curve_test,
)
from flatscale.stats.tables.declaration import (
    COUNT,
    FLAG,
    REAL,
    REASON,
    TEXT,
    Column,
    Row,
    X,
    Y,
    statistic_columns,
    study_table,
)
from flatscale.stats.tables.specifications import NO_FAMILIES, Specification, specifications
from flatscale.stats.tables.study_data import StudyData

_OWN = "family:"


@study_table(
    "multiverse",
    "the primary pair under one set of choices",
    X,
    Y,
    Column("metric", TEXT, "what stands for x: x or a variant of it", "metric"),
    Column("outcome", TEXT, "what stands for y; (-): its sign is turned to go with y", "outcome"),
    Column("scale_x", TEXT, "raw, log or rank", "x scale"),
    Column("scale_y", TEXT, "raw, log or rank", "y scale"),
    Column(
        "rows",
        TEXT,
        "all, without clusters, converged only, one per family, or family:<name>",
        "networks",
    ),
    Column("families", TEXT, "the column that defines families; none: no families", "families"),
    *statistic_columns(),
    Column("declared", FLAG, "the choices declared in advance"),
    title="The primary pair under other choices",
    caption="Would another scale, another set of networks, other families, another estimator, "
    "other options of the metric or another outcome have given another answer? Bold: the choices "
    "declared before the results were seen.",
    emphasis=lambda row: bool(row["declared"]),
)
def multiverse(study: StudyData) -> Iterator[Row]:
    """Every combination of metric, outcome, scales, networks, families and estimator.

    The metric is x or one of its declared variants (other options of the same measure); the outcome
    is y, a variant of it or, where y is an outcome, another. Scales are raw and log of each axis
    (log only where all values are positive) and the ranks of both. Networks are all, without the
    flagged clusters, converged only, and one per family (the first by label). Families are those
    declared, those that another column of text makes, and none. Estimators are the pooled r, r
    within families and the random-effects mean over families. Each family alone follows; it is no
    specification of the curve.
    """
    x, y = study.design.primary
    for found in study.once(specifications):
        yield {"x": x, "y": y} | found.choices | _result(found, study.design.confidence)
    design = study.design
    if study.primary.family is not None:
        for name, estimate in per_family(study.primary, confidence=design.confidence).items():
            yield asdict(estimate) | {
                "x": x,
                "y": y,
                "metric": x,
                "outcome": y,
                "scale_x": "log" if x in design.log else "raw",
                "scale_y": "log" if y in design.log else "raw",
                "rows": f"{_OWN}{name}",
                "families": NO_FAMILIES,
                "scope": POOLED,
                "method": "pearson",
                "declared": False,
            }


@study_table(
    "multiverse_summary",
    "the specification curve of the primary pair as a whole",
    X,
    Y,
    Column("num_specifications", COUNT, "with an estimate", "choices"),
    Column("declared", REAL, "r of the declared pooled specification", "declared r", "correlation"),
    Column("median", REAL, "median r over specifications", "median r", "correlation"),
    Column("lowest", REAL, "smallest r", "smallest", "correlation"),
    Column("highest", REAL, "largest r", "largest", "correlation"),
    Column("share_sign", REAL, "share with the commoner sign", "same sign", "correlation"),
    Column(
        "share_significant",
        REAL,
        "share of those with a test that have the commoner sign and p <= alpha",
        "significant",
        "correlation",
    ),
    Column("num_tested", COUNT, "specifications with a test", "tested"),
    Column(
        "p_median",
        REAL,
        "share of shuffles whose |median z| is as large",
        "p of median",
        "probability",
    ),
    Column(
        "p_sign",
        REAL,
        "share of shuffles with as many specifications of one sign",
        "p of sign",
        "probability",
    ),
    Column(
        "p_significant",
        REAL,
        "share of shuffles with as many significant specifications of one sign",
        "p of significant",
        "probability",
    ),
    Column("num_shuffles", COUNT, "shuffles", "shuffles"),
    REASON,
    title="All choices together",
    caption="Choices overlap, so the share that agrees cannot be read as evidence by itself: y is "
    "shuffled inside families, seeds of a configuration together, and every choice computed anew. "
    "Flagged clusters stay those of the data. The p-values ask whether x and y are related inside "
    "families at all.",
)
def multiverse_summary(study: StudyData) -> Iterator[Row]:
    """Sign, size and significance over the curve, and their permutation test."""
    found = study.once(specifications)
    x, y = study.design.primary
    known = [one for one in found if np.isfinite(one.point.z[0])]
    if not known:
        reason = study.primary.problem() or "no specification has an estimate"
        yield {"x": x, "y": y, "num_specifications": 0, "reason": reason}
        return
    result = curve_test([one.point for one in known], study.design.alpha)
    values = [math.tanh(one.point.z[0]) for one in known]
    declared = [
        value
        for one, value in zip(known, values, strict=True)
        if one.choices["declared"] and one.choices["scope"] == POOLED
    ]
    shuffles = len(known[0].point.z) - 1
    yield {
        "x": x,
        "y": y,
        "num_specifications": len(known),
        "declared": declared[0] if declared else None,
        "median": result.median,
        "lowest": min(values),
        "highest": max(values),
        "share_sign": max(result.num_positive, result.num_negative) / len(known),
        "share_significant": result.num_significant / result.num_tested
        if result.num_tested
        else None,
        "num_tested": result.num_tested,
        "p_median": result.p_median,
        "p_sign": result.p_sign,
        "p_significant": result.p_significant if result.num_tested else None,
        "num_shuffles": shuffles,
        "reason": None if result.num_tested else "no specification has a test",
    }


def _result(found: Specification, confidence: float) -> Row:
    point, interval = found.point, found.point.interval(confidence)
    row: Row = {"num_trials": found.num_trials}
    if not np.isfinite(point.z[0]):
        return row | {"reason": "constant, a perfect correlation, or too few networks in a family"}
    row |= {"estimate": math.tanh(point.z[0])}
    if interval is None:
        return row | {"reason": "too few independent units for an interval"}
    row |= {"conf_low": interval[0], "conf_high": interval[1], "num_units": found.num_units}
    row |= {"units": None if found.units is None else found.units.level}
    if np.isfinite(point.p_value[0]):
        return row | {"p_value": float(point.p_value[0])}
    return row | {"reason": "holds for these families alone: no test over families"}
