"""Estimates with intervals, one a line: families, levels, families left out."""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from flatscale.report.charts.chart import NARROW, Chart, to_spec
from flatscale.report.charts.palette import ACCENT, INK, MUTED
from flatscale.report.content import frames
from flatscale.report.content.content import Content

_WIDE = 560


def forest_chart(content: Content) -> Chart | None:
    """Per-family r, their random-effects mean and the prediction for a new family."""
    frame = frames.forest(content)
    if frame.is_empty():
        return None
    found = content.of_primary("synthesis").drop_nulls("i_squared")
    spread = ""
    if found.height:
        spread = f" {found['i_squared'][0]:.0%} of the differences between them is not noise (I²)."
    return Chart(
        key="forest",
        title="Inside each family",
        caption="Pearson r among the networks of each family, with its 95% interval; larger dots "
        "rest on more networks. Blue: the mean over families. Dashed: where the r of a new "
        "family would fall." + spread + _partial(content, "largest"),
        **_both(lambda width: _intervals("forest", frame, width)),
    )


def levels_chart(content: Content) -> Chart | None:
    """The primary pair pooled, within and between families."""
    frame = frames.levels(content)
    if frame.is_empty():
        return None
    return Chart(
        key="levels",
        title="One pair, different questions",
        caption="All networks: does the pair go together in this collection? Within families: "
        "does it when architecture is held fixed? Between families: do whole families line up? "
        "They need not agree.",
        **_both(lambda width: _intervals("levels", frame, width)),
    )


def left_out_chart(content: Content) -> Chart | None:
    """Pooled r without each family."""
    frame = frames.left_out(content)
    if frame.is_empty():
        return None
    return Chart(
        key="left-out",
        title="Does one family carry it?",
        caption="Pooled r when the named family is left out; the dashed line is r with all "
        "families." + _partial(content, "most influential"),
        **_both(lambda width: _left_out(content, frame, width)),
    )


def _partial(content: Content, which: str) -> str:
    """A sentence where the figure cannot show every family."""
    if len(content.families) <= frames.MAX_ROWS:
        return ""
    return (
        f" Drawn: the {frames.MAX_ROWS} {which} of {len(content.families)} families; all are "
        "in the table."
    )


def _both(make: Any) -> dict[str, dict[str, Any]]:
    return {"wide": to_spec(make(_WIDE)), "narrow": to_spec(make(NARROW - 70))}


def _intervals(name: str, frame: pl.DataFrame, width: int) -> alt.TopLevelMixin:
    base = alt.Chart(alt.NamedData(name=name)).encode(y=_labels(frame["label"].to_list(), width))
    tips = [
        alt.Tooltip(field="label", type="nominal", title="networks of"),
        alt.Tooltip(field="estimate", type="quantitative", title="r", format=".3f"),
        alt.Tooltip(field="low", type="quantitative", title="from", format=".3f"),
        alt.Tooltip(field="high", type="quantitative", title="to", format=".3f"),
        alt.Tooltip(field="num_trials", type="quantitative", title="networks"),
        alt.Tooltip(field="note", type="nominal", title="note"),
    ]
    colour = alt.condition("datum.kind == 'family'", alt.value(INK), alt.value(ACCENT))
    dash = alt.condition("datum.kind == 'prediction'", alt.value([4, 3]), alt.value([1, 0]))
    rule = base.mark_rule(strokeWidth=2).encode(
        x=_correlation("low", "Pearson r"),
        x2=alt.X2(field="high"),
        color=colour,
        strokeDash=dash,
        tooltip=tips,
    )
    dots = (
        base.transform_filter("datum.kind != 'prediction'")
        .mark_point(filled=True, opacity=1)
        .encode(
            x=_correlation("estimate", "Pearson r"),
            size=alt.Size(
                field="num_trials",
                type="quantitative",
                legend=None,
                scale=alt.Scale(range=[30, 180], zero=False),
            ),
            color=colour,
            tooltip=tips,
        )
    )
    layers = alt.layer(_zero(), rule, dots)
    return layers.properties(width=width, height=alt.Step(24))


def _left_out(content: Content, frame: pl.DataFrame, width: int) -> alt.TopLevelMixin:
    full = frames.full_r(content)
    reference = (
        alt.Chart(alt.InlineData(values=[{"r": full}]))
        .mark_rule(color=ACCENT, strokeDash=[5, 3])
        .encode(x=alt.X(field="r", type="quantitative"))
    )
    dots = (
        alt.Chart(alt.NamedData(name="left_out"))
        .mark_point(filled=True, size=80, opacity=1, color=INK)
        .encode(
            y=_labels(frame["family"].to_list(), width, field="family"),
            x=alt.X(
                field="estimate",
                type="quantitative",
                title="Pearson r without the family",
                scale=alt.Scale(zero=False, padding=12),
            ),
            tooltip=[
                alt.Tooltip(field="family", type="nominal", title="without"),
                alt.Tooltip(field="estimate", type="quantitative", title="r", format=".3f"),
                alt.Tooltip(field="shift", type="quantitative", title="shift", format="+.3f"),
                alt.Tooltip(field="num_trials", type="quantitative", title="networks left"),
            ],
        )
    )
    return alt.layer(reference, dots).properties(width=width, height=alt.Step(22))


def _labels(order: list[str], width: int, *, field: str = "label") -> alt.Y:
    limit = 210 if width > NARROW else 100
    return alt.Y(
        field=field,
        type="nominal",
        sort=list(dict.fromkeys(order)),
        title=None,
        axis=alt.Axis(
            labelLimit=limit, ticks=False, domain=False, offset=8, grid=False, labelColor=INK
        ),
    )


def _correlation(field: str, title: str) -> alt.X:
    return alt.X(
        field=field, type="quantitative", title=title, scale=alt.Scale(domain=[-1, 1], clamp=True)
    )


def _zero() -> alt.Chart:
    return (
        alt.Chart(alt.InlineData(values=[{"zero": 0}]))
        .mark_rule(color=MUTED, strokeWidth=1)
        .encode(x=alt.X(field="zero", type="quantitative"))
    )
