"""The data of the charts: one object per trial, under keys that no column name can break."""

from __future__ import annotations

import math
from typing import Any

import polars as pl

from flatscale.report.content import Content

NAME, FAMILY = "name", "family"
ONE_FAMILY = "all"


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
    """`trials`: a point per used trial; `line`: the robust line of the primary pair."""
    return {"trials": _trials(content), "line": _line(content)}


def _trials(content: Content) -> list[dict[str, Any]]:
    rows, keys = content.rows, column_keys(content)
    frame = rows.select(
        _text(rows, content.label if "name" not in rows.columns else "name").alias(NAME),
        (_text(rows, content.family) if content.family else pl.lit(ONE_FAMILY)).alias(FAMILY),
        *(pl.col(column).cast(pl.Float64).alias(key) for column, key in keys.items()),
        *(expr for column in content.primary for expr in _error_ends(rows, column, keys)),
    )
    return [{k: _finite(v) for k, v in row.items()} for row in frame.iter_rows(named=True)]


def _text(rows: pl.DataFrame, column: str) -> pl.Expr:
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
    return None if isinstance(value, float) and not math.isfinite(value) else value
