"""What every interactive chart shares: its record, its look, its family encoding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import altair as alt

from flatscale.report.charts.palette import INK, MUTED, RULE, family_styles
from flatscale.report.content.content import ONE_FAMILY

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
NARROW = 290
"""Width of a panel on a phone, in CSS pixels."""

_CONFIG: dict[str, Any] = {
    "font": FONT,
    "background": "transparent",
    "view": {"stroke": None},
    "axis": {
        "labelColor": MUTED,
        "titleColor": INK,
        "titleFontWeight": "normal",
        "titleFontSize": 12,
        "labelFontSize": 11,
        "gridColor": "#efefef",
        "domainColor": RULE,
        "tickColor": RULE,
        "tickCount": 5,
    },
    "legend": {
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "labelLimit": 220,
        "symbolSize": 90,
        "unselectedOpacity": 0.25,
        "orient": "bottom",
    },
}


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One figure of the page.

    Attributes:
        key: its anchor on the page.
        title: what it shows, in a few words.
        caption: how to read it, in plain words.
        wide, narrow: Vega-Lite specifications for a desk and for a phone; their data are named and
            stand on the page once.
    """

    key: str
    title: str
    caption: str
    wide: Mapping[str, Any]
    narrow: Mapping[str, Any]


def to_spec(chart: alt.TopLevelMixin) -> dict[str, Any]:
    """A finished specification with the report's look.

    It is not validated against Vega-Lite's schema here, which takes seconds a report; the tests do.
    """
    spec: dict[str, Any] = chart.to_dict(validate=False)
    spec.pop("$schema", None)
    return {**spec, "config": _CONFIG}


def family_encoding(families: tuple[str, ...], *, columns: int) -> dict[str, Any]:
    """Colour and shape channels that give each family its marker, with one merged legend."""
    families = families or (ONE_FAMILY,)
    styles = family_styles(families)
    colours = alt.Scale(domain=list(families), range=[s.colour for s in styles.values()])
    shapes = alt.Scale(domain=list(families), range=[s.shape for s in styles.values()])
    legend = alt.Legend(title=None, columns=columns, symbolOpacity=1)
    return {
        "color": alt.Color(field="family", type="nominal", scale=colours, legend=legend),
        "shape": alt.Shape(field="family", type="nominal", scale=shapes, legend=legend),
    }


def family_switch(families: tuple[str, ...]) -> alt.Parameter:
    """The families that are shown: all at first, and a click in the legend switches one."""
    return alt.selection_point(
        name="shown",
        fields=["family"],
        bind="legend",
        toggle="true",
        clear=False,
        value=[{"family": family} for family in families or (ONE_FAMILY,)],
    )
