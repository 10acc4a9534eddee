"""The robust line of each pair analysed in depth, with its pointwise band."""

from __future__ import annotations

import math
from collections.abc import Iterator

from flatscale.stats.estimators.robust_line import RobustLine, band_positions, robust_line
from flatscale.stats.sample import Sample
from flatscale.stats.tables.declaration import (
    FLAG,
    NAMED_X,
    NAMED_Y,
    REAL,
    REASON,
    TEXT,
    Column,
    Row,
    X,
    Y,
    interval,
    number_of_trials,
    study_table,
)
from flatscale.stats.tables.study_data import StudyData, pair_of


def line_of(study: StudyData, sample: Sample) -> RobustLine | None:
    """The robust line of a pair; None where there is none."""
    return robust_line(sample)


@study_table(
    "robust_line",
    "one robust line y = intercept + slope x of one pair, on the scale analysed",
    NAMED_X,
    NAMED_Y,
    Column("method", TEXT, "mm (deterministic MM) or theil_sen", "method"),
    Column("slope", REAL, "slope", "slope"),
    Column(
        "slope_std_error",
        REAL,
        "family jackknife where there are 3 or more families, else the fit's own",
    ),
    *interval(
        low="slope_low", high="slope_high", meaning="end of the slope's interval", format="real"
    ),
    Column("intercept", REAL, "intercept", "intercept"),
    Column("scale", REAL, "robust residual standard deviation", "scatter"),
    Column("log_x", FLAG, "x was replaced by log10 x", "scale of x, y", "scale", end="log_y"),
    Column("log_y", FLAG, "y was replaced by log10 y"),
    number_of_trials("networks"),
    REASON,
    title="Robust line",
    caption="y = intercept + slope · x on the scale analysed. The interval of the slope is a "
    "jackknife over families where there are three or more.",
)
def line_rows(study: StudyData) -> Iterator[Row]:
    """The line of each pair, or why there is none."""
    design = study.design
    for sample in study.in_depth:
        row = pair_of(sample) | {
            "log_x": sample.x_name in design.log,
            "log_y": sample.y_name in design.log,
            "num_trials": sample.num_trials,
        }
        line = study.once(line_of, sample)
        if line is None:
            yield row | {"reason": sample.problem()}
            continue
        row |= vars(line)
        interval = line.interval(design.confidence)
        if interval is not None and line.covariance is not None:
            row["slope_std_error"] = math.sqrt(line.covariance[1, 1])
            row["slope_low"], row["slope_high"] = interval
        yield row


@study_table(
    "line_band",
    "one point of the robust line with its pointwise band, on the scale analysed",
    X,
    Y,
    Column("x_value", REAL, "position, after the logarithm where one was declared"),
    Column("y_value", REAL, "the line there"),
    Column("band_low", REAL, "lower end of the pointwise band"),
    Column("band_high", REAL, "upper end of the pointwise band"),
)
def line_band(study: StudyData) -> Iterator[Row]:
    """Points of each line, with the band where it has one."""
    for sample in study.in_depth:
        line = study.once(line_of, sample)
        if line is None:
            continue
        positions = band_positions(sample)
        band = line.band(positions, study.design.confidence)
        for index, position in enumerate(positions):
            point = {"x_value": float(position), "y_value": line.intercept + line.slope * position}
            if band is not None:
                point |= {"band_low": float(band[0][index]), "band_high": float(band[1][index])}
            yield pair_of(sample) | point
