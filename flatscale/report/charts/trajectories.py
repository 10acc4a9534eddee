"""Quantities over training: each metric against the steps, and the information plane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

from flatscale.report.charts.colouring import Colouring
from flatscale.report.charts.encodings import column_title, hover, named
from flatscale.report.charts.frames import NAME, shown_metrics
from flatscale.report.charts.look import INK, MUTED, Look
from flatscale.report.content.over_training import ABOUT_INPUT, ABOUT_LABEL
from flatscale.report.content.report_content import Content

PRINTED_PANELS = 15
"""Panels that a page of a paper has room for."""


SAME = {"color": alt.Color("c:N")}
"""The colour of the panels after the first, which share its scale and its legend."""


def trajectories(content: Content, frame: pl.DataFrame, look: Look) -> alt.ConcatChart:
    """A panel a metric, over the same steps; a ring where a network first knows its points."""
    colouring = Colouring.of(content, look)
    metrics = frame["metric"].unique(maintain_order=True).to_list()
    panels: list[Any] = []
    for metric in metrics[: PRINTED_PANELS if look.paper else None]:
        own = frame.filter(pl.col("metric") == metric)
        values = own["value"]
        lines = (
            colouring.shown(_with_axes("trajectories", colouring))
            .transform_filter(alt.FieldEqualPredicate(field="metric", equal=metric))
            .encode(
                x=alt.X(
                    "step:Q",
                    scale=_steps(frame),
                    axis=alt.Axis(tickCount=4, format="~s"),
                ),
                y=alt.Y(
                    "value:Q",
                    scale=_scale(values),
                    title=column_title(content, metric),
                    axis=alt.Axis(format=".4~g"),  # 1e+6: "1,000,000" takes the panel's room
                ),
                detail="label:N",
                tooltip=_hover(("value", metric, ".4~g")),
                **(SAME if panels else colouring.encoding("color")),
            )
        )
        drawn = lines.mark_line(
            style="trajectory", point=alt.OverlayMarkDef(size=look.marker**2 / 5)
        )
        ring = (
            lines.transform_filter("datum.interpolated")
            .mark_point(filled=False, size=look.marker**2, strokeWidth=look.hair)
            .encode(color=alt.value(INK))
        )
        # A layer without a point would have an axis without ends.
        rings = [ring] * own["interpolated"].any()
        layers = [drawn if panels else drawn.add_params(*colouring.parameters), *rings]
        panels.append(alt.layer(*layers))
    return _side_by_side(panels, look).resolve_scale(color="shared")


def trajectories_note(content: Content) -> str:
    """What a reader must know of the lines: which are drawn, and which panels are printed."""
    names, drawn, all_networks = shown_metrics(content)
    says = ""
    if drawn < all_networks:
        says += f" Drawn are {drawn} of {all_networks} networks, evenly over the families."
    if len(names) > PRINTED_PANELS:
        says += f" In print: the first {PRINTED_PANELS} of {len(names)} metrics."
    return says


def information_plane(content: Content, frame: pl.DataFrame, look: Look) -> alt.ConcatChart:
    """A panel a layer: I(T; Y) against I(X; T), a line a network through its snapshots."""
    colouring = Colouring.of(content, look)
    panels: list[Any] = []
    limit = frame["log2_n"].max()
    for layer in frame["layer"].unique(maintain_order=True):
        own = frame.filter(pl.col("layer") == layer)
        path = (
            colouring.shown(_with_axes("information_plane", colouring))
            .transform_filter(alt.FieldEqualPredicate(field="layer", equal=layer))
            .encode(
                x=alt.X(f"{ABOUT_INPUT}:Q", title="I(X; T) [bits]", scale=_room(limit)),
                y=alt.Y(f"{ABOUT_LABEL}:Q", title="I(T; Y) [bits]", scale=_room(None)),
                order="step:Q",
                detail="label:N",
                tooltip=_hover(
                    (ABOUT_INPUT, "I(X; T)", ".3f"),
                    (ABOUT_LABEL, "I(T; Y)", ".3f"),
                    ("phase", "phase", ""),
                ),
                **(SAME if panels else colouring.encoding("color")),
            )
        )
        line = path.mark_line(style="trajectory")
        # Of a path the line says the order; the phase is the marker's: filled while fitting.
        dots = path.mark_point(size=look.marker**2 / 2, strokeWidth=look.hair, opacity=1)
        dots = dots.encode(
            fillOpacity=alt.condition("datum.phase === 'fitting'", alt.value(1), alt.value(0)),
            fill=alt.Fill("c:N") if panels else colouring.encoding("fill")["fill"],
        )
        turn = path.transform_filter("datum.turning").mark_point(
            shape="diamond", filled=False, size=2 * look.marker**2, strokeWidth=look.hair
        )
        most = alt.Chart(alt.InlineData(values=[{"at": limit}])).mark_rule(style="dashed")
        layers = [
            most.encode(x=alt.X("at:Q")),
            line if panels else line.add_params(*colouring.parameters),
            dots,
            *[turn.encode(color=alt.value(INK))] * own["turning"].any(),
        ]
        title = alt.TitleParams(text=f"layer {own['layer'][0]}", color=MUTED)
        panels.append(alt.layer(*layers).properties(title=title))
    return _side_by_side(panels, look).resolve_scale(color="shared", fill="shared")


def _with_axes(data: str, colouring: Colouring) -> alt.Chart:
    """One of the data sets with the axes of each network, which stand on the page once."""
    keys = [axis.key for axis in colouring.axes.values() if axis.key != "family"]
    if not keys:
        return named(data)
    trials = alt.LookupData(data=alt.NamedData(name="trials"), key=NAME, fields=keys)
    return named(data).transform_lookup(lookup="label", from_=trials)


def _hover(*values: tuple[str, str, str]) -> list[alt.Tooltip]:
    return hover(("label", "network", ""), ("family", "family", ""), ("step", "step", "d"), *values)


def _side_by_side(panels: Sequence[Any], look: Look) -> alt.ConcatChart:
    columns = min(look.columns, len(panels))
    width = look.panel(columns)
    sized = [panel.properties(width=width, height=int(0.7 * width)) for panel in panels]
    return alt.concat(*sized, columns=columns)


def _steps(frame: pl.DataFrame) -> alt.Scale:
    """The same steps in every panel; logarithmic where no snapshot is of the initialisation."""
    low, high = (int(float(str(end))) for end in (frame["step"].min(), frame["step"].max()))
    return alt.Scale(type="log" if low > 0 else "symlog", domain=[low, high], nice=False, padding=4)


def _room(limit: Any) -> alt.Scale:
    return alt.Scale(zero=True, domainMax=limit) if limit else alt.Scale(zero=True)


def _scale(values: pl.Series) -> alt.Scale:
    """Logarithmic where the values span more than a factor of twenty."""
    low, high = values.quantile(0.0), values.quantile(1.0)
    if low is not None and high is not None and 0 < low < high / 20:
        return alt.Scale(type="log", nice=False)
    return alt.Scale(zero=False)
