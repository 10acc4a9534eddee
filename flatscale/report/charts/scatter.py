"""The primary pair, and beside it the outcomes, brushed together."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any

import altair as alt

from flatscale.report.charts.chart import (
    NARROW,
    Chart,
    family_encoding,
    family_switch,
    to_spec,
)
from flatscale.report.charts.points import NAME, OWN_FAMILY, column_keys
from flatscale.report.content.content import Content


def linked_scatter(content: Content) -> Chart:
    """Scatter of the primary pair with error bars and robust line; outcomes in linked panels."""
    x, y = content.primary
    linked = ", ".join(_outcome_panels(content))
    beside = f" The other panels show the same networks against {linked}." if linked else ""
    return Chart(
        key="scatter",
        title=f"{y} against {x}",
        caption=(
            "Each marker is one network; hover to see which. Bars are one standard error of the "
            "measurement, the line is robust to outliers and its band is pointwise. Click a family "
            "in the legend to switch it off or on (statistics do not change)."
            f"{beside} On a wide screen, drag in one panel to pick networks out in all of them."
        ),
        wide=to_spec(_panels(content, wide=True)),
        narrow=to_spec(_panels(content, wide=False)),
    )


def _outcome_panels(content: Content) -> tuple[str, ...]:
    keys = column_keys(content)
    return tuple(n for n in content.outcomes if n in keys and n not in content.primary)[:3]


def _panels(content: Content, *, wide: bool) -> alt.TopLevelMixin:
    """The pair, large, with the outcomes in a column beside it (or all below each other)."""
    x, y = content.primary
    pairs = [(x, y), *((x, outcome) for outcome in _outcome_panels(content))]
    shown = family_switch(content.shown_families)
    brushes = [alt.selection_interval(name=f"brush{i}") for i in range(len(pairs) * wide)]
    look = family_encoding(content.shown_families, columns=4 if wide else 2)
    panels = []
    for index, (across, up) in enumerate(pairs):
        points = _points(content, across, up, look, brushes).transform_filter(shown)
        layers = []
        if index == 0:
            layers = [*_line_layers(content), *_error_bars(content, look["color"], shown, brushes)]
            points = points.add_params(shown)
        points = points.add_params(*brushes[index : index + 1])
        width, height = _panel_size(index, len(pairs), wide=wide)
        panels.append(alt.layer(*layers, points).properties(width=width, height=height))
    if not wide or len(panels) == 1:
        return alt.vconcat(*panels).resolve_scale(color="shared", shape="shared")
    side = alt.vconcat(*panels[1:]).resolve_scale(color="shared", shape="shared")
    return alt.hconcat(panels[0], side).resolve_scale(color="shared", shape="shared")


def _panel_size(index: int, num_panels: int, *, wide: bool) -> tuple[int, int]:
    if not wide:
        return NARROW, 240
    if num_panels == 1:
        return 820, 440
    beside = num_panels - 1
    return (520, 440) if index == 0 else (290, (440 - 55 * (beside - 1)) // beside)


def _points(
    content: Content, x: str, y: str, look: dict[str, Any], brushes: Sequence[alt.Parameter]
) -> alt.Chart:
    keys = column_keys(content)
    return (
        alt.Chart(alt.NamedData(name="trials"))
        .mark_point(filled=True, size=70, stroke="white", strokeWidth=0.5)
        .encode(
            x=axis(alt.X, content, x),
            y=axis(alt.Y, content, y),
            opacity=_picked_out(brushes, 0.85),
            tooltip=tooltips(content, keys, (x, y)),
            **look,
        )
    )


def _picked_out(brushes: Sequence[alt.Parameter], opacity: float) -> Any:
    """Full strength inside every brush that is drawn, faint elsewhere."""
    if not brushes:
        return alt.value(opacity)
    inside_all = functools.reduce(operator.and_, brushes)
    return alt.condition(inside_all, alt.value(opacity), alt.value(opacity / 8))


def axis(channel: Any, content: Content, column: str) -> Any:
    """An axis on the scale used for the statistic."""
    scale = (
        alt.Scale(type="log", nice=False, padding=14)
        if column in content.log
        else alt.Scale(zero=False)
    )
    return channel(
        field=column_keys(content)[column], type="quantitative", scale=scale, title=column
    )


def tooltips(content: Content, keys: dict[str, str], columns: tuple[str, ...]) -> list[alt.Tooltip]:
    """What a hover answers: the network's name, its family, the values shown and its design."""
    shown = [name for name in dict.fromkeys((*columns, *content.hyperparameters)) if name in keys]
    return [
        alt.Tooltip(field=NAME, type="nominal", title="network"),
        alt.Tooltip(field=OWN_FAMILY, type="nominal", title="family"),
        *(
            alt.Tooltip(field=keys[name], type="quantitative", title=name, format=".4~g")
            for name in shown
        ),
    ]


def _line_layers(content: Content) -> list[alt.Chart]:
    if content.of_primary("line_band").is_empty():
        return []
    base = alt.Chart(alt.NamedData(name="line"))
    band = base.mark_area(opacity=0.15, color="#444").encode(
        x=alt.X(field="x", type="quantitative"),
        y=alt.Y(field="low", type="quantitative"),
        y2=alt.Y2(field="high"),
    )
    line = base.mark_line(color="#444", strokeWidth=1.5).encode(
        x=alt.X(field="x", type="quantitative"), y=alt.Y(field="y", type="quantitative")
    )
    return [band, line]


def _error_bars(
    content: Content, colour: alt.Color, shown: alt.Parameter, brushes: Sequence[alt.Parameter]
) -> list[alt.Chart]:
    x, y = content.primary
    keys = column_keys(content)
    base = alt.Chart(alt.NamedData(name="trials")).transform_filter(shown)
    bars = []
    for column, other, channels in ((x, y, "xy"), (y, x, "yx")):
        if f"{column}__std_error" not in content.rows.columns:
            continue
        key = keys[column]
        near, far = (alt.X, alt.X2) if channels == "xy" else (alt.Y, alt.Y2)
        cross = alt.Y if channels == "xy" else alt.X
        drawn = base.transform_filter(f"isValid(datum.{key}_low) && isValid(datum.{key}_high)")
        if column in content.log:
            drawn = drawn.transform_filter(f"datum.{key}_low > 0")
        bars.append(
            drawn.mark_rule().encode(
                near(field=f"{key}_low", type="quantitative"),
                far(field=f"{key}_high"),
                cross(field=keys[other], type="quantitative"),
                colour,
                opacity=_picked_out(brushes, 0.35),
            )
        )
    return bars
