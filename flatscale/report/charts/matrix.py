"""Every metric with every other: r below the diagonal, Kendall's tau above it."""

from __future__ import annotations

import altair as alt

from flatscale.report.charts.chart import Chart, to_spec
from flatscale.report.charts.palette import INK
from flatscale.report.content import frames
from flatscale.report.content.content import Content


def matrix_chart(content: Content) -> Chart | None:
    """Heat map of both correlations; pairs that survive the correction carry a dot."""
    if frames.matrix(content).is_empty():
        return None
    metrics = frames.matrix_metrics(content)
    return Chart(
        key="matrix",
        title="All metrics with each other",
        caption="Below the diagonal Pearson r, above it Kendall τ; blue goes together, orange "
        "goes opposite. A dot marks q < 0.05 after correction for all pairs. Hover for the "
        "numbers.",
        wide=to_spec(_heat(metrics, min(640, max(260, 44 * len(metrics))))),
        narrow=to_spec(_heat(metrics, max(215, 18 * len(metrics)))),
    )


def _heat(metrics: tuple[str, ...], side: int) -> alt.TopLevelMixin:
    limit = 150 if side > 250 else 85
    axis = alt.Axis(labelLimit=limit, ticks=False, domain=False, grid=False, labelColor=INK)
    base = alt.Chart(alt.NamedData(name="matrix")).encode(
        x=alt.X(
            field="column",
            type="nominal",
            sort=list(metrics),
            title=None,
            axis=alt.Axis(
                labelLimit=limit,
                ticks=False,
                domain=False,
                grid=False,
                labelColor=INK,
                labelAngle=-60,
            ),
        ),
        y=alt.Y(field="row", type="nominal", sort=list(metrics), title=None, axis=axis),
        tooltip=[
            alt.Tooltip(field="row", type="nominal", title="metric"),
            alt.Tooltip(field="column", type="nominal", title="with"),
            alt.Tooltip(field="statistic", type="nominal", title="statistic"),
            alt.Tooltip(field="value", type="quantitative", title="value", format=".3f"),
            alt.Tooltip(field="q_value", type="quantitative", title="q", format=".3f"),
            alt.Tooltip(field="num_trials", type="quantitative", title="networks"),
        ],
    )
    cells = base.mark_rect().encode(
        color=alt.Color(
            field="value",
            type="quantitative",
            scale=alt.Scale(
                domain=[-1, 0, 1], range=["#d55e00", "#ffffff", "#0072b2"], interpolate="rgb"
            ),
            legend=alt.Legend(title="correlation", orient="bottom", gradientLength=160),
        )
    )
    marks = (
        base.transform_filter("isValid(datum.q_value) && datum.q_value < 0.05")
        .mark_point(filled=True, size=14, opacity=0.9)
        .encode(
            color=alt.condition("abs(datum.value) > 0.55", alt.value("#ffffff"), alt.value(INK))
        )
    )
    return alt.layer(cells, marks).properties(width=side, height=side)
