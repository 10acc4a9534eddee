"""Metrics with each other, with their bounds, with their own noise, and over training."""

from __future__ import annotations

import numpy as np
import polars as pl
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from flatscale.report.charts.palette import ACCENT, COLOURS, INK, MUTED, family_styles
from flatscale.report.content import frames
from flatscale.report.content.content import Content
from flatscale.report.figures.style import (
    COLUMN,
    PAGE,
    family_legend,
    label_rows,
    log_scale,
    new_figure,
    shortened,
)

_DIVERGING = LinearSegmentedColormap.from_list("orange-blue", ["#d55e00", "#ffffff", "#0072b2"])
_MAX_LINES = 300


def matrix_figure(content: Content) -> Figure | None:
    """r below the diagonal, tau above it; a dot where q < 0.05."""
    frame = frames.matrix(content)
    if frame.is_empty():
        return None
    names = frames.matrix_metrics(content)
    place = {name: index for index, name in enumerate(names)}
    grid = np.full((len(names), len(names)), np.nan)
    figure, (axis,) = new_figure(*(2 * [min(PAGE, max(COLUMN, 1.1 + 0.2 * len(names)))]))
    for row in frame.iter_rows(named=True):
        i, j = place[row["row"]], place[row["column"]]
        grid[i, j] = row["value"]
        if row["q_value"] is not None and row["q_value"] < 0.05:
            colour = "white" if abs(row["value"]) > 0.55 else INK
            axis.plot(j, i, "o", color=colour, markersize=1.6)
    image = axis.imshow(grid, cmap=_DIVERGING, vmin=-1, vmax=1)
    short = [shortened(name, 22) for name in names]
    axis.set_xticks(range(len(names)), short, rotation=60, ha="right", rotation_mode="anchor")
    axis.set_yticks(range(len(names)), short)
    axis.tick_params(length=0, labelsize=6.5)
    for side in axis.spines.values():
        side.set_visible(False)
    figure.colorbar(image, ax=axis, shrink=0.6, label="Pearson r (below), Kendall τ (above)")
    return figure


def bounds_figure(content: Content) -> Figure | None:
    """log10 of bound over metric: every network, and the median."""
    ratios = content.bounds.drop_nulls("log10_ratio")
    if ratios.is_empty():
        return None
    medians = (
        ratios.group_by("bound").agg(pl.col("log10_ratio").median()).sort("log10_ratio", "bound")
    )
    figure, (axis,) = new_figure(COLUMN, 0.6 + 0.24 * medians.height)
    axis.axvline(0, color=INK, linewidth=0.6)
    broken = (pl.col("violations").fill_null(0) > 0) | (pl.col("log10_ratio") < -1e-9)
    for place, (bound, median) in enumerate(medians.iter_rows()):
        rows = ratios.filter(pl.col("bound") == bound).with_columns(broken.alias("broken"))
        for failed, colour in ((False, MUTED), (True, COLOURS[1])):
            part = rows.filter(pl.col("broken") == failed)
            axis.plot(
                part["log10_ratio"],
                [place] * part.height,
                "|",
                color=colour,
                markersize=7,
                markeredgewidth=0.6,
                alpha=0.6,
            )
        axis.plot([median], [place], "o", color=ACCENT, markersize=3.8)
        count = rows["broken"].sum()
        if count:
            axis.annotate(
                f"violated {count}×",
                (median, place),
                xytext=(0, 6),
                textcoords="offset points",
                fontsize=6,
                color=COLOURS[1],
                ha="center",
            )
    label_rows(axis, medians["bound"].to_list())
    axis.set_xlabel("log10 (bound / metric)")
    return figure


def convergence_figure(content: Content) -> Figure | None:
    """Relative standard error of each metric; orange where an estimator did not converge."""
    frame = frames.convergence(content)
    if frame.is_empty():
        return None
    figure, (axis,) = new_figure(COLUMN, 0.6 + 0.16 * frame.height)
    for place, row in enumerate(frame.iter_rows(named=True)):
        colour = COLOURS[1] if row["num_unconverged"] else ACCENT
        axis.hlines(place, row["low"], row["high"], color=colour, linewidth=1.0)
        axis.plot([row["median"]], [place], "o", color=colour, markersize=3.4)
        if row["num_unconverged"]:
            axis.annotate(
                f"{row['num_unconverged']} unconverged",
                (row["high"], place),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=6,
                color=COLOURS[1],
            )
    label_rows(axis, frame["metric"].to_list())
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(numticks=5))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    axis.margins(x=0.15)
    axis.set_xlabel("standard error / value")
    return figure


def trajectories_figure(content: Content) -> Figure | None:
    """Metrics over training, one line a network, coloured by family."""
    frame = frames.trajectories(content)
    if frame.is_empty():
        return None
    metrics = frame["metric"].unique(maintain_order=True).to_list()
    rows = -(-len(metrics) // 3)
    frame = frame.with_columns(content.shown_family().alias("family"))
    legend = 0.14 * -(-len(content.shown_families) // 5)
    figure, axes = new_figure(PAGE, 1.7 * rows + legend, rows=rows, columns=3)
    styles = family_styles(content.shown_families)
    for axis, metric in zip(axes, metrics, strict=False):
        part = frame.filter(pl.col("metric") == metric)
        lines = part.partition_by("label", maintain_order=True)[:_MAX_LINES]
        for line in lines:
            style = styles.get(line["family"][0])
            axis.plot(
                line["step"],
                line["value"],
                color=style.colour if style else ACCENT,
                linewidth=0.5,
                alpha=0.6,
            )
        axis.set_xscale("log")
        low, high = part["value"].quantile(0.0), part["value"].quantile(1.0)
        if low is not None and high is not None and 0 < low < high / 20:
            log_scale(axis.yaxis)
        axis.set_title(shortened(metric, 30))
        axis.set_xlabel("step")
    for axis in axes[len(metrics) :]:
        axis.set_visible(False)
    family_legend(figure, content.shown_families, columns=5)
    return figure
