"""Where a figure is drawn, and how it looks there: on a desk, on a phone, in a paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

# Okabe & Ito (2008), https://jfly.uni-koeln.de/color/, without its black and its pale yellow,
# which vanishes on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5B5B5B")
INK, MUTED, RULE, ACCENT, WARN = "#1a1a1a", "#6b6b6b", "#d0d0d0", "#0072B2", "#D55E00"

SHAPES = (
    *("circle", "square", "triangle-up", "diamond", "cross"),
    *("triangle-down", "triangle-right", "triangle-left"),
)

SCREEN_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
# vl-convert brings Liberation Sans with it and embeds it, so a PDF looks the same wherever it is
# made; Arial and Helvetica have the same widths where an SVG is opened.
PAPER_FONT = "Liberation Sans, Arial, Helvetica, sans-serif"

INCH = 72
_LETTER = 0.56
"""Mean width of a letter, in heights."""
_NAME = 26
"""Letters of a name that a legend shows."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """One place where figures stand; lengths are CSS pixels on a screen and points on paper.

    Attributes:
        width: of the whole figure. A screen's is what charts are laid out for; there they follow
            their container.
        letters: height of the letters of labels; titles are a little larger.
        marker: diameter of a network's marker.
        line: width of a line that carries an estimate.
        row: height of a row where every family or metric has one.
        names: width that the names down the left side may take.
        columns: panels side by side where a figure has many.
        paper: whether it is printed, so that nothing can be pointed at.
    """

    width: float
    letters: float
    marker: float
    line: float
    row: float
    names: float
    columns: int
    paper: bool = False

    @property
    def hair(self) -> float:
        """Width of the thinnest lines."""
        return 0.6 if self.paper else 1.0

    def panel(self, columns: int) -> int:
        """Width of one of several panels side by side, each with an axis of its own."""
        return int(self.width / columns - 5.6 * self.letters)

    def marker_area(self, num_networks: int) -> float:
        """Area of a network's marker: in a crowd smaller, down to two thirds as wide."""
        return self.marker**2 * min(1.0, max(0.4, (150 / max(num_networks, 1)) ** 0.5))

    def legend_columns(self, names: Sequence[str]) -> int:
        """Entries of a legend that fit beside each other when it is filled row by row."""
        widths = [(min(len(name), _NAME) * _LETTER + 3) * self.letters for name in names]
        available = min(self.width, 720)
        fitting = (
            columns
            for columns in range(len(names), 1, -1)
            if sum(max(widths[start::columns]) for start in range(columns)) <= available
        )
        return next(fitting, 1)

    def across(self, chart: Any, height: float) -> alt.TopLevelMixin:
        """A chart of one panel, as wide as its place."""
        sized: alt.TopLevelMixin = chart.properties(
            width=self.width if self.paper else "container",
            height=height,
            autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
        )
        return sized


WIDE = Look(width=980, letters=11, marker=8.4, line=2, row=24, names=210, columns=3)
MIDDLE = Look(width=400, letters=11, marker=8, line=2, row=24, names=150, columns=2)
NARROW = Look(width=320, letters=11, marker=7.5, line=2, row=24, names=115, columns=1)
COLUMN = Look(
    width=3.3 * INCH, letters=7, marker=4.2, line=0.9, row=12.5, names=96, columns=1, paper=True
)
PAGE = Look(
    width=6.9 * INCH, letters=7, marker=4.2, line=0.9, row=12.5, names=110, columns=3, paper=True
)
"""A desk, half of it, a phone; one column of two-column proceedings and both."""


def theme(look: Look) -> dict[str, Any]:
    """Vega-Lite's configuration for a look; charts name its styles and hold no sizes."""
    em, hair = look.letters, look.hair
    title = {"titleColor": INK, "titleFontWeight": "normal", "titleFontSize": em + 1}
    return {
        "font": PAPER_FONT if look.paper else SCREEN_FONT,
        "background": "white" if look.paper else "transparent",
        "padding": {"left": 2, "top": 2, "bottom": 2, "right": 1.6 * em},
        "aria": not look.paper,
        "view": {"stroke": None},
        "concat": {"spacing": 1.4 * em},
        "axis": {
            **title,
            "labelColor": INK if look.paper else MUTED,
            "labelFontSize": em,
            "grid": not look.paper,
            "gridColor": "#efefef",
            "domainColor": MUTED if look.paper else RULE,
            "tickColor": MUTED if look.paper else RULE,
            "domainWidth": hair,
            "tickWidth": hair,
            "tickSize": 0.45 * em,
            "titlePadding": 0.5 * em,
            "labelPadding": 0.25 * em,
            "tickCount": 5,
            "labelFlush": False,
        },
        "axisDiscrete": {
            "labelLimit": look.names,
            "labelColor": INK,
            "ticks": False,
            "domain": False,
            "grid": False,
            "labelPadding": 0.5 * em,
        },
        "legend": {
            **title,
            "labelFontSize": em,
            "labelLimit": _NAME * _LETTER * em,
            "labelColor": INK,
            "symbolSize": (1.1 * look.marker) ** 2,
            "symbolStrokeWidth": 0.5,
            "unselectedOpacity": 0.25,
            "orient": "bottom",
            "offset": 0.9 * em,
            "columnPadding": 0.9 * em,
            "rowPadding": 0.25 * em,
            "gradientLength": 15 * em,
            "gradientThickness": em,
        },
        "title": {"fontSize": em + 1, "fontWeight": "normal", "color": INK},
        "style": _marks(look),
    }


def _marks(look: Look) -> dict[str, Any]:
    """The named styles of marks: what a chart's `style` means in a look."""
    em, line, hair = look.letters, look.line, look.hair
    dot = {"filled": True, "opacity": 1, "size": (0.9 * look.marker) ** 2}
    return {
        # Opacity of the fill, not of the mark: a PDF then needs no group for every marker.
        "network": {
            "filled": True,
            "opacity": 1,
            "fillOpacity": 0.85,
            "stroke": "white",
            "strokeWidth": 0.5 * hair,
        },
        "band": {"fillOpacity": 0.14, "opacity": 1, "color": INK},
        "line": {"strokeWidth": 0.75 * line, "color": INK},
        "trajectory": {"strokeWidth": 0.6 * line, "strokeOpacity": 0.6},
        "interval": {"strokeWidth": line},
        "estimate": dot,
        "departure": {**dot, "size": (0.8 * look.marker) ** 2, "fillOpacity": 0.5},
        "flagged": {**dot, "shape": "triangle-up", "color": WARN},
        "reference": {"strokeWidth": hair, "color": MUTED},
        "dashed": {"strokeWidth": hair, "color": MUTED, "strokeDash": [3 * hair, 2 * hair]},
        "each": {
            "thickness": 1.5 * hair,
            "size": 0.6 * look.row,
            "opacity": 1,
            "fillOpacity": 0.55,
        },
        "significant": {**dot, "size": (0.3 * em) ** 2},
        "value": {"fontSize": em},
        "remark": {"fontSize": em, "color": WARN},
    }
