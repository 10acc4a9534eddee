"""Every figure of a report, in the order of its text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.figure import Figure

from flatscale.report.content.content import Content
from flatscale.report.figures.departures import residuals_figure
from flatscale.report.figures.intervals import forest_figure, left_out_figure, levels_figure
from flatscale.report.figures.metrics import (
    bounds_figure,
    convergence_figure,
    matrix_figure,
    trajectories_figure,
)
from flatscale.report.figures.scatter import outcomes_figure, scatter_figure
from flatscale.report.figures.style import STYLE


@dataclass(frozen=True, kw_only=True)
class PaperFigure:
    """One figure: the name of its file, its caption, whether it spans both columns."""

    name: str
    caption: str
    wide: bool
    figure: Figure


@dataclass(frozen=True, kw_only=True)
class _Kind:
    draw: Callable[[Content], Figure | None]
    caption: str
    wide: bool = False


FIGURES: Mapping[str, _Kind] = {
    "scatter": _Kind(
        draw=scatter_figure,
        caption="The primary pair on the scale of its statistic. One marker a network, bars of one "
        "standard error, robust line with pointwise band.",
    ),
    "levels": _Kind(
        draw=levels_figure,
        caption="Pearson r of the primary pair at each level, with 95% intervals; families are the "
        "independent units.",
    ),
    "forest": _Kind(
        draw=forest_figure,
        caption="Pearson r inside each family with 95% intervals, random-effects mean, and "
        "prediction interval for a new family (dashed).",
    ),
    "leave_one_out": _Kind(
        draw=left_out_figure,
        caption="Pooled Pearson r without each family; the dashed line is r with all of them.",
    ),
    "residuals": _Kind(
        draw=residuals_figure,
        caption="Standardised residuals from the robust line by family. Triangles: clusters "
        "flagged by the family scan, with q.",
    ),
    "matrix": _Kind(
        draw=matrix_figure,
        caption="All metrics with each other. Dots: q below 0.05 after correction for all pairs.",
        wide=True,
    ),
    "outcomes": _Kind(
        draw=outcomes_figure,
        caption="The primary metrics against the outcomes, coloured by hyperparameter.",
        wide=True,
    ),
    "bounds": _Kind(
        draw=bounds_figure,
        caption="Tightness of the bounds: log10 of bound over metric, a tick a network, a dot the "
        "median. Left of zero the inequality fails.",
    ),
    "convergence": _Kind(
        draw=convergence_figure,
        caption="Relative standard error of each metric: median and 10th to 90th percentile over "
        "networks.",
    ),
    "trajectories": _Kind(
        draw=trajectories_figure,
        caption="Over training: one line a network, coloured by family.",
        wide=True,
    ),
}
"""The figures by the name of their file."""


def paper_figures(content: Content) -> tuple[PaperFigure, ...]:
    """The figures the content has something for."""
    made = []
    with mpl.rc_context(STYLE):
        for name, kind in FIGURES.items():
            figure = kind.draw(content)
            if figure is not None:
                made.append(
                    PaperFigure(name=name, caption=kind.caption, wide=kind.wide, figure=figure)
                )
    return tuple(made)
