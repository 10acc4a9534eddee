"""How the measuring went: bounds, estimators, and metrics over training."""

from __future__ import annotations

import altair as alt
import polars as pl

from flatscale.report.charts.chart import NARROW, Chart, family_encoding, family_switch, to_spec
from flatscale.report.charts.palette import ACCENT, COLOURS, INK, MUTED
from flatscale.report.content import frames
from flatscale.report.content.content import Content


def bounds_chart(content: Content) -> Chart | None:
    """log10 of bound over metric for every network and bound."""
    ratios = content.bounds.drop_nulls("log10_ratio")
    if ratios.is_empty():
        return None
    order = ratios.group_by("bound").agg(pl.col("log10_ratio").median()).sort("log10_ratio")

    def draw(width: int) -> alt.TopLevelMixin:
        base = alt.Chart(alt.NamedData(name="bounds")).encode(
            y=alt.Y(
                field="bound",
                type="nominal",
                sort=order["bound"].to_list(),
                title=None,
                axis=alt.Axis(ticks=False, domain=False, grid=False, labelColor=INK),
            )
        )
        broken = "datum.violations > 0 || datum.log10_ratio < -1e-9"
        ticks = base.mark_tick(thickness=1.5, size=14).encode(
            x=alt.X(field="log10_ratio", type="quantitative", title="log10 (bound / metric)"),
            color=alt.condition(broken, alt.value(COLOURS[1]), alt.value(MUTED)),
            opacity=alt.value(0.55),
            tooltip=[
                alt.Tooltip(field="name", type="nominal", title="network"),
                alt.Tooltip(field="bound", type="nominal", title="bound"),
                alt.Tooltip(
                    field="log10_ratio", type="quantitative", title="log10 ratio", format=".3f"
                ),
                alt.Tooltip(field="violations", type="quantitative", title="violations"),
            ],
        )
        middle = base.mark_point(filled=True, size=70, color=ACCENT, opacity=1).encode(
            x=alt.X(aggregate="median", field="log10_ratio", type="quantitative")
        )
        tight = (
            alt.Chart(alt.InlineData(values=[{"zero": 0}]))
            .mark_rule(color=INK)
            .encode(x=alt.X(field="zero", type="quantitative"))
        )
        return alt.layer(tight, ticks, middle).properties(width=width, height=alt.Step(28))

    return Chart(
        key="bounds",
        title="How loose the bounds are",
        caption="One tick a network, blue dot the median. 0 is tight, 1 means the bound is ten "
        "times the metric; left of 0 (orange) the inequality fails.",
        wide=to_spec(draw(600)),
        narrow=to_spec(draw(NARROW - 70)),
    )


def convergence_chart(content: Content) -> Chart | None:
    """Relative standard error of each metric."""
    frame = frames.convergence(content)
    if frame.is_empty():
        return None

    def draw(width: int) -> alt.TopLevelMixin:
        base = alt.Chart(alt.NamedData(name="convergence")).encode(
            y=alt.Y(
                field="metric",
                type="nominal",
                sort=frame["metric"].to_list(),
                title=None,
                axis=alt.Axis(
                    ticks=False, domain=False, grid=False, labelColor=INK, labelLimit=150
                ),
            ),
            color=alt.condition(
                "datum.num_unconverged > 0", alt.value(COLOURS[1]), alt.value(ACCENT)
            ),
            tooltip=[
                alt.Tooltip(field="metric", type="nominal"),
                alt.Tooltip(field="median", type="quantitative", title="median", format=".2%"),
                alt.Tooltip(
                    field="low", type="quantitative", title="10th percentile", format=".2%"
                ),
                alt.Tooltip(
                    field="high", type="quantitative", title="90th percentile", format=".2%"
                ),
                alt.Tooltip(field="num_unconverged", type="quantitative", title="unconverged"),
                alt.Tooltip(field="num_trials", type="quantitative", title="networks"),
            ],
        )
        scale = alt.Scale(type="log")
        axis = alt.Axis(format="~%", tickCount=4)
        title = "standard error / value"
        rule = base.mark_rule(strokeWidth=2).encode(
            x=alt.X(field="low", type="quantitative", scale=scale, axis=axis, title=title),
            x2=alt.X2(field="high"),
        )
        dots = base.mark_point(filled=True, size=70, opacity=1).encode(
            x=alt.X(field="median", type="quantitative", scale=scale, axis=axis, title=title)
        )
        return alt.layer(rule, dots).properties(width=width, height=alt.Step(22))

    return Chart(
        key="convergence",
        title="How precisely each metric is measured",
        caption="Standard error relative to the value: median and 10th to 90th percentile over "
        "networks. Orange: the estimator did not reach its tolerance for at least one network.",
        wide=to_spec(draw(600)),
        narrow=to_spec(draw(NARROW - 70)),
    )


def trajectories_chart(content: Content) -> Chart | None:
    """Each measured quantity over training, one line a network."""
    frame = frames.trajectories(content)
    if frame.is_empty():
        return None
    metrics = frame["metric"].unique(maintain_order=True).to_list()

    def draw(width: int, columns: int) -> alt.TopLevelMixin:
        shown = family_switch(content.shown_families)
        look = family_encoding(content.shown_families, columns=2 * columns)
        panels = []
        for index, metric in enumerate(metrics):
            scale = _trajectory_scale(frame.filter(pl.col("metric") == metric)["value"])
            lines = (
                alt.Chart(alt.NamedData(name="trajectories"))
                .transform_filter(shown)
                .transform_filter(alt.FieldEqualPredicate(field="metric", equal=metric))
                .mark_line(strokeWidth=1.2, opacity=0.55, point=alt.OverlayMarkDef(size=14))
                .encode(
                    x=alt.X(
                        field="step",
                        type="quantitative",
                        scale=alt.Scale(type="log"),
                        title="step",
                        axis=alt.Axis(tickCount=4),
                    ),
                    y=alt.Y(field="value", type="quantitative", scale=scale, title=metric),
                    detail=alt.Detail(field="label", type="nominal"),
                    color=look["color"],
                    tooltip=[
                        alt.Tooltip(field="label", type="nominal", title="network"),
                        alt.Tooltip(field="family", type="nominal", title="family"),
                        alt.Tooltip(field="step", type="quantitative", title="step"),
                        alt.Tooltip(
                            field="value", type="quantitative", title=metric, format=".4~g"
                        ),
                    ],
                )
                .properties(width=width, height=int(width * 0.7))
            )
            panels.append(lines.add_params(shown) if index == 0 else lines)
        return alt.concat(*panels, columns=columns).resolve_scale(color="shared")

    return Chart(
        key="trajectories",
        title="Over training",
        caption="One line a network, from its first snapshot to its last; steps are on a log "
        "scale. The statistics above use the last snapshot only. Click a family to switch it off.",
        wide=to_spec(draw(255, 3)),
        narrow=to_spec(draw(NARROW - 20, 1)),
    )


def _trajectory_scale(values: pl.Series) -> alt.Scale:
    """Logarithmic where the values span more than a factor of twenty."""
    low, high = values.quantile(0.0), values.quantile(1.0)
    if low is not None and high is not None and 0 < low < high / 20:
        return alt.Scale(type="log", nice=False)
    return alt.Scale(zero=False)
