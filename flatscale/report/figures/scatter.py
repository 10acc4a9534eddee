"""Scatter of the primary pair, and metrics against outcomes."""

from __future__ import annotations

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from flatscale.report.charts.palette import ACCENT, INK, family_styles
from flatscale.report.content.content import Content
from flatscale.report.figures.style import (
    COLUMN,
    PAGE,
    family_legend,
    log_scale,
    new_figure,
    shortened,
)


def scatter_figure(content: Content) -> Figure | None:
    """The primary pair on the scale of its statistic, a marker a family, with the robust line."""
    rows = _drawable(content, *content.primary)
    if rows.is_empty():
        return None
    x, y = content.primary
    families = content.shown_families
    height = 2.6 + 0.14 * -(-len(families) // 3)
    figure, (axis,) = new_figure(COLUMN, height)
    _robust_line(axis, content)
    for part, style in _by_family(content, rows):
        axis.errorbar(
            part[x],
            part[y],
            xerr=_errors(part, x, log=x in content.log),
            yerr=_errors(part, y, log=y in content.log),
            linestyle="",
            marker=style[1],
            color=style[0],
            markersize=3.6,
            markeredgecolor="white",
            markeredgewidth=0.3,
            elinewidth=0.5,
            alpha=0.9,
        )
    _scales(axis, content, x, y)
    family_legend(figure, families, columns=3)
    return figure


def outcomes_figure(content: Content) -> Figure | None:
    """The primary metrics against every outcome, coloured by the first varied hyperparameter."""
    metrics = [name for name in content.primary if name not in content.outcomes]
    outcomes = list(content.outcomes[:3])
    colour = next(iter(content.hyperparameters), None)
    if not metrics or not outcomes or colour is None:
        return None
    figure, axes = new_figure(
        PAGE, 1.9 * len(metrics) + 0.3, rows=len(metrics), columns=len(outcomes)
    )
    shades = content.rows[colour].cast(pl.Float64).drop_nulls()
    if shades.is_empty():
        return None
    low, high = float(np.min(shades.to_numpy())), float(np.max(shades.to_numpy()))
    norm = LogNorm(low, high) if 0 < low < high / 5 else Normalize(low, high)
    painted = None
    for axis, (metric, outcome) in zip(
        axes, ((m, o) for m in metrics for o in outcomes), strict=True
    ):
        rows = _drawable(content, metric, outcome).drop_nulls(colour)
        painted = axis.scatter(
            rows[metric],
            rows[outcome],
            c=rows[colour],
            cmap="viridis",
            norm=norm,
            s=9,
            linewidths=0,
        )
        _scales(axis, content, metric, outcome)
    if painted is not None:
        figure.colorbar(painted, ax=axes, label=shortened(colour), shrink=0.8, pad=0.02)
    return figure


def _drawable(content: Content, x: str, y: str) -> pl.DataFrame:
    """Rows whose values exist on the axes' scales."""
    if x not in content.rows.columns or y not in content.rows.columns:
        return content.rows.clear()
    rows = content.rows.drop_nulls([x, y]).filter(pl.col(x).is_finite() & pl.col(y).is_finite())
    for name in {x, y} & set(content.log):
        rows = rows.filter(pl.col(name) > 0)
    return rows


def _by_family(content: Content, rows: pl.DataFrame) -> list[tuple[pl.DataFrame, tuple[str, str]]]:
    if content.family is None:
        return [(rows, (ACCENT, "o"))]
    return [
        (rows.filter(content.shown_family() == name), (style.colour, style.marker))
        for name, style in family_styles(content.shown_families).items()
    ]


def _errors(part: pl.DataFrame, column: str, *, log: bool) -> np.ndarray | None:
    error = f"{column}__std_error"
    if error not in part.columns or part[error].is_null().all():
        return None
    half = part[error].fill_null(0.0).to_numpy()
    # A bar that would reach zero or below has no lower end on a log axis.
    lower = np.where(part[column].to_numpy() - half > 0, half, 0.0) if log else half
    return np.stack([lower, half])


def _robust_line(axis: Axes, content: Content) -> None:
    band = content.of_primary("line_band").drop_nulls(["x_value", "y_value"])
    if band.is_empty():
        return
    log_x, log_y = (name in content.log for name in content.primary)

    def place(column: str, *, log: bool) -> np.ndarray:
        values = band[column].cast(pl.Float64).fill_null(np.nan).to_numpy()
        return np.power(10.0, values) if log else values

    x = place("x_value", log=log_x)
    axis.fill_between(
        x, place("band_low", log=log_y), place("band_high", log=log_y), color=INK, alpha=0.12, lw=0
    )
    axis.plot(x, place("y_value", log=log_y), color=INK, linewidth=0.9)


def _scales(axis: Axes, content: Content, x: str, y: str) -> None:
    for name, one in ((x, axis.xaxis), (y, axis.yaxis)):
        if name in content.log:
            log_scale(one)
    axis.set_xlabel(shortened(x, 40))
    axis.set_ylabel(shortened(y, 40))
