"""Networks as points: the primary pair, the outcomes, and any column against any other."""

from __future__ import annotations

import functools
import json
import operator
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import altair as alt
import polars as pl

from flatscale.report.charts.colouring import Colouring
from flatscale.report.charts.encodings import (
    column_axis,
    column_title,
    hover,
    named,
    network_hover,
)
from flatscale.report.charts.frames import (
    FAMILY,
    NAME,
    OWN_FAMILY,
    axis_keys,
    column_keys,
    parts_in_order,
)
from flatscale.report.charts.look import Look
from flatscale.report.content.report_content import ONE_FAMILY, Content


def scatter(content: Content, frame: pl.DataFrame, look: Look) -> alt.TopLevelMixin:
    """The primary pair with error bars and robust line."""
    colouring = Colouring.of(content, look)
    panel = _panel(content, frame, colouring, content.primary)
    across = look.across(panel, 0.68 * look.width if look.paper else 400)
    return across.properties(usermeta={"facets": colouring.usermeta})


def linked(content: Content, frame: pl.DataFrame, look: Look) -> alt.TopLevelMixin | None:
    """The primary pair and its x against outcomes, in panels that a brush links."""
    x, y = content.primary
    outcomes = _linked(content)
    if not outcomes:
        return None
    pairs = [(x, y), *((x, outcome) for outcome in outcomes)]
    # A finger that scrolls would draw brushes, so a phone has none.
    brushes = [
        alt.selection_interval(name=f"brush{i}") for i in range(len(pairs) * (look.columns > 1))
    ]
    colouring = Colouring.of(content, look)
    panels = []
    for index, pair in enumerate(pairs):
        here = brushes[index : index + 1]
        panels.append(_panel(content, frame, colouring, pair, brushes, here, first=not index))
    columns = min(look.columns, len(panels))
    width = look.panel(columns)
    sized = [panel.properties(width=width, height=int(0.8 * width)) for panel in panels]
    return alt.concat(*sized, columns=columns).resolve_scale(color="shared", shape="shared")


def _panel(
    content: Content,
    frame: pl.DataFrame,
    colouring: Colouring,
    pair: tuple[str, str],
    brushes: Sequence[alt.Parameter] = (),
    here: Sequence[alt.Parameter] = (),
    *,
    first: bool = True,
) -> Any:
    """One pair as points; the first panel, of the primary pair, has bars, line and the switch."""
    across, up = pair
    points = colouring.shown(_networks(frame, colouring.look)).encode(
        column_axis(alt.X, content, across),
        column_axis(alt.Y, content, up),
        tooltip=network_hover(content, pair),
        **_picked_out(brushes),
        **colouring.encoding(),
    )
    layers: list[Any] = []
    if first:
        layers = [*_line(content), *_error_bars(content, colouring, brushes)]
        points = points.add_params(*colouring.parameters)
    return alt.layer(*layers, points.add_params(*here))


def linked_note(content: Content) -> str:
    """Which outcomes stand beside the pair on a screen."""
    return f" Outcomes: {', '.join(_linked(content))}."


def _linked(content: Content) -> tuple[str, ...]:
    keys = column_keys(content)
    return tuple(n for n in content.outcomes if n in keys and n not in content.primary)[:3]


def _networks(frame: pl.DataFrame, look: Look) -> alt.Chart:
    return named("trials").mark_point(style="network", size=look.marker_area(frame.height))


def _picked_out(brushes: Sequence[alt.Parameter]) -> dict[str, Any]:
    """Full strength inside every brush that is drawn, faint elsewhere."""
    if not brushes:
        return {}
    inside_all = functools.reduce(operator.and_, brushes)
    return {"opacity": alt.condition(inside_all, alt.value(1), alt.value(1 / 8))}


def _line(content: Content) -> list[alt.Chart]:
    if content.of_primary("line_band").is_empty():
        return []
    x = alt.X("x:Q")
    band = named("line").mark_area(style="band").encode(x=x, y=alt.Y("low:Q"), y2="high")
    return [band, named("line").mark_line(style="line").encode(x=x, y=alt.Y("y:Q"))]


def _error_bars(
    content: Content, colouring: Colouring, brushes: Sequence[alt.Parameter]
) -> list[alt.Chart]:
    x, y = content.primary
    keys = column_keys(content)
    # As channels, not as a style: a style would enter the legend that the points share with the
    # bars, and Vega-Lite then drops its switch.
    faint = {"strokeWidth": alt.value(0.8 * colouring.look.hair), "strokeOpacity": alt.value(0.55)}
    bars = []
    for column, other, channels in (
        (x, y, (alt.X, alt.X2, alt.Y)),
        (y, x, (alt.Y, alt.Y2, alt.X)),
    ):
        if f"{column}__std_error" not in content.rows.columns:
            continue
        along, end, across = channels
        low, high = f"{keys[column]}_low", f"{keys[column]}_high"
        drawn = f"isValid(datum.{low}) && isValid(datum.{high})"
        # A bar that would reach zero or below has no lower end on a log axis.
        drawn += f" && datum.{low} > 0" if column in content.log else ""
        bar = colouring.shown(named("trials")).transform_filter(drawn).mark_rule()
        ends = along(f"{low}:Q"), end(high), across(f"{keys[other]}:Q")
        same = colouring.encoding("color")
        bars.append(bar.encode(*ends, **same, **faint, **_picked_out(brushes)))
    return bars


def outcomes(content: Content, frame: pl.DataFrame, look: Look) -> alt.VConcatChart | None:
    """The primary metrics against every outcome, coloured by the first varied hyperparameter."""
    keys = column_keys(content)
    metrics = [name for name in content.primary if name not in content.outcomes and name in keys]
    predicted = [name for name in content.outcomes if name in keys][:3]
    numbers = (name for name in content.hyperparameters if name in keys)
    colour = next((name for name in numbers if frame[keys[name]].count()), None)
    if not metrics or not predicted or colour is None:
        return None
    width = look.panel(len(predicted))
    tint = alt.Color(
        f"{keys[colour]}:Q",
        scale=_tints(frame[keys[colour]]),
        legend=alt.Legend(title=column_title(content, colour), titleLimit=0),
    )
    rows = []
    for metric in metrics:
        row = [
            _networks(frame, look)
            .encode(column_axis(alt.X, content, metric), column_axis(alt.Y, content, outcome), tint)
            .properties(width=width, height=1.7 * 72)
            for outcome in predicted
        ]
        rows.append(alt.hconcat(*row))
    return alt.vconcat(*rows)


def _tints(values: pl.Series) -> alt.Scale:
    low, high = values.quantile(0.0), values.quantile(1.0)
    is_log = low is not None and high is not None and 0 < low < high / 5
    return alt.Scale(scheme="viridis", type="log" if is_log else "linear")


def explorer(content: Content, frame: pl.DataFrame, look: Look) -> alt.TopLevelMixin | None:
    """Choose x, y and the axis of the design that colours the networks from lists."""
    keys, axes = column_keys(content), axis_keys(content)
    if len(keys) < 2:
        return None
    outcome = next((name for name in content.outcomes if name in keys), content.primary[1])
    logs = {keys[name] for name in content.log if name in keys}
    coloured = dict(axes) or {ONE_FAMILY: FAMILY}
    orders = {key: parts_in_order(content, name) for name, key in axes.items()}
    place = f"indexof({json.dumps(orders)}[colour] || [], datum.c)"
    part = alt.selection_point(name="part", fields=["c"], bind="legend")
    chart = (
        _networks(frame, look)
        .transform_calculate(x=_chosen("across", logs), y=_chosen("up", logs), c="datum[colour]")
        .transform_calculate(place=place)
        .transform_filter("isValid(datum.x) && isValid(datum.y)")
        .encode(
            x=alt.X("x:Q", scale=alt.Scale(zero=False), title=None),
            y=alt.Y("y:Q", scale=alt.Scale(zero=False), title=None),
            color=alt.Color(
                "c:O",
                sort=alt.EncodingSortField(field="place", op="min"),
                scale=alt.Scale(scheme="viridis"),
                legend=alt.Legend(title=None, columns=look.columns, labelLimit=0),
            ),
            opacity=alt.condition(part, alt.value(1), alt.value(1 / 12)),
            tooltip=hover(
                (NAME, "network", ""),
                (OWN_FAMILY, "family", ""),
                ("x", "across", ".4~g"),
                ("y", "up", ".4~g"),
                ("c", "colour", ""),
            ),
        )
        .add_params(
            _choice("across", keys, keys[content.primary[0]]),
            _choice("up", keys, keys[outcome]),
            _choice("colour", coloured, next(iter(coloured.values()))),
            part,
        )
        .properties(title=_title_of_choices(content, logs, coloured, look))
    )
    return look.across(chart, 0.62 * look.width if look.columns == 1 else 400)


def _choice(name: str, options: Mapping[str, str], start: str) -> alt.Parameter:
    """A list to choose from: titles shown, keys meant."""
    listed = list(options.values())
    bind = alt.binding_select(options=listed, labels=list(options), name=f"{name}: ")
    return alt.param(name=name, value=start, bind=bind)


def _chosen(name: str, logs: Collection[str]) -> str:
    """The value of the chosen column, as log10 where the study declares it."""
    listed = "[" + ",".join(f"'{key}'" for key in sorted(logs)) + "]"
    log10 = f"datum[{name}] > 0 ? log(datum[{name}]) / LN10 : null"
    return f"indexof({listed}, {name}) >= 0 ? ({log10}) : datum[{name}]"


def _title_of_choices(
    content: Content, logs: Collection[str], coloured: Mapping[str, str], look: Look
) -> alt.TitleParams:
    """What is drawn now; in three lines on a phone."""
    titles = {
        key: f"log10 {name}" if key in logs else column_title(content, name)
        for name, key in column_keys(content).items()
    }
    # JSON is a literal of Vega's expressions, too: no name can end the string it stands in.
    table = json.dumps(titles)
    names = json.dumps({key: name for name, key in coloured.items()})
    lines = f"[{table}[up] + ' against', {table}[across], 'coloured by ' + {names}[colour]]"
    said = alt.ExprRef(expr=f"join({lines}, ' ')" if look.columns > 1 else lines)
    return alt.TitleParams(text=said)
