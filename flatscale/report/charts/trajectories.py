"""Each measured quantity over training, one line a network."""

from __future__ import annotations

import altair as alt
import polars as pl

from flatscale.report.charts.encodings import (
    column_title,
    family_encoding,
    family_switch,
    hover,
    named,
    shown,
)
from flatscale.report.charts.look import Look
from flatscale.report.content.report_content import Content


def trajectories(content: Content, frame: pl.DataFrame, look: Look) -> alt.ConcatChart:
    """A panel a metric."""
    switch = family_switch(content, look)
    colour = family_encoding(content, look)["color"]
    width = look.panel(look.columns)
    panels: list[alt.Chart] = []
    for metric in frame["metric"].unique(maintain_order=True):
        lines = shown(named("trajectories"), switch)
        values = frame.filter(pl.col("metric") == metric)["value"]
        panel = (
            lines.transform_filter(alt.FieldEqualPredicate(field="metric", equal=metric))
            .mark_line(style="trajectory", point=alt.OverlayMarkDef(size=look.marker**2 / 5))
            .encode(
                x=alt.X(
                    "step:Q",
                    scale=alt.Scale(type="log", nice=False, padding=4),
                    axis=alt.Axis(tickCount=4, format="~s"),
                ),
                y=alt.Y("value:Q", scale=_scale(values), title=column_title(content, metric)),
                detail="label:N",
                color=colour,
                tooltip=hover(
                    ("label", "network", ""),
                    ("family", "family", ""),
                    ("step", "step", "d"),
                    ("value", metric, ".4~g"),
                ),
            )
            .properties(width=width, height=int(0.7 * width))
        )
        panels.append(panel if panels else panel.add_params(*switch))
    return alt.concat(*panels, columns=look.columns).resolve_scale(color="shared")


def _scale(values: pl.Series) -> alt.Scale:
    """Logarithmic where the values span more than a factor of twenty."""
    low, high = values.quantile(0.0), values.quantile(1.0)
    if low is not None and high is not None and 0 < low < high / 20:
        return alt.Scale(type="log", nice=False)
    return alt.Scale(zero=False)
