"""Standardised residuals from the robust line, family by family."""

from __future__ import annotations

import altair as alt

from flatscale.report.charts.chart import NARROW, Chart, to_spec
from flatscale.report.charts.palette import COLOURS, INK, MUTED
from flatscale.report.content import frames
from flatscale.report.content.content import Content

_FLAGGED = COLOURS[1]


def residuals_chart(content: Content) -> Chart | None:
    """Residuals by family; members of flagged clusters stand out."""
    frame = frames.residuals(content)
    if frame.is_empty():
        return None
    return Chart(
        key="residuals",
        title="Who departs from the line",
        caption="Distance of each network from the robust line, in standard deviations (grey: "
        "±3.5). Orange triangles are members of a cluster that the family scan flags; q stands "
        "beside its family.",
        wide=to_spec(_strip(content, width=600)),
        narrow=to_spec(_strip(content, width=NARROW - 105)),
    )


def _strip(content: Content, *, width: int) -> alt.TopLevelMixin:
    flagged = "datum.flagged"
    tips = [
        alt.Tooltip(field="name", type="nominal", title="network"),
        alt.Tooltip(field="family", type="nominal", title="family"),
        alt.Tooltip(field="z", type="quantitative", title="standardised residual", format=".2f"),
        alt.Tooltip(
            field="family_q", type="quantitative", title="smallest q of its family", format=".3f"
        ),
    ]
    points = (
        alt.Chart(alt.NamedData(name="residuals"))
        .mark_point(filled=True, size=55)
        .encode(
            x=alt.X(field="z", type="quantitative", title="standardised residual"),
            y=alt.Y(
                field="family",
                type="nominal",
                title=None,
                sort=list(frames.residual_families(content)),
                axis=alt.Axis(labelLimit=210 if width > NARROW else 100, grid=True, labelColor=INK),
            ),
            color=alt.condition(flagged, alt.value(_FLAGGED), alt.value(MUTED)),
            shape=alt.condition(flagged, alt.value("triangle-up"), alt.value("circle")),
            opacity=alt.condition(flagged, alt.value(0.95), alt.value(0.45)),
            tooltip=tips,
        )
    )
    labels = (
        alt.Chart(alt.NamedData(name="residuals"))
        .transform_filter(flagged)
        .transform_aggregate(q="min(family_q)", far="max(z)", groupby=["family"])
        .transform_calculate(text="'q = ' + format(datum.q, '.3f')")
        .mark_text(align="left", dx=8, color=_FLAGGED, fontSize=11)
        .encode(
            x=alt.X(field="far", type="quantitative"),
            y=alt.Y(field="family", type="nominal", sort=list(frames.residual_families(content))),
            text=alt.Text(field="text", type="nominal"),
        )
    )
    fences = (
        alt.Chart(alt.InlineData(values=[{"z": z} for z in (-3.5, 0.0, 3.5)]))
        .mark_rule(color=MUTED, strokeDash=[4, 3], opacity=0.6)
        .encode(x=alt.X(field="z", type="quantitative"))
    )
    # Vega warns about a layer without data.
    any_flagged = bool(frames.residuals(content)["flagged"].any())
    layers = [fences, points, labels] if any_flagged else [fences, points]
    return alt.layer(*layers).properties(width=width, height=alt.Step(26))
