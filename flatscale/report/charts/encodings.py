"""Encodings that several figures share: axes, hovers, reference lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import altair as alt
import polars as pl

from flatscale.report.charts.frames import NAME, OWN_FAMILY, axis_keys, column_keys
from flatscale.report.content.report_content import Content


class _Named(alt.Chart):
    """A chart that is put into others at little cost: half of a report's time without it.

    altair copies a chart with all it holds at every level of layers and panels, and looks the
    class of each plain string and condition up in Vega-Lite's whole schema, 5 ms a time.
    """

    def __deepcopy__(self, _: Any) -> Self:
        return self.copy(deep=False)  # encodings, marks and transforms are never changed in place

    def encode(self, *channels: Any, **named_channels: Any) -> Self:
        given = {name: _channel(name, value) for name, value in named_channels.items()}
        return super().encode(*channels, **given)


def _channel(name: str, given: Any) -> Any:
    kind = name[0].upper() + name[1:]
    if isinstance(given, str):
        return getattr(alt, kind)(given)
    return getattr(alt, f"{kind}Value")(**given) if isinstance(given, dict) else given


def named(name: str) -> alt.Chart:
    """A chart of one of the data sets of `flatscale.report.charts.frames`."""
    return _Named(alt.NamedData(name=name))


def hover(*fields: tuple[str, str, str]) -> list[alt.Tooltip]:
    """What a hover answers: (field, title, format), with an empty format for text."""
    return [
        alt.Tooltip(field=field, type="quantitative", title=title, format=digits)
        if digits
        else alt.Tooltip(field=field, type="nominal", title=title)
        for field, title, digits in fields
    ]


def network_hover(content: Content, columns: Sequence[str]) -> list[alt.Tooltip]:
    """The network's name, its family, the values shown and its design."""
    keys = column_keys(content)
    shown = [name for name in dict.fromkeys((*columns, *content.hyperparameters)) if name in keys]
    words = {name: key for name, key in axis_keys(content).items() if name not in keys}
    return hover(
        (NAME, "network", ""),
        (OWN_FAMILY, "family", ""),
        *((keys[name], name, ".4~g") for name in shown),
        *((key, name, "") for name, key in words.items() if name != content.family),
    )


def column_axis(channel: Any, content: Content, column: str) -> Any:
    """An axis on the scale used for the statistic, with the column's name and unit."""
    values = content.rows[column].drop_nulls().cast(pl.Float64)
    is_log = column in content.log
    scale = alt.Scale(type="log", nice=False, padding=10) if is_log else alt.Scale(zero=False)
    return channel(
        field=column_keys(content)[column],
        type="quantitative",
        scale=scale,
        title=column_title(content, column) + (", log scale" if is_log else ""),
        axis=alt.Axis(**_digits(values.filter(values > 0) if is_log else values, is_log=is_log)),
    )


def _digits(values: pl.Series, *, is_log: bool) -> dict[str, Any]:
    """Plain numbers where they are short, else thousands as k, M, G and small ones as powers."""
    low, high = (abs(float(str(end))) for end in (values.min() or 0.0, values.max() or 0.0))
    if max(low, high) >= 1e4:
        return {"format": "~s"}
    if is_log:
        # Vega marks less than a decade at 1, 2, ... 9 alone unless it may have ten marks.
        more = {"tickCount": 10} if 0 < high < 10 * low else {}
        return {"format": "~e" if 0 < low < 1e-3 else "~g", **more}
    return {}


def column_title(content: Content, column: str) -> str:
    """The name of a column, with the unit that the glossary gives it."""
    units = {str(entry["name"]): entry.get("unit") for entry in content.glossary or ()}
    unit = units.get(column)
    return f"{column} [{unit}]" if unit not in (None, "", "1") else column


def rows_of(field: str, order: Sequence[str]) -> alt.Y:
    """One row a name, the first on top."""
    return alt.Y(field=field, type="nominal", sort=list(dict.fromkeys(order)), title=None)


def across_at(*values: float, style: str = "reference", colour: str | None = None) -> alt.Chart:
    """Vertical lines at values of a quantitative x axis."""
    mark: dict[str, Any] = {"style": style} if colour is None else {"style": style, "color": colour}
    lines = alt.Chart(alt.InlineData(values=[{"at": value} for value in values]))
    return lines.mark_rule(**mark).encode(x=alt.X("at:Q"))
