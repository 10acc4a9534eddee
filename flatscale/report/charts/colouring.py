"""The colour of a network: its family, or any axis of the design, chosen on the page."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from flatscale.report.charts.frames import FAMILY, axis_keys, parts_in_order
from flatscale.report.charts.look import COLOURS, SHAPES, Look
from flatscale.report.content.report_content import ONE_FAMILY, Content

# Van der Walt & Smith's viridis (matplotlib, CC0), at ten equal steps.
_VIRIDIS = ("440154", "482878", "3e4989", "31688e", "26828e", "1f9e89", "35b779", "6ece58",
            "b5de2b", "fde725")  # fmt: skip
_LAST = 0.92
"""Where viridis ends here: its yellow vanishes on white."""


def family_styles(families: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and shape of each family, in order; no two of the first 56 share both."""
    return {
        family: (COLOURS[index % len(COLOURS)], SHAPES[index % len(SHAPES)])
        for index, family in enumerate(dict.fromkeys(families))
    }


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The parts of one axis, in the order of a legend, and whether they are numbers."""

    key: str
    parts: tuple[str, ...]
    ordered: bool

    def styles(self) -> list[tuple[str, str]]:
        """Colour and shape of each part: words differ in both, numbers run from dark to light."""
        if not self.ordered:
            return list(family_styles(self.parts).values())
        last = max(len(self.parts) - 1, 1)
        return [(_viridis(_LAST * place / last), "circle") for place in range(len(self.parts))]


def axes_of(content: Content) -> dict[str, Parts]:
    """Every axis that can be told apart: the family, where there are some, and then the design's.

    There is one part only, `all networks`, where nothing is varied.
    """
    axes: dict[str, Parts] = {}
    if len(content.shown_families) > 1:
        name = content.family or "family"
        axes[name] = Parts(key=FAMILY, parts=content.shown_families, ordered=False)
    for name, key in axis_keys(content).items():
        if name not in axes:
            axes[name] = Parts(
                key=key,
                parts=tuple(parts_in_order(content, name)),
                ordered=content.rows[name].dtype.is_numeric(),
            )
    families = content.shown_families or (ONE_FAMILY,)
    return axes or {ONE_FAMILY: Parts(key=FAMILY, parts=families, ordered=False)}


@dataclass(frozen=True, kw_only=True)
class Colouring:
    """Colour (and shape) of marks by an axis: on a screen any of them, on paper the first.

    The marks' data must have the axes' keys, as the data set `trials` has.
    """

    axes: Mapping[str, Parts]
    look: Look
    title: str | None

    @classmethod
    def of(cls, content: Content, look: Look) -> Colouring:
        """The colouring of a content's networks."""
        axes = axes_of(content)
        first = next(iter(axes))
        plain = first in (content.family, ONE_FAMILY)
        return cls(axes=axes, look=look, title=None if plain or not look.paper else first)

    @property
    def parameters(self) -> list[alt.Parameter]:
        """The choice of the axis, and which of its parts are shown; none on paper."""
        if self.look.paper or self._alone:
            return []
        chosen = alt.param(
            name="colour",
            value=self._start.key,
            bind=alt.binding_select(
                options=[axis.key for axis in self.axes.values()],
                labels=list(self.axes),
                name="colour: ",
            ),
        )
        return [chosen, self._shown] if len(self.axes) > 1 else [self._shown]

    def shown(self, chart: alt.Chart) -> alt.Chart:
        """The chart with the part of each mark (`c`), of the parts that are switched on."""
        own = chart.transform_calculate(c=f"datum[{self._chosen}]")
        return own if self.look.paper or self._alone else own.transform_filter(self._shown)

    def encoding(self, *channels: str) -> dict[str, Any]:
        """Channels of the part: color and shape, which share a legend, by default; or fill."""
        found = {
            "color": alt.Color("c:N", scale=self._scale(0), legend=self._legend),
            "shape": alt.Shape("c:N", scale=self._scale(1), legend=self._legend),
            "fill": alt.Fill("c:N", scale=self._scale(0), legend=self._legend),
        }
        return {name: found[name] for name in channels or ("color", "shape")}

    @property
    def usermeta(self) -> list[dict[str, Any]]:
        """What the page's script needs to set the chart up once for each part of an axis."""
        return [
            {"name": name, "key": axis.key, "parts": list(axis.parts)}
            for name, axis in self.axes.items()
            if len(axis.parts) > 1
        ]

    @functools.cached_property
    def _shown(self) -> alt.Parameter:
        parts = dict.fromkeys(part for axis in self.axes.values() for part in axis.parts)
        return alt.selection_point(
            name="shown",
            fields=["c"],
            bind="legend",
            toggle="true",
            clear=False,
            value=[{"c": part} for part in parts],
        )

    @property
    def _start(self) -> Parts:
        return next(iter(self.axes.values()))

    @property
    def _alone(self) -> bool:
        return len(self.axes) == 1 and len(self._start.parts) < 2

    @property
    def _chosen(self) -> str:
        choice = not self.look.paper and len(self.axes) > 1
        return "colour" if choice else json.dumps(self._start.key)

    @property
    def _legend(self) -> Any:
        if self._alone:
            return None
        columns = min(self.look.legend_columns(axis.parts) for axis in self.axes.values())
        if self.look.paper or len(self.axes) == 1:
            columns = self.look.legend_columns(self._start.parts)
        return alt.Legend(title=self.title, columns=columns, symbolOpacity=1)

    def _scale(self, part: int) -> alt.Scale:
        """Domain and range of the axis that is chosen, as expressions: colours, or shapes."""
        axes = [self._start] if self.look.paper else list(self.axes.values())
        domains = json.dumps({axis.key: axis.parts for axis in axes})
        by_place: list[dict[str, str]] = []
        for axis in axes:
            for place, style in enumerate(axis.styles()):
                by_place += [{}] * (place == len(by_place))
                by_place[place] = {**by_place[place], axis.key: style[part]}
        none = json.dumps(("transparent", "circle")[part])
        return alt.Scale(
            domain=alt.ExprRef(expr=f"{domains}[{self._chosen}]"),
            range=[
                alt.ExprRef(expr=f"{json.dumps(styles)}[{self._chosen}] || {none}")
                for styles in by_place
            ],
        )


def _viridis(place: float) -> str:
    """The colour at a place in [0, 1] of the scale."""
    at = place * (len(_VIRIDIS) - 1)
    low = min(int(at), len(_VIRIDIS) - 2)
    pairs = zip(*(bytes.fromhex(colour) for colour in _VIRIDIS[low : low + 2]), strict=True)
    return "#" + bytes(round(a + (at - low) * (b - a)) for a, b in pairs).hex()
