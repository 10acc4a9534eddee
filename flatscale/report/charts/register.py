"""Every figure, declared once for the page and for the paper, in the order of the text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import polars as pl

from flatscale.report.charts import intervals
from flatscale.report.charts.curve_of_choices import specification_curve
from flatscale.report.charts.look import COLUMN, PAGE, Look
from flatscale.report.charts.matrix import matrix
from flatscale.report.charts.scatter import explorer, linked, linked_note, outcomes, scatter
from flatscale.report.charts.trajectories import (
    information_plane,
    trajectories,
    trajectories_note,
)
from flatscale.report.content.report_content import Content


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure.

    Attributes:
        name: its anchor on the page and the name of its files.
        section: the key of the page's chapter it stands in; None if it is for the paper only.
        title: what it shows, in a few words; may name {x} and {y}.
        caption: how to read it, in plain words.
        note: what the caption adds for this content.
        on_page: what one can do with it on the page.
        page_note: what the page's caption adds for this content.
        data: the data set it draws (`flatscale.report.charts.frames`); empty means no figure.
        draw: content, data set and look -> the chart, or None where there is nothing to draw.
        paper: how it is printed; None if it is for the page only.
    """

    name: str
    section: str | None
    title: str
    caption: str
    data: str
    draw: Callable[[Content, pl.DataFrame, Look], Any]
    note: Callable[[Content], str] = lambda content: ""
    on_page: str = ""
    page_note: Callable[[Content], str] = lambda content: ""
    paper: Look | None = COLUMN

    def title_of(self, content: Content) -> str:
        """The title with the names of the primary pair."""
        x, y = content.primary
        return self.title.replace("{y}", y).replace("{x}", x)


COLOURED = (
    " Choose what the colour says below the chart; click a part in the legend to switch it off or "
    "on (statistics do not change)."
)

FIGURES = (
    Figure(
        name="scatter",
        section="primary",
        title="{y} against {x}",
        caption="Each marker is one network, on the scale of the statistic. Bars are one standard "
        "error of the measurement, the line is robust to outliers and its band is pointwise.",
        on_page=" Point at a marker to see which network it is." + COLOURED,
        data="trials",
        draw=scatter,
    ),
    Figure(
        name="levels",
        section="families",
        title="One pair, different questions",
        caption="Pearson r with 95% intervals; over the independent units. All networks: "
        "does the pair go together in this collection? Within families: does it when architecture "
        "is held fixed? Between families: do whole families line up? They need not agree.",
        data="levels",
        draw=partial(intervals.correlations, "levels"),
    ),
    Figure(
        name="forest",
        section="families",
        title="Inside each family",
        caption="Pearson r among the networks of each family, with its 95% interval; larger dots "
        "rest on more networks. Blue: the mean over families. Dashed: where the r of a new family "
        "would fall.",
        note=lambda content: (
            intervals.heterogeneity_note(content) + intervals.partial_note(content, "largest")
        ),
        data="forest",
        draw=partial(intervals.correlations, "forest"),
    ),
    Figure(
        name="leave_one_out",
        section="leave_one_out",
        title="r without each family",
        caption="Pooled r when the named family is left out; the dashed line is r with all "
        "families.",
        note=lambda content: intervals.partial_note(content, "most influential"),
        data="left_out",
        draw=intervals.left_out,
    ),
    Figure(
        name="residuals",
        section="outliers",
        title="Who departs from the line",
        caption="Distance of each network from the robust line, in standard deviations (dashed: "
        "±3.5). Orange triangles are members of a cluster that the family scan flags; q stands "
        "beside its family.",
        data="residuals",
        draw=intervals.residuals,
    ),
    Figure(
        name="specifications",
        section="choices",
        title="Every choice of the analysis",
        caption="Above: r with its 95% interval, one specification a column, smallest first; blue "
        "has p ≤ 0.05, diamonds are the choices declared in advance. Below: what each of them "
        "chose.",
        on_page=" Point at a column for its choices.",
        data="specifications",
        draw=specification_curve,
        paper=PAGE,
    ),
    Figure(
        name="matrix",
        section="pairs",
        title="All metrics with each other",
        caption="Below the diagonal Pearson r, above it Kendall τ; blue goes together, orange "
        "goes opposite. A dot marks q < 0.05 after correction for all pairs.",
        on_page=" Point at a cell for the numbers.",
        data="matrix",
        draw=matrix,
        paper=PAGE,
    ),
    Figure(
        name="outcomes",
        section=None,
        title="Metrics and outcomes",
        caption="The primary metrics against the outcomes, coloured by hyperparameter.",
        data="trials",
        draw=outcomes,
        paper=PAGE,
    ),
    Figure(
        name="linked",
        section="outcomes",
        title="The same networks against the outcomes",
        caption="The primary pair, and its x against the outcomes.",
        on_page=" On a wide screen, drag in one panel to pick networks out in all of them."
        + COLOURED,
        page_note=linked_note,
        data="trials",
        draw=linked,
        paper=None,
    ),
    Figure(
        name="explorer",
        section="outcomes",
        title="Each metric against each outcome",
        caption="Choose the columns below the chart. Columns declared logarithmic are shown as "
        "log10. Colour: where the networks come from in the design, so that a hyperparameter or "
        "another axis behind both can be seen; an axis of many values is cut into five parts.",
        on_page=" Click a part in the legend to see it alone.",
        data="trials",
        draw=explorer,
        paper=None,
    ),
    Figure(
        name="bounds",
        section="bounds",
        title="How loose the bounds are",
        caption="One tick a network, blue dot the median. 0 is tight, 1 means the bound is ten "
        "times the metric; left of 0 (orange) the inequality fails.",
        data="bounds",
        draw=intervals.bounds,
    ),
    Figure(
        name="convergence",
        section="measuring",
        title="How precisely each metric is measured",
        caption="Standard error relative to the value: median and 10th to 90th percentile over "
        "networks. Orange: the estimator did not reach its tolerance for at least one network.",
        data="convergence",
        draw=intervals.convergence,
    ),
    Figure(
        name="trajectories",
        section="training",
        title="Over training",
        caption="One line a network, from its first snapshot to its last, a panel a metric, over "
        "the same steps. A ring: the first snapshot of a network that knows its training set by "
        "heart (a training accuracy of 1, or a training loss that has reached stop_loss). The "
        "statistics use the last snapshot only.",
        note=trajectories_note,
        on_page=COLOURED,
        data="trajectories",
        draw=trajectories,
        paper=PAGE,
    ),
    Figure(
        name="information_plane",
        section="information",
        title="The information plane",
        caption="What the binned units of a layer say of the label, against what they say of the "
        "input; a line a network through its snapshots, a panel a layer (named by the linear layer "
        "that reads it). Filled dots: fitting; open ones: compression; a diamond is the turning "
        "point. Dashed: log2 n, where every point has bins of its own.",
        on_page=COLOURED,
        data="information_plane",
        draw=information_plane,
        paper=PAGE,
    ),
)
