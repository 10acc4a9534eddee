"""Estimates with intervals: families, levels, families left out."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flatscale.report.charts.palette import ACCENT, INK, MUTED
from flatscale.report.content import frames
from flatscale.report.content.content import Content
from flatscale.report.figures.style import COLUMN, label_rows, new_figure


def forest_figure(content: Content) -> Figure | None:
    """Per-family r with intervals, their mean and the prediction for a new family."""
    frame = frames.forest(content)
    if frame.is_empty():
        return None
    figure, (axis,) = new_figure(COLUMN, 0.62 + 0.17 * frame.height)
    _dots(axis, frame.rows(named=True))
    found = content.of_primary("synthesis").drop_nulls("i_squared")
    if found.height:
        axis.set_title(f"I² = {found['i_squared'][0]:.0%}", loc="right", color=MUTED)
    return figure


def levels_figure(content: Content) -> Figure | None:
    """Pooled against within against between."""
    frame = frames.levels(content)
    if frame.is_empty():
        return None
    figure, (axis,) = new_figure(COLUMN, 0.6 + 0.19 * frame.height)
    _dots(axis, frame.rows(named=True))
    return figure


def left_out_figure(content: Content) -> Figure | None:
    """Pooled r without each family, beside r with all of them."""
    frame = frames.left_out(content)
    full = frames.full_r(content)
    if frame.is_empty() or full is None:
        return None
    figure, (axis,) = new_figure(COLUMN, 0.62 + 0.17 * frame.height)
    axis.axvline(full, color=ACCENT, linestyle="--", linewidth=0.8)
    axis.plot(frame["estimate"], range(frame.height), "o", color=INK, markersize=3.5)
    label_rows(axis, frame["family"].to_list())
    axis.set_xlabel("Pearson r without the family")
    axis.margins(x=0.12)
    return figure


def _dots(axis: Axes, rows: list[dict[str, object]]) -> None:
    axis.axvline(0, color=MUTED, linewidth=0.6)
    for place, row in enumerate(rows):
        colour = INK if row["kind"] == "family" else ACCENT
        dashed = row["kind"] == "prediction"
        if row["low"] is not None and row["high"] is not None:
            axis.hlines(
                place,
                float(str(row["low"])),
                float(str(row["high"])),
                color=colour,
                linewidth=1.0,
                linestyle="--" if dashed else "-",
            )
        if not dashed:
            marker = "o" if row["kind"] == "family" else "D"
            axis.plot([float(str(row["estimate"]))], [place], marker, color=colour, markersize=3.6)
    label_rows(axis, [str(row["label"]) for row in rows])
    axis.set_xlim(-1.02, 1.02)
    axis.set_xlabel("Pearson r")
