"""The data of the charts: one object per trial, under keys that no column name can break."""

from __future__ import annotations

import math
from typing import Any

import polars as pl

from flatscale.report.content import frames
from flatscale.report.content.content import Content

NAME, FAMILY, OWN_FAMILY = "name", "family", "own_family"
"""FAMILY is the one in the legend, OWN_FAMILY the one a hover shows."""
MAX_LINES = 150


def column_keys(content: Content) -> dict[str, str]:
    """Column -> key in the charts' data; Vega reads dots and brackets in a name as a path."""
    columns = (
        *content.primary,
        *content.metrics,
        *content.outcomes,
        *content.hyperparameters,
    )
    present = [name for name in dict.fromkeys(columns) if name in content.rows.columns]
    return {name: f"v{index}" for index, name in enumerate(present)}


def point_datasets(content: Content) -> dict[str, list[dict[str, Any]]]:
    """Every data set the charts name, as lists of objects.

    `trials` has a point per used trial, `line` the robust line of the primary pair; the others are
    the frames of `flatscale.report.content.frames` under their own names.
    """
    drawn = {
        "forest": frames.forest(content),
        "levels": frames.levels(content),
        "left_out": frames.left_out(content),
        "residuals": frames.residuals(content),
        "matrix": frames.matrix(content),
        "convergence": frames.convergence(content),
        "bounds": content.bounds.drop_nulls("log10_ratio"),
        "trajectories": _trajectories(content),
    }
    return {
        "trials": _trials(content),
        "line": _line(content),
        **{name: _records(frame) for name, frame in drawn.items()},
    }


def _records(frame: pl.DataFrame) -> list[dict[str, Any]]:
    return [{k: _finite(v) for k, v in row.items()} for row in frame.iter_rows(named=True)]


def _trajectories(content: Content) -> pl.DataFrame:
    """At most MAX_LINES networks, evenly over the families, so that the lines can be told apart."""
    trajectories = frames.trajectories(content)
    if trajectories.is_empty():
        return trajectories
    labels = trajectories.select("label", "family").unique(maintain_order=True)
    rank = pl.int_range(pl.len()).over("family")
    kept = labels.with_columns(rank.alias("rank")).sort("rank", maintain_order=True)
    thinned = trajectories.join(
        kept.head(MAX_LINES).select("label"), on="label", maintain_order="left"
    )
    return thinned.with_columns(content.shown_family().alias("family"))


def _trials(content: Content) -> list[dict[str, Any]]:
    rows, keys = content.rows, column_keys(content)
    frame = rows.select(
        _text("name").alias(NAME),
        content.shown_family().alias(FAMILY),
        (_text(content.family) if content.family else pl.lit("")).alias(OWN_FAMILY),
        *(pl.col(column).cast(pl.Float64).alias(key) for column, key in keys.items()),
        *(expr for column in content.primary for expr in _error_ends(rows, column, keys)),
    )
    return _records(frame)


def _text(column: str) -> pl.Expr:
    return pl.col(column).cast(pl.String).fill_null("(missing)")


def _error_ends(rows: pl.DataFrame, column: str, keys: dict[str, str]) -> list[pl.Expr]:
    """value - se and value + se; the lower end is absent where a log axis could not show it."""
    error = f"{column}__std_error"
    if column not in keys or error not in rows.columns:
        return []
    value, half, key = pl.col(column), pl.col(error), keys[column]
    return [(value - half).alias(f"{key}_low"), (value + half).alias(f"{key}_high")]


def _line(content: Content) -> list[dict[str, Any]]:
    band = content.of_primary("line_band")
    if band.is_empty():
        return []
    log_x, log_y = (name in content.log for name in content.primary)
    return [
        {
            "x": _from_scale(row["x_value"], log=log_x),
            **{
                key: _from_scale(row[column], log=log_y)
                for key, column in (("y", "y_value"), ("low", "band_low"), ("high", "band_high"))
            },
        }
        for row in band.iter_rows(named=True)
    ]


def _from_scale(value: float | None, *, log: bool) -> float | None:
    if value is None:
        return None
    return _finite(10.0**value if log and value < 300 else value)


def _finite(value: Any) -> Any:
    """Seven digits, more than a screen resolves; infinite and NaN become absent."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.7g}") if math.isfinite(value) else None
