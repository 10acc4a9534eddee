"""What each metric adds to the hyperparameters in predicting each outcome."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import polars as pl

from flatscale.stats.estimators.predictive_gain import (
    MIN_BLOCKS,
    Gain,
    add_measure,
    blocked_folds,
    design_features,
    gain_of,
    normal_scores,
    predict_out_of_fold,
    too_few_groups,
)
from flatscale.stats.estimators.replication import choose_units, recode
from flatscale.stats.sample import Floats, Ints, numeric_column
from flatscale.stats.tables.against_outcomes import metric_outcome_pairs, without_replicates
from flatscale.stats.tables.declaration import (
    COUNT,
    P_VALUE,
    REAL,
    REASON,
    TEXT,
    Column,
    Row,
    interval,
    number_of_trials,
    study_table,
)
from flatscale.stats.tables.study_data import StudyData, with_q_values

CONFIGURATION, FAMILY = "configuration", "family"
_MOST_LEVELS, _BINS = 10, 5


@study_table(
    "gain_beyond_hyperparameters",
    "one metric, one outcome, one way to leave networks out",
    Column("metric", TEXT, "the metric", "metric"),
    Column("outcome", TEXT, "the outcome", "outcome"),
    Column(
        "left_out",
        TEXT,
        "what the predicted networks differ in from those learnt from: a configuration, a family, "
        "or a value of a hyperparameter (five ranges of one with more than ten values)",
        "left out",
    ),
    Column(
        "hyperparameters",
        REAL,
        "R^2 out of fold from the hyperparameters alone, of the outcome's normal scores",
        "R² alone",
        "correlation",
    ),
    Column("both", REAL, "R^2 out of fold with the metric beside them", "R² with", "correlation"),
    Column("gain", REAL, "their difference", "gain", "correlation"),
    *interval(meaning="end of the jackknife interval over the units, predictions as they are"),
    replace(P_VALUE, meaning="one-sided p-value of no gain"),
    Column("q_value", REAL, "Benjamini-Hochberg over this table", "q", "probability"),
    Column("units", TEXT, "independent units: families, configurations or rows"),
    Column("num_units", COUNT, "how many of these units there are"),
    number_of_trials(),
    REASON,
    title="Gain beyond the hyperparameters",
    caption="How much better the outcome of a network that was left out is predicted when the "
    "metric is known beside the hyperparameters. Whole configurations are left out together; "
    "families and values of a hyperparameter, to see whether the gain carries over. A metric that "
    "says nothing has a gain a little below 0.",
    key="gain",
    emphasis=lambda row: row["conf_low"] is not None and row["conf_low"] > 0,
)
def gain_beyond_hyperparameters(study: StudyData) -> list[Row]:
    """Every metric with every outcome, by each way to leave networks out."""
    design = study.design
    names = without_replicates(study.table, design)
    if not names:
        return []
    columns = {name: numeric_column(study.table, name) for name in _columns_of(study)}
    known = study.table.select(
        pl.all_horizontal(pl.col(c).is_not_null() for c in (*names, *filter(None, [design.family])))
    ).to_series()
    rows: list[Row] = []
    predicted: dict[tuple[str, bytes], Mapping[str, Floats]] = {}
    for metric, outcome in metric_outcome_pairs(design):
        finite = np.isfinite(columns[metric]) & np.isfinite(columns[outcome]) & known.to_numpy()
        part = study.table.filter(pl.Series(finite))
        scores = {
            name: normal_scores(values[finite])
            for name, values in columns.items()
            if np.isfinite(values[finite]).all()
        }
        splits = dict(_groups(study, part, names))
        too_small = too_few_groups(splits[CONFIGURATION], MIN_BLOCKS, CONFIGURATION)
        for what, groups in splits.items():
            row = {"metric": metric, "outcome": outcome, "left_out": what, "num_trials": len(part)}
            problem = too_small or too_few_groups(groups, 2, what)
            problem = problem or next(
                (f"{c} is constant" for c in (metric, outcome) if np.ptp(columns[c][finite]) == 0),
                None,
            )
            if problem:
                rows.append(row | {"p_value": None, "reason": problem})
                continue
            folds = blocked_folds(groups, design.seed)
            key = (what, finite.tobytes())
            if key not in predicted:
                targets = np.column_stack(list(scores.values()))
                found = predict_out_of_fold(design_features(part, names), targets, folds)
                predicted[key] = dict(zip(scores, found.T, strict=True))
            rows.append(row | _gain(study, part, predicted[key], scores, metric, outcome, folds))
    return with_q_values(rows)


def _columns_of(study: StudyData) -> list[str]:
    return list(dict.fromkeys((*study.design.all_metrics, *study.design.outcomes)))


def _groups(study: StudyData, part: pl.DataFrame, names: list[str]) -> Iterator[tuple[str, Ints]]:
    """Each way to split the networks: by configuration, by family, by each hyperparameter."""
    design = study.design
    point = [*(design.configuration or names), *filter(None, [design.family])]
    yield CONFIGURATION, _codes(part, point)
    seen = []
    if design.family is not None:
        seen.append(_codes(part, [design.family]))
        yield FAMILY, seen[0]
    for name in names:
        codes = _codes(part, [name])
        if int(codes.max(initial=0)) >= _MOST_LEVELS and part[name].dtype.is_numeric():
            ranks = part[name].rank("average").to_numpy()
            codes = recode(np.floor(_BINS * (ranks - 1) / len(ranks)))
        if int(codes.max(initial=0)) > 0 and not any(np.array_equal(codes, s) for s in seen):
            yield name, codes


def _codes(table: pl.DataFrame, columns: list[str]) -> Ints:
    """Codes of the distinct values, by first appearance."""
    codes: dict[tuple[object, ...], int] = {}
    points = table.select(list(dict.fromkeys(columns))).rows()
    return np.array([codes.setdefault(point, len(codes)) for point in points], dtype=np.int64)


def _gain(
    study: StudyData,
    part: pl.DataFrame,
    predicted: Mapping[str, Floats],
    scores: Mapping[str, Floats],
    metric: str,
    outcome: str,
    folds: Ints,
) -> Row:
    design = study.design
    without = np.column_stack([predicted[outcome], predicted[metric]])
    together = add_measure(without, scores[outcome], scores[metric], folds)
    units = choose_units(
        len(part),
        None if design.family is None else _codes(part, [design.family]),
        _codes(part, list(design.configuration)) if design.configuration else None,
    )
    found: Gain = gain_of(
        scores[outcome], without[:, 0], together, units, confidence=design.confidence
    )
    return {
        "hyperparameters": found.hyperparameters,
        "both": found.both,
        "gain": found.gain.estimate,
        "conf_low": found.gain.conf_low,
        "conf_high": found.gain.conf_high,
        "p_value": found.gain.p_value,
        "units": found.gain.units,
        "num_units": found.gain.num_units,
        "reason": found.gain.reason,
    }
