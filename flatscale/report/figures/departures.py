"""Standardised residuals by family with the flagged clusters."""

from __future__ import annotations

import polars as pl
from matplotlib.figure import Figure

from flatscale.report.charts.palette import COLOURS, MUTED
from flatscale.report.content import frames
from flatscale.report.content.content import Content
from flatscale.report.figures.style import COLUMN, label_rows, new_figure
from flatscale.report.words import numbers


def residuals_figure(content: Content) -> Figure | None:
    """One line a family; members of flagged clusters as triangles, with q."""
    frame = frames.residuals(content)
    if frame.is_empty():
        return None
    families = frames.residual_families(content)
    place = {name: index for index, name in enumerate(families)}
    rows = frame.with_columns(
        pl.col("family").replace_strict(place, return_dtype=pl.Int64).alias("place")
    )
    figure, (axis,) = new_figure(COLUMN, 0.65 + 0.2 * len(families))
    for fence in (-3.5, 0.0, 3.5):
        axis.axvline(fence, color=MUTED, linewidth=0.5, linestyle=":" if fence else "-")
    plain = rows.filter(~pl.col("flagged").fill_null(False))
    axis.plot(plain["z"], plain["place"], "o", color=MUTED, markersize=2.6, alpha=0.55, mew=0)
    flagged = rows.filter(pl.col("flagged").fill_null(False))
    axis.plot(flagged["z"], flagged["place"], "^", color=COLOURS[1], markersize=3.8, mew=0)
    farthest = flagged.group_by("place").agg(pl.col("z").max(), pl.col("family_q").min())
    for row in farthest.iter_rows(named=True):
        text = f"q = {numbers.p_value(row['family_q'])}".replace("= <", "<")
        axis.annotate(
            text,
            (row["z"], row["place"]),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            color=COLOURS[1],
            fontsize=6.5,
        )
    label_rows(axis, families)
    axis.margins(x=0.14)
    axis.set_xlabel("standardised residual")
    return figure
