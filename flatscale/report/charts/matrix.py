"""Every metric with every other: r below the diagonal, Kendall's tau above it."""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from flatscale.report.charts import frames
from flatscale.report.charts.encodings import hover, named
from flatscale.report.charts.look import INK, Look
from flatscale.report.content.report_content import Content


def matrix(content: Content, frame: pl.DataFrame, look: Look) -> alt.TopLevelMixin:
    """Heat map of both correlations; pairs that survive the correction carry a dot."""
    metrics = list(frames.matrix_metrics(content))
    room = (look.width - look.names - 2 * look.letters) / len(metrics)
    step = min(max(room, 0.5 * look.row), 1.6 * look.row)
    base = named("matrix").encode(
        x=alt.X("column:N", sort=metrics, title=None, axis=alt.Axis(labelAngle=-60)),
        y=alt.Y("row:N", sort=metrics, title=None),
        tooltip=hover(
            ("row", "metric", ""),
            ("column", "with", ""),
            ("statistic", "statistic", ""),
            ("value", "value", ".3f"),
            ("q_value", "q", ".3f"),
            ("num_trials", "networks", "d"),
        ),
    )
    colours = alt.Scale(
        domain=[-1, 0, 1], range=["#d55e00", "#ffffff", "#0072b2"], interpolate="rgb"
    )
    cells: Any = base.mark_rect().encode(
        color=alt.Color(
            "value:Q",
            scale=colours,
            legend=alt.Legend(title="r (below), τ (above)", titleLimit=0),
        )
    )
    marked = "isValid(datum.q_value) && datum.q_value < 0.05"
    strong = alt.condition("abs(datum.value) > 0.55", alt.value("#ffffff"), alt.value(INK))
    if not look.paper and room >= 3.5 * look.letters:
        words = base.transform_calculate(
            said=f"format(datum.value, '.2f') + ({marked} ? ' •' : '')"
        ).mark_text(style="value")
        cells = alt.layer(cells, words.encode(text="said:N", color=strong))
    elif (frame["q_value"] < 0.05).any():
        dots = base.transform_filter(marked).mark_point(style="significant")
        cells = alt.layer(cells, dots.encode(color=strong))
    if look.paper:
        return cells.properties(width=alt.Step(step), height=alt.Step(step))
    return look.across(cells, max(step, look.row) * len(metrics))
